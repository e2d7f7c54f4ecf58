"""What a sink scan reads of each batch: patterns, values and residuals, reduced in the hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus import Batch
from ..models.adapter import Adapter
from ..models.learned import has_learned_sinks
from ..running.attention import attention_to
from ..scanning import Hooks, real_rows
from ..statistics import Bundle, Counts, KeyedMoments, Moments, inside
from .heads import HeadStatistics, head_statistics
from .outliers import Outliers

__all__ = [
    "LEAST_QUERIES",
    "HeadStatistics",
    "SinkReading",
    "attention_to",
    "entropies",
    "head_statistics",
]

LEAST_QUERIES = 16
"""Queries that a later key needs before it can count as a secondary sink: the last tokens of a text
have hardly anyone but themselves to attend to them."""


class SinkReading:
    """Hooks at the pattern, the values and the output of every scanned layer; see `scanning.Reading`.

    A batch may come in one pass or in several, each with the next columns. The statistics (`L` scanned
    layers, `H` heads, `G` key-value heads, `K` keys, `E` thresholds):

    - `attention`: Moments `[L, H, K]` over sequences: attention to each of the first keys
    - `sinks`: Moments `[E, L, H, K]` over sequences: 1 where that exceeds an epsilon
    - `entropy`, `remainder`: Moments `[L, H]` over queries: entropy in nats; what no key gets
    - `mass`: Moments `[L, H]` over sequences: attention to all positions with a massive activation
    - `massive`: Counts (position, token): sequences with a massive activation there
    - `value`, `others`: Moments `[L, G]` over tokens: norm of the value vector at key 0, elsewhere
    - `secondary`: KeyedMoments (layer index, position, token): attention of heads that sink there
    - `lengths`: Counts (length): sequences
    - `tokens`: Counts (key, token)
    - `passes`: Counts (columns, ranges): batches read in so many ranges of so many columns at most
    - `nonfinite`: Counts (layer index): sequences whose attention or entropy is infinite or NaN
    """

    def __init__(
        self,
        adapter: Adapter,
        layers: tuple[int, ...],
        *,
        keys: int,
        epsilons: tuple[float, ...],
        threshold: float = 100.0,
        ratio: float = 1000.0,
    ) -> None:
        self.layers = layers
        self.last = layers[-1]
        self.keys = keys
        self.epsilons = epsilons
        self.epsilon = epsilons[0]
        self.threshold = threshold
        self.ratio = ratio
        self.names = {
            site: [adapter.hook_name(site, layer) for layer in layers]
            for site in ("attn.pattern", "attn.v", "resid_post")
        }
        self.heads = adapter.n_heads
        self.kv_shape = (adapter.n_kv_heads, adapter.d_head)
        self.learned = has_learned_sinks(adapter)
        self.vocabulary = adapter.d_vocab

    @property
    def facts(self) -> dict[str, Any]:
        """What the statistics depend on, JSON values only."""
        names = ("layers", "keys", "epsilons", "threshold", "ratio")
        return {name: getattr(self, name) for name in names}

    def open(self, batch: Batch) -> tuple[Hooks, Callable[[], Bundle]]:
        """See `scanning.Reading`."""
        seen = _Seen(self, batch)
        readers = {"attn.pattern": seen.pattern, "attn.v": seen.value, "resid_post": seen.residual}
        hooks = {
            name: partial(read, index)
            for site, read in readers.items()
            for index, name in enumerate(self.names[site])
        }
        return hooks, seen.collect

    def blank(self) -> Bundle:
        """The statistics of no sequence at all."""
        layers = len(self.layers)
        heads, groups = (layers, self.heads), (layers, self.kv_shape[0])
        return Bundle(
            {
                "attention": Moments((*heads, self.keys)),
                "sinks": Moments((len(self.epsilons), *heads, self.keys)),
                "entropy": Moments(heads),
                "remainder": Moments(heads),
                "mass": Moments(heads),
                "massive": Counts(2),
                "value": Moments(groups),
                "others": Moments(groups),
                "secondary": KeyedMoments(3),
                "lengths": Counts(1),
                "tokens": Counts(2),
                "passes": Counts(2),
                "nonfinite": Counts(1),
            }
        )

    def check(self, part: Bundle) -> None:
        """See `scanning.Reading`."""
        self.blank().check(part)
        keys = {
            name: part[name].state()["keys"]
            for name in ("massive", "secondary", "tokens", "passes", "nonfinite")
        }
        layers, ids = (0, len(self.layers)), (0, self.vocabulary)
        inside(keys["massive"], (0, None), ids)
        inside(keys["secondary"], layers, (0, None), ids)
        inside(keys["tokens"], (0, self.keys), ids)
        inside(keys["nonfinite"], layers)
        if not len(keys["passes"]):
            raise ValueError("statistics of no pass")


def entropies(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query"]:
    """Entropy of every row in nats; 0 log 0 is 0."""
    return torch.special.entr(pattern.float()).sum(-1)


class _Seen:
    """What the hooks of one batch have left so far, by layer index."""

    def __init__(self, reading: SinkReading, batch: Batch) -> None:
        self.reading = reading
        self.batch = batch
        self.real = batch.tokens.mask
        self.ids = batch.tokens.ids.cpu().numpy()
        self.rows, self.positions = real_rows(batch)
        rows, width = batch.tokens.ids.shape
        layers = len(reading.layers)
        # What each key was given by all queries, a number a key however many queries there are.
        self.given = np.zeros((layers, rows, reading.heads, width))
        self.columns: dict[tuple[str, int], int] = {}
        self.ranges: list[int] = []
        by_head = (reading.heads,)
        self.entropy = [Moments(by_head) for _ in reading.layers]
        self.remainder = [Moments(by_head) for _ in reading.layers]
        by_group = (reading.kv_shape[0],)
        self.norms = [(Moments(by_group), Moments(by_group)) for _ in reading.layers]
        self.outliers = Outliers(
            batch.lengths, layers, threshold=reading.threshold, ratio=reading.ratio
        )

    def _span(self, site: str, layer: int, columns: int) -> tuple[int, int]:
        """Which columns of the batch came now: those after the last ones of that layer."""
        begin = self.columns.get((site, layer), 0)
        self.columns[site, layer] = begin + columns
        return begin, begin + columns

    def _tokens_in(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and position of every real token in some columns."""
        inside = (self.positions >= begin) & (self.positions < end)
        return self.rows[inside], self.positions[inside]

    def pattern(self, layer: int, pattern: Tensor) -> None:
        begin, end = self._span("attn.pattern", layer, pattern.shape[2])
        if layer == 0:
            self.ranges.append(end - begin)
        # A model spread over devices has its layers elsewhere.
        real = self.real[:, begin:end].to(pattern.device)
        pattern = pattern.detach()
        paid = pattern if bool(real.all()) else torch.where(real[:, None, :, None], pattern, 0.0)
        given = paid.sum(2, dtype=torch.float32).double().cpu().numpy()
        self.given[layer, ..., : given.shape[-1]] += given
        rows, places = self._tokens_in(begin, end)
        entropy = entropies(pattern)
        if self.reading.learned:
            # What goes to the learned sink is one more outcome of the softmax.
            left = (1.0 - pattern.sum(-1, dtype=torch.float32)).clamp(min=0.0)
            entropy = entropy + torch.special.entr(left)
            self.remainder[layer].update(left.cpu().numpy()[rows, :, places - begin])
        self.entropy[layer].update(entropy.cpu().numpy()[rows, :, places - begin])

    def value(self, layer: int, value: Tensor) -> None:
        begin, end = self._span("attn.v", layer, value.shape[1])
        split = value.detach().reshape(*value.shape[:2], *self.reading.kv_shape)
        norms = torch.linalg.vector_norm(split, dim=-1, dtype=torch.float32).cpu().numpy()
        first, others = self.norms[layer]
        if begin == 0:
            first.update(norms[:, 0])
        rows, places = self._tokens_in(max(begin, 1), end)
        others.update(norms[rows, places - begin])

    def residual(self, layer: int, residual: Tensor) -> None:
        begin, _ = self._span("resid_post", layer, residual.shape[1])
        self.outliers.read(layer, residual.detach(), begin)

    def collect(self) -> Bundle:
        """The statistics of the batch."""
        reading, lengths = self.reading, self.batch.lengths
        width = self.given.shape[-1]
        queries = lengths[:, None] - np.arange(width)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self.given / queries[:, None]
        mean = np.where(queries[:, None] > 0, mean, np.nan).transpose(1, 0, 2, 3)
        attention = np.full((*mean.shape[:3], reading.keys), np.nan)
        few = min(width, reading.keys)
        attention[..., :few] = mean[..., :few]
        parts = reading.blank()
        by_layer = {
            "entropy": self.entropy,
            "remainder": self.remainder,
            "value": [first for first, _ in self.norms],
            "others": [others for _, others in self.norms],
        }
        parts.parts |= {name: Moments.stack(each) for name, each in by_layer.items()}
        parts.parts["secondary"] = self._secondary(mean, queries)
        parts["attention"].update(attention)
        above = np.stack([attention > epsilon for epsilon in reading.epsilons], axis=1)
        parts["sinks"].update(np.where(np.isfinite(attention)[:, None], above, np.nan))
        # Key 0 exists in every sequence: what is not finite there is the model's doing.
        broken = (~np.isfinite(attention[..., 0])).any(2).sum(0)
        parts["nonfinite"].update(np.arange(len(broken))[broken > 0, None], broken[broken > 0])
        massive = self.outliers.positions()
        parts["mass"].update(self._mass(massive))
        parts["massive"].update(self._with_tokens(*np.nonzero(massive)))
        parts["lengths"].update(lengths[:, None])
        parts["passes"].update(np.array([[max(self.ranges), len(self.ranges)]]))
        early = self.positions < reading.keys
        parts["tokens"].update(self._with_tokens(self.rows[early], self.positions[early]))
        return parts

    def _mass(self, massive: np.ndarray) -> np.ndarray:
        """`[batch L H]`: attention to all marked positions, mean over queries from the first on."""
        total = np.where(massive[:, None], self.given, 0.0).sum(-1)
        queries = self.batch.lengths - massive.argmax(1)
        some = np.any(massive, axis=1, keepdims=True)
        return np.where(some, total / queries[:, None], np.nan).transpose(1, 0, 2)

    def _secondary(self, mean: np.ndarray, queries: np.ndarray) -> KeyedMoments:
        long_enough = np.greater_equal(queries, LEAST_QUERIES)[:, None, None]
        above = np.greater(mean, self.reading.epsilon) & long_enough
        above[..., 0] = False
        row, layer, head, place = np.nonzero(above)
        found = KeyedMoments(3)
        tokens = self._with_tokens(row, place)
        found.update(np.column_stack([layer, tokens]), mean[row, layer, head, place])
        return found

    def _with_tokens(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Position and token id side by side, int `[tokens 2]`."""
        return np.column_stack([positions, self.ids[rows, positions]])
