"""What steering does to distributions and to texts, as numbers: pure functions, no model.

Distributions come as logits and are turned into probabilities in float32. Divergences are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["carry", "kl", "losses", "mass", "parting", "perplexity", "repetition"]


def kl(
    steered: Float[Tensor, "*tokens d_vocab"], plain: Float[Tensor, "*tokens d_vocab"]
) -> Float[Tensor, "*tokens"]:
    """KL(steered ‖ plain) of each token's next-token distribution, in nats, float32.

    The steered distribution weighs the log-ratio: what counts is what the steered model says and the
    plain one would not have said. Equal logits give 0 exactly.
    """
    log_steered = steered.float().log_softmax(-1)
    log_plain = plain.float().log_softmax(-1)
    gap = (log_steered.exp() * (log_steered - log_plain)).sum(-1)
    # A divergence is never negative; rounding may bring a tiny one below zero.
    return gap.clamp(min=0.0)


def losses(
    logits: Float[Tensor, "*tokens d_vocab"], targets: Int[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """`-log p(target)` in nats, float32."""
    scores = logits.float()
    return scores.logsumexp(-1) - scores.gather(-1, targets[..., None])[..., 0]


def perplexity(loss: Any) -> np.ndarray:
    """`exp` of a mean loss in nats, float64; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(loss, dtype=np.float64))


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
