"""A virtual sink: a key and a value a head that stand in front of every text and belong to no token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.adapter import Adapter
from ..running.batching import buckets
from ..running.measures import losses
from ..running.session import Hook, hooked
from ..tokens import Encoded, TokenBatch

__all__ = ["Front", "averaged", "fitted", "read_behind"]


@dataclass(frozen=True)
class Front:
    """Keys and values at position 0, where a rotary turn is none.

    Attributes:
        keys, values: `[layer kv_head d_head]`.
    """

    keys: Float[Tensor, "layer kv_head d_head"]
    values: Float[Tensor, "layer kv_head d_head"]

    def cache(self, adapter: Adapter, rows: int) -> Any:
        """A cache that begins with it, for a batch of `rows`."""
        cache = adapter.new_cache(rows)
        each = zip(self.keys, self.values, strict=True)
        cache.hold([(k.expand(rows, 1, -1, -1), v.expand(rows, 1, -1, -1)) for k, v in each])
        return cache


@torch.no_grad()
def averaged(adapter: Adapter, rows: Sequence[Encoded], batch_tokens: int | None) -> Front:
    """Keys and values of position 0, averaged over texts.

    They depend on the first token alone, so that only first tokens are read, each kind once. Under
    hooks of the user's own whole texts are.
    """
    whole = bool(adapter.user_hooks())
    read = list(rows) if whole else [Encoded((t,)) for t in sorted({row.ids[0] for row in rows})]
    firsts = [row.ids[0] for row in rows]
    total: Tensor | None = None
    for group in buckets(read, batch_tokens):
        chosen = [read[i] for i in group]
        batch = TokenBatch.pad(adapter, chosen)
        cache = adapter.new_cache(len(chosen))
        adapter.run(batch.ids, mask=batch.mask if batch.ragged else None, cache=cache, logits="all")
        shares = [1.0 if whole else firsts.count(row.ids[0]) for row in chosen]
        weight = torch.tensor(shares, dtype=torch.float64) / len(rows)
        # [layer key-or-value kv_head d_head]
        found = torch.stack(
            [
                torch.stack([torch.tensordot(weight, x[:, 0].double().cpu(), 1) for x in pair])
                for pair in cache.held()
            ]
        )
        total = found if total is None else total + found
    assert total is not None
    mean = total.to(adapter.device, adapter.dtype)
    return Front(mean[:, 0], mean[:, 1])


def read_behind(
    adapter: Adapter,
    batch: TokenBatch,
    front: Front | None,
    *,
    hooks: Mapping[str, Hook],
) -> Tensor:
    """Logits `[batch pos d_vocab]` of one pass, behind a virtual sink or as the texts are."""
    mask = batch.mask if batch.ragged else None
    cache = None if front is None else front.cache(adapter, len(batch.ids))
    with hooked(adapter, hooks):
        out = adapter.run(batch.ids, mask=mask, cache=cache)
    assert out is not None
    return out


def fitted(
    adapter: Adapter,
    front: Front,
    rows: Sequence[Encoded],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    batch_tokens: int,
) -> tuple[Front, np.ndarray]:
    """The sink that makes the texts behind it likelier, by Adam with the model frozen.

    A step changes each block's keys and values by about `learning_rate` of their size, whatever
    that size is: the values at a sink are far smaller than its keys.

    Returns:
        The fitted sink, and the mean loss in nats before each step, `[step]`.
    """
    start = torch.stack([front.keys, front.values])
    scale = start.float().square().mean((2, 3), keepdim=True).sqrt().to(start)
    move = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([move], lr=learning_rate)
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        count = max(1, min(len(rows), batch_tokens // max(map(len, rows))))
        chosen = draw.choice(len(rows), count, replace=False)
        batch = TokenBatch.pad(adapter, [rows[i] for i in chosen])
        with torch.enable_grad():
            keys, values = start + scale * move
            loss = _loss(adapter, batch, Front(keys, values))
            # Not `backward()`, which would leave gradients on the user's weights.
            (move.grad,) = torch.autograd.grad(loss, move)
        optimizer.step()
        found.append(float(loss.detach()))
    keys, values = (start + scale * move).detach()
    return Front(keys, values), np.array(found)


def _loss(adapter: Adapter, batch: TokenBatch, front: Front) -> Tensor:
    logits = read_behind(adapter, batch, front, hooks={})
    lost = losses(logits[:, :-1], batch.ids[:, 1:])
    real = batch.mask[:, 1:]
    return torch.where(real, lost, 0.0).sum() / real.sum()
