"""What is read off logits: losses, divergences, perplexities. Pure functions, no model.

Everything is in nats, and in float32 or wider whatever the model's dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["PIECE", "compared", "divergence", "kl", "log_probs", "losses", "perplexity", "ranks"]


PIECE = 8
"""Tokens whose distributions are compared at once on a CPU: they stay in its cache meanwhile."""


def log_probs(logits: Float[Tensor, "*tokens d_vocab"]) -> Float[Tensor, "*tokens d_vocab"]:
    """Log-probabilities of the next token, float32 or wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def divergence(
    edited: Float[Tensor, "*tokens d_vocab"], plain: Float[Tensor, "*tokens d_vocab"]
) -> Float[Tensor, "*tokens"]:
    """KL(edited ‖ plain) of log-probabilities; equal ones give 0 exactly."""
    gap = (edited.exp() * (edited - plain)).sum(-1)
    # A divergence is never negative; rounding may bring a tiny one below zero.
    return gap.clamp(min=0.0)


def kl(
    edited: Float[Tensor, "*tokens d_vocab"], plain: Float[Tensor, "*tokens d_vocab"]
) -> Float[Tensor, "*tokens"]:
    """KL(edited ‖ plain) of each token's next-token distribution, from logits.

    The edited distribution weighs the log-ratio: what counts is what the edited model says and the
    plain one would not have said. Equal logits give 0 exactly.
    """
    return divergence(log_probs(edited), log_probs(plain))


def compared(
    logits: Float[Tensor, "tokens d_vocab"],
    targets: Int[Tensor, " tokens"],
    log_plain: Float[Tensor, "plain d_vocab"],
    place: Int[Tensor, " tokens"],
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """`losses` and KL(edited ‖ plain) of each token, read off the logits together.

    Args:
        logits: of the edited run.
        targets: the tokens that came.
        log_plain: `log_probs` of the plain run's.
        place: which row of `log_plain` each token is compared with.
    """
    size = PIECE if logits.device.type == "cpu" else 64 * PIECE
    loss, gap = [log_plain.new_empty(0)], [log_plain.new_empty(0)]
    for begin in range(0, len(targets), size):
        part = slice(begin, begin + size)
        edited = log_probs(logits[part])
        loss.append(-edited.gather(-1, targets[part, None])[:, 0])
        gap.append(divergence(edited, log_plain[place[part]]))
    return torch.cat(loss), torch.cat(gap)


def losses(
    logits: Float[Tensor, "*tokens d_vocab"], targets: Int[Tensor, "*tokens"]
) -> Float[Tensor, "*tokens"]:
    """`-log p(target)`."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return scores.logsumexp(-1) - scores.gather(-1, targets[..., None])[..., 0]


def ranks(
    logits: Float[Tensor, "*tokens d_vocab"], targets: Int[Tensor, "*tokens"]
) -> Int[Tensor, "*tokens"]:
    """1 for the likeliest token, 2 for the second; equal ones share the better rank."""
    own = logits.gather(-1, targets[..., None])
    return (logits > own).sum(-1) + 1


def perplexity(loss: Any) -> np.ndarray:
    """`exp` of a mean loss in nats, float64; infinite where that overflows."""
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(loss, dtype=np.float64))
