"""Losses and divergences of edited runs, whose logits are never all in memory.

The logits of a batch are the largest thing a model computes, and what is read of them here is two
numbers a token. Edited runs therefore end before the final norm, and a few tokens are unembedded at a
time: as many as a matrix product wants, and few enough for an allocator to use the same memory again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.adapter import Adapter
from .measures import compared

__all__ = ["compared_runs", "unembedded", "unembedded_in_pieces"]

TOKENS = 128
"""Tokens that are unembedded at once."""


@torch.no_grad()
def compared_runs(
    adapter: Adapter,
    ends: Float[Tensor, "runs tokens width"],
    targets: Int[Tensor, " tokens"],
    log_plain: Float[Tensor, "tokens d_vocab"],
    *,
    logits: bool = False,
) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
    """Loss and KL(edited ‖ plain) of some runs of one text, in nats, summed over its tokens in float64.

    Args:
        adapter: of the model.
        ends: residuals before the final norm at the tokens that predict.
        targets: the tokens that came.
        log_plain: the plain run's log-probabilities there.
        logits: whether `ends` are logits already.
    """
    runs, tokens, width = ends.shape
    which = torch.arange(tokens, device=ends.device).repeat(runs)
    flat = ends.reshape(-1, width)
    found, begin = [], 0
    for scores in flat.split(TOKENS) if logits else unembedded_in_pieces(adapter, flat):
        part = slice(begin, begin + len(scores))
        found.append(compared(scores, targets[which[part]], log_plain, which[part]))
        begin += len(scores)
    pairs = zip(*found, strict=True) if found else ([log_plain.new_empty(0)],) * 2
    loss, gap = (torch.cat(list(pieces)).double().reshape(runs, tokens).sum(1) for pieces in pairs)
    return loss, gap


def unembedded_in_pieces(
    adapter: Adapter, residual: Float[Tensor, "tokens d_model"]
) -> Iterator[Float[Tensor, "some d_vocab"]]:
    """Logits of residuals before the final norm, some tokens at a time."""
    for part in residual.split(TOKENS) if len(residual) else ():
        yield unembedded(adapter, part)


@torch.no_grad()
def unembedded(
    adapter: Adapter, residual: Float[Tensor, "tokens d_model"]
) -> Float[Tensor, "tokens d_vocab"]:
    """Logits of residuals before the final norm."""
    logits = adapter.run(residual[None], start=adapter.n_layers)
    assert logits is not None
    return logits[0]
