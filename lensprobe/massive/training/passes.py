"""Next-token loss of padded batches, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...models.adapter import Adapter
from ...running.batching import buckets
from ...tokens import Encoded, TokenBatch

__all__ = ["backward", "loss_sum"]


def loss_sum(logits: Tensor, batch: TokenBatch) -> tuple[Tensor, int]:
    """Summed next-token loss in nats, float32 or wider, and over how many tokens; pads are none."""
    targets = torch.where(batch.mask, batch.ids, -100)[:, 1:]
    scores = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    total = cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
    return total, int(batch.mask[:, 1:].sum())


def backward(adapter: Adapter, rows: Sequence[Encoded], batch_tokens: int | None) -> float:
    """Add the gradient of the rows' mean loss to the weights' `.grad`; returns that loss, in nats.

    The mean is over all predicted tokens of all rows, however many forward passes they take.
    """
    count = sum(len(row) - 1 for row in rows)
    loss = 0.0
    with torch.enable_grad():
        for group in buckets(rows, batch_tokens):
            batch = TokenBatch.pad(adapter, [rows[index] for index in group])
            logits = adapter.run(batch.ids, mask=batch.mask if batch.ragged else None)
            assert logits is not None
            part = loss_sum(logits, batch)[0] / count
            part.backward()
            loss += float(part.detach())
    return loss
