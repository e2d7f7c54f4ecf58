"""What steering does to distributions and to texts, as numbers: pure functions, no model.

Distributions come as logits and are turned into probabilities in float32. What every room measures of
them is in `running.measures`, and found here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor

from ..running.measures import kl, losses, perplexity

__all__ = ["carry", "kl", "losses", "mass", "parting", "perplexity", "repetition"]


def mass(logits: Float[Tensor, "*tokens d_vocab"], ids: Iterable[int]) -> Float[Tensor, "*tokens"]:
    """Probability that the next token is one of `ids`, each counted once, float32."""
    chosen = sorted(set(ids))
    return logits.float().softmax(-1)[..., chosen].sum(-1)


def repetition(ids: Sequence[int], *, n: int = 4) -> float:
    """Share of a text's n-grams that occurred before: 0 is none, near 1 is one phrase over and over.

    seq-rep-n of Welleck et al. (1908.04319): one minus unique n-grams over all n-grams. NaN for a
    text shorter than `n` tokens.

    >>> repetition([1, 2, 3, 4, 5]), repetition([1, 2, 1, 2, 1, 2, 1])
    (0.0, 0.5)
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else math.nan


def carry(ids: Iterable[int], mixing: Iterable[int], base: Iterable[int] = ()) -> float:
    """Share of the mixing input's own tokens that turn up in a completion, from 0 to 1.

    Its own are its distinct tokens that the base input does not have. Frequent words turn up by
    chance: compare with the same share of an unsteered completion. NaN where it has none.

    >>> carry([7, 8, 9], mixing=[1, 8, 9, 5], base=[1])
    0.6666666666666666
    """
    own = set(mixing) - set(base)
    return len(own & set(ids)) / len(own) if own else math.nan


def parting(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token in which two continuations differ; None if they are the same.

    Where one of them ends and the other goes on, they part at that end.

    >>> parting([1, 2, 3], [1, 2, 4]), parting([1, 2], [1, 2, 3]), parting([1], [1])
    (2, 2, None)
    """
    shared = min(len(one), len(other))
    for index in range(shared):
        if one[index] != other[index]:
            return index
    return None if len(one) == len(other) else shared
