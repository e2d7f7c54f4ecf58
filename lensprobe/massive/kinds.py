"""Kinds of tokens: massive activations sit on the first and, in some models, on delimiters."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from ..tokens import token_strings

__all__ = ["KINDS", "Kinds", "is_delimiter"]

KINDS = ("first", "delimiter", "other")
FIRST, DELIMITER, OTHER = range(len(KINDS))


def is_delimiter(token: str) -> bool:
    """Whether a token only separates: a line break, or nothing but punctuation, spaces aside.

    A token of white space is a delimiter if it breaks a line. Any other token is one if, without
    the space around it, every character is in a Unicode punctuation category (P*): `.`, ` ,`, `."`,
    `。`, but not `$`, `=` or `'s`.
    """
    core = token.strip()
    if not core:
        return any(mark in token for mark in "\n\r\u2028\u2029")
    return all(unicodedata.category(character).startswith("P") for character in core)


class Kinds:
    """The kind of every token of a batch; each id of the vocabulary is decoded at most once."""

    def __init__(self, tokenizer: Any, d_vocab: int) -> None:
        self.tokenizer = tokenizer
        self._known = np.full(d_vocab, -1, np.int8)

    def of(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Indices into `KINDS`, int `[tokens]`. Without a tokenizer no token is a delimiter."""
        for new in np.unique(ids[self._known[ids] < 0]):
            text = "x" if self.tokenizer is None else token_strings(self.tokenizer, [new])[0]
            self._known[new] = DELIMITER if is_delimiter(text) else OTHER
        return np.where(positions == 0, FIRST, self._known[ids])
