"""What a massive-activation scan reads of each batch, and the statistics it becomes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from ..corpus import Batch
from ..models.adapter import Adapter
from ..scanning import Hooks, real_rows
from ..statistics import Bundle, Counts, Earliest, KeyedMoments, Moments, inside
from .kinds import KINDS, Kinds
from .magnitudes import RANKS, Magnitudes, magnitudes

__all__ = ["FIRST_POSITION", "LEADING", "MassiveReading"]

LEADING = 64
"""Positions of the first text that are kept for the landscape."""

FIRST_POSITION = -1
"""Stands for a token id in the group of massive activations at position 0, whatever the token."""


class MassiveReading:
    """Hooks at one site of every scanned layer; see `scanning.Reading`.

    The statistics (`L` scanned layers, `D` width of the site):

    - `top`: Moments `[L, 4]` over sequences: three largest magnitudes and the median
    - `first`, `delimiter`, `other`: Moments `[L]` over tokens of each kind: their largest magnitude
    - `origin`: Moments `[L, D]` over sequences: the activation at position 0
    - `hits`: KeyedMoments (layer index, dim, token or FIRST_POSITION): signed values
    - `places`: KeyedMoments (dim, token or FIRST_POSITION): positions
    - `found`: Counts (dim, token or FIRST_POSITION): sequences that show it at any layer
    - `tokens`: Counts (dim, token): tokens at position 0 that show it
    - `nonfinite`: Counts (layer index, position)
    - `landscape`: Earliest: `values` `[L, pos, D]` and `ids` `[pos]` of the first text
    """

    def __init__(
        self,
        adapter: Adapter,
        layers: tuple[int, ...],
        site: str,
        *,
        threshold: float,
        ratio: float,
    ) -> None:
        self.layers = layers
        self.last = layers[-1]
        self.site = site
        self.names = [adapter.hook_name(site, layer) for layer in layers]
        self.threshold = threshold
        self.ratio = ratio
        tokenizer = getattr(adapter.model, "tokenizer", None)
        self.kinds = Kinds(tokenizer, adapter.d_vocab)
        self.width = adapter.width(site)
        self.vocabulary = adapter.d_vocab

    def open(self, batch: Batch) -> tuple[Hooks, Callable[[], Bundle]]:
        """See `scanning.Reading`."""
        seen = _Seen(self, batch)
        hooks = {name: partial(seen.read, index) for index, name in enumerate(self.names)}
        return hooks, seen.collect

    def blank(self) -> Bundle:
        """The statistics of no sequence at all."""
        layers = len(self.layers)
        return Bundle(
            {
                "top": Moments((layers, RANKS + 1)),
                "origin": Moments((layers, self.width)),
                "nonfinite": Counts(2),
                "landscape": Earliest(),
                **{kind: Moments((layers,)) for kind in KINDS},
                "hits": KeyedMoments(3),
                "places": KeyedMoments(2),
                "found": Counts(2),
                "tokens": Counts(2),
            }
        )

    def check(self, part: Bundle) -> None:
        """See `scanning.Reading`."""
        self.blank().check(part)
        layers, ids = len(self.layers), (FIRST_POSITION, self.vocabulary)
        hits, places, found, tokens, broken = (
            part[name].state()["keys"]
            for name in ("hits", "places", "found", "tokens", "nonfinite")
        )
        inside(hits, (0, layers), (0, self.width), ids)
        inside(tokens, (0, self.width), ids)
        inside(broken, (0, layers), (0, None))
        groups = {tuple(key) for key in hits[:, 1:].tolist()}
        if not groups <= {*map(tuple, places.tolist())} & {*map(tuple, found.tolist())}:
            raise ValueError("massive activations without a place")
        first = {dim for dim, group in groups if group == FIRST_POSITION}
        if not first <= set(tokens[:, 0].tolist()):
            raise ValueError("massive activations at position 0 without a token")
        self._check_landscape(part["landscape"].result())

    def _check_landscape(self, first: dict[str, np.ndarray]) -> None:
        if not first:
            return
        values, ids = first.get("values"), first.get("ids")
        if values is None or ids is None or ids.ndim != 1:
            raise ValueError("a first text without values or tokens")
        if values.shape != (len(self.layers), len(ids), self.width):
            raise ValueError(f"a first text of shape {values.shape}")
        inside(ids[:, None], (0, self.vocabulary))


class _Seen:
    """What the hooks of one batch have left so far, by layer index."""

    def __init__(self, reading: MassiveReading, batch: Batch) -> None:
        self.reading = reading
        self.batch = batch
        self.lengths = batch.lengths
        self.ids = batch.tokens.ids.cpu().numpy()
        order = [(window.document, window.index) for window in batch.windows]
        self.leading = order.index((0, 0)) if (0, 0) in order else None
        self.found: dict[int, Magnitudes] = {}
        self.origin: dict[int, Moments] = {}
        self.landscape: dict[int, np.ndarray] = {}

    def read(self, layer: int, activation: Tensor) -> None:
        # Values and queries have an axis for heads; a dimension counts across them.
        flat = activation.detach().flatten(2)
        self.found[layer] = magnitudes(
            flat, self.lengths, threshold=self.reading.threshold, ratio=self.reading.ratio
        )
        origin = Moments((flat.shape[-1],))
        origin.update(flat[:, 0].float().cpu().numpy())
        self.origin[layer] = origin
        if self.leading is not None:
            length = min(LEADING, int(self.lengths[self.leading]))
            self.landscape[layer] = flat[self.leading, :length].float().cpu().numpy().copy()

    def collect(self) -> Bundle:
        """The statistics of the batch."""
        indices = range(len(self.reading.layers))
        found = [self.found[index] for index in indices]
        parts = self.reading.blank()
        parts.parts["origin"] = Moments.stack([self.origin[index] for index in indices])
        self._kinds(found, parts)
        self._groups(found, parts)
        top = [np.column_stack([layer.top, layer.median]) for layer in found]
        parts["top"].update(np.stack(top, axis=1))
        counts = np.stack([layer.nonfinite for layer in found])
        parts["nonfinite"].update(np.argwhere(counts), counts[counts > 0])
        if self.leading is not None:
            values = np.stack([self.landscape[index] for index in indices])
            ids = self.ids[self.leading, : values.shape[1]]
            parts["landscape"].update((0, 0), values=values, ids=ids)
        return parts

    def _kinds(self, found: list[Magnitudes], parts: Bundle) -> None:
        rows, positions = real_rows(self.batch)
        kinds = self.reading.kinds.of(self.ids[rows, positions], positions)
        values = np.stack([layer.token[rows, positions] for layer in found], axis=1)
        for index, kind in enumerate(KINDS):
            parts[kind].update(values[kinds == index])

    def _groups(self, found: list[Magnitudes], parts: Bundle) -> None:
        layer = np.repeat(np.arange(len(found)), [len(one.hits) for one in found])
        hits = np.concatenate([one.hits for one in found])
        values = np.concatenate([one.values for one in found])
        row, position, dim = hits.T
        token = self.ids[row, position]
        group = np.where(position == 0, FIRST_POSITION, token)
        parts["hits"].update(np.column_stack([layer, dim, group]), values)
        parts["places"].update(np.column_stack([dim, group]), position)
        shown = np.unique(np.column_stack([row, dim, group]), axis=0)
        parts["found"].update(shown[:, 1:])
        first = np.unique(np.column_stack([row, dim, token])[position == 0], axis=0)
        parts["tokens"].update(first[:, 1:])
