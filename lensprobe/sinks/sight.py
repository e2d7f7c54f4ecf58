"""Which keys a query sees when the cache has little room, and how that is made of one pass.

A token-by-token run with an evicting cache computes, for the query at position t, attention over the
keys that are still in the cache; what those keys and values hold was computed when their own tokens
were newest, under the caches of their time. So the recurrence unrolls: every layer of the whole run
is ordinary causal attention under one fixed mask, and one pass with that mask computes all of it.

What differs is positions. StreamingLLM counts them inside the cache: the `keep` first keys stand at
0 to keep - 1, the query at window - 1 once the cache is full. Among the latest keys that changes
nothing, because a rotary score depends on distances only. To the kept keys the distance stops
growing: their scores are those of the same query turned at position window - 1. The batch is
therefore read twice side by side, the second half at positions that stop there, and lends these
scores to the first; both halves attend alike and hold the same residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..models.adapter import Adapter
from ..running.session import Hook, hooked
from ..tokens import TokenBatch

__all__ = ["Sight", "read"]


@dataclass(frozen=True)
class Sight:
    """What a query sees of the keys before it.

    Attributes:
        kind: "plain" everything; "evicted" the first `keep` keys and the latest, `window` together,
            its own included; "masked" everything but the first `keep` keys, from the start.
        keep: how many of the first keys.
        window: most keys in the cache.
    """

    kind: str
    keep: int
    window: int

    def hidden(self, length: int, device: torch.device) -> Bool[Tensor, "query key"]:
        """Which of the earlier keys a query does not see; never its own."""
        query = torch.arange(length, device=device)[:, None]
        key = torch.arange(length, device=device)
        if self.kind == "masked":
            return (key < self.keep) & (key != query)
        if self.kind == "evicted":
            return (key >= self.keep) & (query - key >= self.window - self.keep)
        return torch.zeros(length, length, dtype=torch.bool, device=device)

    def oldest(self, length: int) -> Int[Tensor, " query"]:
        """The first key that each query sees: the first slot of its cache."""
        key = torch.arange(length)
        causal = key <= key[:, None]
        seen = causal & ~self.hidden(length, key.device)
        return seen.int().argmax(1)

    @property
    def turned(self) -> bool:
        """Whether some keys stand nearer in the cache than in the text."""
        return self.kind == "evicted" and self.keep > 0


@torch.no_grad()
def read(
    adapter: Adapter,
    batch: TokenBatch,
    sight: Sight,
    *,
    rotary: bool,
    probes: Mapping[str, Hook],
) -> Tensor:
    """Logits `[batch pos d_vocab]` of one pass under a sight.

    Args:
        adapter: the model.
        batch: padded on the right.
        rotary: whether positions are counted inside the cache.
        probes: hooks; each sees the batch once.
    """
    rows, length = batch.ids.shape
    twice = rotary and sight.turned and length > sight.window
    ids, mask, positions = batch.ids, batch.mask, None
    if twice:
        ids, mask = torch.cat([ids, ids]), torch.cat([mask, mask])
        held = batch.positions.clamp(max=sight.window - 1)
        positions = torch.cat([batch.positions, held])
    hooks: dict[str, Hook] = {}
    if sight.kind != "plain":
        scores = _scores(sight, rows, length)
        blocks = adapter.writer.blocks
        hooks = {f"{blocks}.{n}.attn.hook_attn_scores": scores for n in range(adapter.n_layers)}
    halved = {name: _first_half(probe, rows) for name, probe in probes.items()}
    # An explicit mask: without one, transformers takes positions that stand still for texts that
    # were packed into one row.
    with hooked(adapter, {**hooks, **halved}):
        out = adapter.run(ids, mask=mask, positions=positions)
    assert out is not None
    return out[:rows]


def _scores(sight: Sight, rows: int, length: int) -> Hook:
    def write(scores: Tensor) -> Tensor:
        own = scores[:rows]
        if len(scores) > rows:
            late, held = own[:, :, sight.window :], scores[rows:, :, sight.window :, : sight.keep]
            late = torch.cat([held, late[..., sight.keep :]], dim=-1)
            own = torch.cat([own[:, :, : sight.window], late], dim=2)
        hidden = sight.hidden(length, scores.device)
        own = own.masked_fill(hidden, torch.finfo(scores.dtype).min)
        return own if len(scores) == rows else torch.cat([own, own])

    return write


def _first_half(probe: Hook, rows: int) -> Hook:
    return lambda activation: probe(activation[:rows])
