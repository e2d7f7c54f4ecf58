"""What is read at a watched step, on a few sequences that are never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...models.adapter import Adapter
from ...models.sites import DEFAULT_SITE
from ...running.attention import attention_to
from ...running.batching import buckets
from ...running.session import hooked
from ...tokens import Encoded, TokenBatch
from ..magnitudes import magnitudes
from .passes import loss_sum
from .place import Place, Prefix

__all__ = ["Peak", "Reading", "Watch"]


@dataclass(frozen=True)
class Peak:
    """The largest magnitude anywhere in the stream: where, its signed value, its sequence's median."""

    place: Place
    value: float
    median: float


@dataclass(frozen=True)
class Reading:
    """One look at a model.

    Attributes:
        place: the coordinate watched.
        value: its signed value, mean over the sequences that have the position.
        median: median magnitude of the whole hidden state of that layer, mean over sequences.
        loss: mean next-token loss in nats.
        sink_rate: share of heads, over all layers, whose mean attention to the first token exceeds
            epsilon, mean over sequences; NaN where the model shows no patterns.
        peak: see `Peak`; None where nothing is finite.
    """

    place: Place
    value: float
    median: float
    loss: float
    sink_rate: float
    peak: Peak | None


@dataclass
class _Seen:
    """What the hooks of one look have left so far."""

    medians: dict[int, list[np.ndarray]] = field(default_factory=dict)
    sinks: list[float] = field(default_factory=list)
    peak: Peak | None = None
    loss: float = 0.0
    tokens: int = 0


class Watch:
    """Reads a model on fixed sequences, without a trace in it: no gradients, no random numbers.

    Args:
        adapter: of the model that is being trained.
        rows: the sequences.
        place: the coordinate, or None for the largest magnitude wherever it is at the time.
        epsilon: least attention of a sink, exclusive.
        batch_tokens: most tokens in one forward pass, pads included.
    """

    def __init__(
        self,
        adapter: Adapter,
        rows: Sequence[Encoded],
        place: Place | None,
        *,
        epsilon: float,
        batch_tokens: int | None,
    ) -> None:
        self.adapter = adapter
        self.rows = list(rows)
        self.place = place
        self.epsilon = epsilon
        self.batch_tokens = batch_tokens
        layers = range(adapter.n_layers)
        self.streams = adapter.places(layers, [DEFAULT_SITE])
        self.patterns = adapter.places(layers, ["attn.pattern"])

    def prefix(self, place: Place) -> Prefix:
        """The tokens that decide the value at a place."""
        return Prefix(self.adapter, self.rows, place.position)

    @torch.no_grad()
    def read(self) -> Reading:
        """One forward pass over the sequences, and one over their beginnings."""
        seen = _Seen()
        for group in buckets(self.rows, self.batch_tokens):
            batch = TokenBatch.pad(self.adapter, [self.rows[index] for index in group])
            hooks: dict[str, Callable[[Tensor], Any]] = {
                name: partial(self._stream, seen, layer, batch.lengths)
                for name, (layer, _) in self.streams.items()
            }
            hooks |= {name: partial(self._pattern, seen, batch.mask) for name in self.patterns}
            with hooked(self.adapter, hooks):
                logits = self.adapter.run(batch.ids, mask=batch.mask if batch.ragged else None)
            assert logits is not None
            total, count = loss_sum(logits, batch)
            seen.loss += float(total)
            seen.tokens += count
        place = self.place or (seen.peak.place if seen.peak else Place(0, 0, 0))
        return Reading(
            place,
            self.prefix(place).value(place),
            float(np.concatenate(seen.medians[place.layer]).mean()),
            seen.loss / seen.tokens,
            float(np.mean(seen.sinks)) if seen.sinks else np.nan,
            seen.peak,
        )

    def _stream(self, seen: _Seen, layer: int, lengths: np.ndarray, activation: Tensor) -> None:
        found = magnitudes(activation, lengths, threshold=np.inf, ratio=0.0)
        seen.medians.setdefault(layer, []).append(found.median)
        # A token's largest magnitude is known already; only the best token is looked at again.
        if np.isnan(found.token).all():
            return
        row, position = np.unravel_index(int(np.nanargmax(found.token)), found.token.shape)
        size = float(found.token[row, position])
        if seen.peak is None or size > abs(seen.peak.value):
            vector = activation[int(row), int(position)].float()
            finite = torch.where(vector.isfinite(), vector.abs(), -1.0)
            dim = int(finite.argmax())
            place = Place(layer, dim, int(position))
            seen.peak = Peak(place, float(vector[dim]), float(found.median[row]))

    def _pattern(self, seen: _Seen, mask: Tensor, pattern: Tensor) -> None:
        attention = attention_to(pattern, mask, 1)[..., 0]
        known = attention[attention.isfinite()]
        seen.sinks += (known > self.epsilon).double().tolist()
