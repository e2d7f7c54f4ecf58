"""What a sink scan reads beside a text: several corpora by name, random tokens, repeated tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, nearest
from ..models.adapter import Adapter
from ..tokens import Encoded

__all__ = ["MADE_UP", "NATURAL", "made_up", "named", "wanted"]

NATURAL = "natural"
"""What a single corpus is called in tables."""
MADE_UP = ("random", "repeated")
MOST = 100
"""Made-up sequences at most, the number in Gu et al.; fewer where there are fewer natural ones."""


def named(texts: Any) -> dict[str, Any]:
    """Corpora by name: those of a mapping, or the one there is.

    Raises:
        ArgumentError: an empty mapping, a name that is no string or that of a made-up condition.
    """
    if not isinstance(texts, Mapping):
        return {NATURAL: texts}
    if not texts:
        raise ArgumentError("texts is an empty mapping; name at least one corpus.")
    for name in texts:
        if not isinstance(name, str) or name in MADE_UP:
            raise ArgumentError(
                f"texts has the key {name!r}: a corpus's name is a string other than "
                f"{' and '.join(map(repr, MADE_UP))}."
            )
    return dict(texts)


def wanted(conditions: Any) -> tuple[str, ...]:
    """The made-up conditions that were asked for, in the order of `MADE_UP`.

    Raises:
        ArgumentError: another name.
    """
    given = (conditions,) if isinstance(conditions, str) else conditions
    if not isinstance(given, Sequence):
        raise ArgumentError(f"conditions={conditions!r}: some of {', '.join(MADE_UP)}.")
    for name in given:
        if name not in MADE_UP:
            raise ArgumentError(
                f"conditions={conditions!r}: {', '.join(MADE_UP)}; a corpus of your own goes into "
                f"texts, as a mapping of names.{nearest(str(name), MADE_UP)}"
            )
    return tuple(name for name in MADE_UP if name in given)


def made_up(
    adapter: Adapter, condition: str, *, sequences: int, length: int, bos: bool, seed: int
) -> Iterator[Encoded]:
    """Sequences of `length` tokens: drawn evenly from the vocabulary, or one of them again and again.

    Special tokens are not drawn. Sequences begin with BOS where the texts do; without it the first
    token of a repeated sequence is like all others.
    """
    rng = np.random.default_rng([seed, MADE_UP.index(condition)])
    tokenizer = getattr(adapter.model, "tokenizer", None)
    special = {i for i in getattr(tokenizer, "all_special_ids", ()) if i is not None}
    vocabulary = np.setdiff1d(np.arange(adapter.d_vocab), np.array(sorted(special), int))
    front = (int(adapter.tokenizer.bos_token_id),) if bos else ()
    count = length - len(front)
    for _ in range(min(sequences, MOST)):
        drawn = rng.choice(vocabulary, size=count if condition == "random" else 1)
        yield Encoded((*front, *np.resize(drawn, count).tolist()))
