"""At which positions of a sequence the residual stream has a massive activation."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SAMPLE", "Outliers"]

SAMPLE = 256
"""Tokens of a sequence, evenly spaced, whose magnitudes the median is of; all of a shorter one."""


class Outliers:
    """Positions with a massive activation (Sun et al. 2402.17762) after any of some layers.

    Massive is a magnitude above `threshold` and at least `ratio` times the (lower) median magnitude of
    that layer's hidden state of the sequence. In sequences of more than `SAMPLE` tokens the median is
    that of evenly spaced ones: which ones depends on the length alone, so that a sequence that comes in
    pieces is judged like one that comes whole.
    """

    def __init__(self, lengths: np.ndarray, layers: int, *, threshold: float, ratio: float) -> None:
        self.lengths = lengths
        self.threshold = threshold
        self.ratio = ratio
        self.width = int(lengths.max())
        self.sampled = [
            np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(int)) for n in lengths
        ]
        self._largest = np.zeros((layers, len(lengths), self.width), np.float32)
        self._kept: list[list[list[np.ndarray]]] = [[[] for _ in lengths] for _ in range(layers)]
        self._found = np.zeros((len(lengths), self.width), bool)

    def read(self, layer: int, residual: Float[Tensor, "batch pos d_model"], begin: int) -> None:
        """The next columns of one layer, from column `begin` on."""
        end = begin + residual.shape[1]
        low, high = torch.aminmax(residual, dim=-1)
        largest = torch.maximum(high, -low).float().cpu().numpy()
        self._largest[layer, :, begin:end] = np.where(np.isfinite(largest), largest, 0.0)
        for row, places in enumerate(self.sampled):
            # Without a candidate no median is needed, once the whole sequence is known.
            if begin == 0 and end == self.width and not self._candidates(layer, row).any():
                continue
            here = places[(places >= begin) & (places < end)] - begin
            kept = residual[row] if len(here) == end - begin else residual[row, here]
            self._kept[layer][row].append(kept.abs().float().flatten().cpu().numpy())
        if end == self.width:
            self._judge(layer)

    def _candidates(self, layer: int, row: int) -> np.ndarray:
        return self._largest[layer, row, : self.lengths[row]] > self.threshold

    def _judge(self, layer: int) -> None:
        for row, parts in enumerate(self._kept[layer]):
            wanted = self._candidates(layer, row)
            if wanted.any():
                size = self._largest[layer, row, : len(wanted)]
                enough = size >= self.ratio * _median(np.concatenate(parts))
                self._found[row, : len(wanted)] |= wanted & enough
            parts.clear()

    def positions(self) -> np.ndarray:
        """Bool `[batch pos]`, over all layers; pads are False."""
        return self._found


def _median(values: np.ndarray) -> float:
    """The lower median, as `torch.median` gives it, of what is finite."""
    values = values[np.isfinite(values)]
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle]) if len(values) else np.nan
