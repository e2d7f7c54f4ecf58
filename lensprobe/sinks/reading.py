"""What a sink scan reads of each batch: attention and value vectors, reduced in the hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus import Batch
from ..models.adapter import Adapter
from ..running.attention import attention_to
from ..scanning import Hooks, real_rows
from ..statistics import Bundle, Counts, Moments
from .heads import HeadStatistics, head_statistics

__all__ = ["HeadStatistics", "SinkReading", "attention_to", "entropies", "head_statistics"]


class SinkReading:
    """Hooks at the pattern and the values of every scanned layer; see `scanning.Reading`.

    The statistics (`L` scanned layers, `H` heads, `G` key-value heads, `K` keys):

    - `attention`: Moments `[L, H, K]` over sequences: attention to each of the first keys
    - `sinks`: Moments `[L, H, K]` over sequences: 1 where that exceeds epsilon
    - `entropy`: Moments `[L, H]` over queries, in nats
    - `value`, `others`: Moments `[L, G]` over tokens: norm of the value vector at key 0, elsewhere
    - `tokens`: Counts (key, token)
    - `nonfinite`: Counts (layer index): sequences whose attention or entropy is infinite or NaN
    """

    def __init__(
        self, adapter: Adapter, layers: tuple[int, ...], *, keys: int, epsilon: float
    ) -> None:
        self.layers = layers
        self.last = layers[-1]
        self.keys = keys
        self.epsilon = epsilon
        self.patterns = [adapter.hook_name("attn.pattern", layer) for layer in layers]
        self.values = [adapter.hook_name("attn.v", layer) for layer in layers]
        self.kv_shape = (adapter.n_kv_heads, adapter.d_head)

    def open(self, batch: Batch) -> tuple[Hooks, Callable[[], Bundle]]:
        """See `scanning.Reading`."""
        seen = _Seen(self, batch)
        hooks = {name: partial(seen.pattern, index) for index, name in enumerate(self.patterns)}
        hooks |= {name: partial(seen.value, index) for index, name in enumerate(self.values)}
        return hooks, seen.collect


def entropies(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query"]:
    """Entropy of every row in nats; 0 log 0 is 0."""
    return torch.special.entr(pattern.float()).sum(-1)


class _Seen:
    """What the hooks of one batch have left so far, by layer index."""

    def __init__(self, reading: SinkReading, batch: Batch) -> None:
        self.reading = reading
        self.batch = batch
        self.real = batch.tokens.mask
        self.rows, self.positions = real_rows(batch)
        self.attention: dict[int, np.ndarray] = {}
        self.entropy: dict[int, Moments] = {}
        self.norms: dict[int, tuple[Moments, Moments]] = {}

    def pattern(self, layer: int, pattern: Tensor) -> None:
        pattern = pattern.detach()
        # A model spread over devices has its layers elsewhere.
        real = self.real.to(pattern.device)
        self.attention[layer] = attention_to(pattern, real, self.reading.keys).cpu().numpy()
        entropy = entropies(pattern).cpu().numpy()
        self.entropy[layer] = Moments((pattern.shape[1],))
        self.entropy[layer].update(entropy[self.rows, :, self.positions])

    def value(self, layer: int, value: Tensor) -> None:
        heads, width = self.reading.kv_shape
        split = value.detach().reshape(*value.shape[:2], heads, width)
        norms = torch.linalg.vector_norm(split, dim=-1, dtype=torch.float32).cpu().numpy()
        first, others = Moments((heads,)), Moments((heads,))
        first.update(norms[:, 0])
        later = self.positions > 0
        others.update(norms[self.rows[later], self.positions[later]])
        self.norms[layer] = first, others

    def collect(self) -> Bundle:
        """The statistics of the batch."""
        indices = range(len(self.reading.layers))
        attention = np.stack([self.attention[index] for index in indices], axis=1)
        shape = attention.shape[1:]
        parts = {
            "attention": Moments(shape),
            "sinks": Moments(shape),
            "entropy": Moments.stack([self.entropy[index] for index in indices]),
            "value": Moments.stack([self.norms[index][0] for index in indices]),
            "others": Moments.stack([self.norms[index][1] for index in indices]),
            "tokens": Counts(2),
            "nonfinite": Counts(1),
        }
        parts["attention"].update(attention)
        above = attention > self.reading.epsilon
        parts["sinks"].update(np.where(np.isfinite(attention), above, np.nan))
        # Key 0 exists in every sequence: what is not finite there is the model's doing.
        broken = (~np.isfinite(attention[..., 0])).any(2).sum(0)
        parts["nonfinite"].update(np.arange(len(broken))[broken > 0, None], broken[broken > 0])
        parts["tokens"].update(self._tokens())
        return Bundle(parts)

    def _tokens(self) -> np.ndarray:
        early = self.positions < self.reading.keys
        ids = self.batch.tokens.ids.cpu().numpy()[self.rows[early], self.positions[early]]
        return np.column_stack([self.positions[early], ids])
