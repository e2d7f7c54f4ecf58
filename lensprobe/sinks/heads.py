"""How heads use the first keys in single sequences, with edits or hooks attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..edits import Edit
from ..models.adapter import Adapter
from ..running.attention import attention_to
from ..running.batching import buckets
from ..running.measures import losses
from ..running.session import Hook, Session, hooked, prompt_step
from ..tokens import Encoded, TokenBatch

__all__ = ["HeadStatistics", "head_statistics"]


@dataclass(frozen=True)
class HeadStatistics:
    """What one run of some sequences did, sequence by sequence; float64, NaN where there is none.

    Attributes:
        attention: `[row layer head key]`, mean over queries t >= k of A[t, k], for the first keys.
        largest: `[row layer key]`, largest magnitude in the residual after each layer at those keys.
        norm: `[row layer key]`, its Euclidean norm.
        loss: `[row]`, nats summed over the predicted tokens; NaN for a single token.
        count: `[row]`, how many tokens that is.
    """

    attention: np.ndarray
    largest: np.ndarray
    norm: np.ndarray
    loss: np.ndarray
    count: np.ndarray

    def sink_rate(self, epsilon: float = 0.3, key: int = 0) -> np.ndarray:
        """`[row]`: share of all heads whose attention to `key` exceeds `epsilon`."""
        return np.mean(self.attention[..., key] > epsilon, axis=(1, 2))


@torch.no_grad()
def head_statistics(
    adapter: Adapter,
    rows: Sequence[Encoded],
    *,
    edits: Edit | Iterable[Edit] = (),
    hooks: Mapping[str, Hook] | None = None,
    keys: int = 1,
    batch_tokens: int | None = None,
) -> HeadStatistics:
    """Attention to the first keys, what the residual holds there, and the loss, of a run under edits.

    One whole forward pass over each group of sequences of nearly equal length, so that every variant
    of an experiment is measured alike: per-head sink statistics, massive values and losses come from
    the same pass. `edits` are written as in `lp.forward`; `hooks` (`name -> f(activation)`) may write
    too, such as those that silence neurons or patch activations; what they return is read here.

    Raises:
        ArgumentError: an edit that does not fit the model.
        HookPointError: the model has no attention patterns.
    """
    session = Session(adapter, edits, texts=len(rows))
    found: dict[int, HeadStatistics] = {}
    with session, hooked(adapter, hooks or {}):
        for group in buckets(rows, batch_tokens):
            part = _read(session, [rows[index] for index in group], np.asarray(group), keys)
            for place, index in enumerate(group):
                values = {f.name: getattr(part, f.name)[place] for f in fields(part)}
                found[index] = HeadStatistics(**values)
    ordered = [found[index] for index in range(len(rows))]
    return HeadStatistics(
        **{f.name: np.stack([getattr(one, f.name) for one in ordered]) for f in fields(ordered[0])}
    )


def _read(session: Session, rows: list[Encoded], places: np.ndarray, keys: int) -> HeadStatistics:
    adapter = session.adapter
    batch = TokenBatch.pad(adapter, rows)
    count, width = batch.ids.shape
    layers = range(adapter.n_layers)
    attention = np.full((count, adapter.n_layers, adapter.n_heads, keys), np.nan)
    largest = np.full((count, adapter.n_layers, keys), np.nan)
    norm = largest.copy()
    few = min(keys, width)
    there = (batch.mask[:, :few]).cpu().numpy()

    def pattern(layer: int, x: Tensor) -> None:
        attention[:, layer] = attention_to(x, batch.mask.to(x.device), keys).double().cpu().numpy()

    def residual(layer: int, x: Tensor) -> None:
        first = x[:, :few].float()
        sizes = first.abs().amax(-1), torch.linalg.vector_norm(first, dim=-1)
        for table, size in zip((largest, norm), sizes, strict=True):
            table[:, layer, :few] = np.where(there, size.double().cpu().numpy(), np.nan)

    probes: dict[str, Hook] = {}
    for n in layers:
        probes[adapter.hook_name("attn.pattern", n)] = lambda x, n=n: pattern(n, x)
        probes[adapter.hook_name("resid_post", n)] = lambda x, n=n: residual(n, x)
    session.begin()
    # Attached last, these read what edits and hooks have written.
    with hooked(adapter, probes):
        logits = session.read(prompt_step(batch, rows=places), batch.ids)
    assert logits is not None
    loss, tokens = _losses(logits, batch)
    return HeadStatistics(attention, largest, norm, loss, tokens)


def _losses(logits: Tensor, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss and number of predicted tokens of each row; one row's logits at a time."""
    tokens = batch.lengths - 1
    sums = np.full(len(tokens), np.nan)
    for row, real in enumerate(batch.mask):
        ids = batch.ids[row][real]
        if len(ids) > 1:
            sums[row] = float(losses(logits[row][real][:-1], ids[1:]).double().sum())
    return sums, tokens.astype(float)
