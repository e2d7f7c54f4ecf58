"""Sequences that are run again and again, each time with something else attached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..corpus import Corpus
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..running.batching import progress_bar
from ..tokens import Bos, Encoded, token_strings
from .heads import HeadStatistics

__all__ = ["LENGTH", "Material", "each_run", "material", "sink_mass", "word_names", "words_of"]

LENGTH = 64
"""The window of Gu et al., at which published sink rates are given."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Material:
    """Texts as sequences.

    Attributes:
        rows: the sequences, in the order of the texts.
        documents: which document each of them is a piece of.
        facts: what a result's provenance says of them.
        notes: what a reader of the result should know of them.
    """

    rows: list[Encoded]
    documents: list[int]
    facts: dict[str, Any]
    notes: list[str]


def material(
    adapter: Adapter,
    texts: Any,
    *,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    least: int = 2,
) -> Material:
    """Read texts into sequences of at most `length` tokens; pieces below `least` are left out.

    Raises:
        ArgumentError: see `Corpus`; a document shorter than `least`.
    """
    corpus = Corpus(
        adapter, texts, bos=bos, length=length, longest=LENGTH, limit=limit, column=column,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    windows = list(corpus.windows())
    short = [w for w in windows if w.index == 0 and len(w.ids) < least]
    if short:
        raise ArgumentError(
            f"texts: document {short[0].document} has {len(short[0].ids)} tokens; at least {least} "
            "are needed."
        )
    kept = [window for window in windows if len(window.ids) >= least]
    rows = [Encoded(window.ids) for window in kept]
    facts = {
        "bos": corpus.bos,
        "length": corpus.length,
        "documents": corpus.read.documents,
        "sequences": len(rows),
        "tokens": sum(map(len, rows)),
    }
    return Material(rows, [w.document for w in kept], facts, corpus.notes(corpus.read))


def each_run(
    runs: Sequence[A], measure: Callable[[A], B], *, progress: bool | None
) -> tuple[list[B], bool]:
    """`measure` of each run, and whether Ctrl-C left all of them time to finish."""
    found: list[B] = []
    with progress_bar("run", progress, total=len(runs)) as bar:
        try:
            for run in runs:
                found.append(measure(run))
                bar.update(1)
        except KeyboardInterrupt:
            return found, False
    return found, True


def words_of(adapter: Adapter, words: Any, argument: str = "words") -> tuple[int, ...]:
    """Token ids of words that are one token each; ids are taken as they are.

    Raises:
        ArgumentError: no words; a word of several tokens, with how it was split; an id outside the
            vocabulary; a word twice.
    """
    listed = [words] if isinstance(words, str | int | np.integer) else list(words)
    if not listed:
        raise ArgumentError(f"{argument}=[]: give at least one word.")
    found = tuple(_word(adapter, word, argument) for word in listed)
    if len(set(found)) < len(found):
        raise ArgumentError(f"{argument}: a word is there twice.")
    return found


def _word(adapter: Adapter, word: Any, argument: str) -> int:
    if isinstance(word, int | np.integer) and not isinstance(word, bool):
        if not 0 <= word < adapter.d_vocab:
            raise ArgumentError(
                f"{argument}: token id {word}; this model's vocabulary is 0 to "
                f"{adapter.d_vocab - 1}."
            )
        return int(word)
    if not isinstance(word, str) or not word:
        raise ArgumentError(f"{argument}: {word!r} is neither a word nor a token id.")
    ids = adapter.tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        parts = token_strings(adapter.tokenizer, ids)
        raise ArgumentError(
            f"{argument}: {word!r} is {len(ids)} tokens, {' + '.join(map(repr, parts))}; "
            "give words of one token (most begin with a space)."
        )
    return int(ids[0])


def word_names(adapter: Adapter, ids: Sequence[int]) -> list[str]:
    """Words as strings."""
    return token_strings(getattr(adapter.model, "tokenizer", None), ids)


def sink_mass(read: HeadStatistics, lengths: np.ndarray, massive: np.ndarray) -> np.ndarray:
    """`[row]`: share of all attention that goes to the massive tokens, mean over heads and queries.

    Args:
        read: with attention to every key, `[row layer head key]`.
        lengths: `[row]`.
        massive: bool `[row key]`; False at pads.
    """
    keys = np.arange(read.attention.shape[-1])
    # A mean over the queries from k on, turned back into their sum.
    queries = np.clip(lengths[:, None] - keys, 0, None)
    paid = np.where(massive[:, None, None], read.attention, 0.0) * queries[:, None, None]
    return paid.sum(-1).mean((1, 2)) / lengths
