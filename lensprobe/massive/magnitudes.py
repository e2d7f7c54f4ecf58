"""One layer's activations of one batch, reduced to a few numbers per sequence and per token.

This is the inner loop of the scan: everything here costs a few percent of the forward pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Magnitudes", "magnitudes"]

RANKS = 3


@dataclass(frozen=True)
class Magnitudes:
    """What is left of an activation `[batch pos dim]`; pads are NaN or absent everywhere.

    Attributes:
        top: float `[batch 3]`, the largest finite magnitudes of each sequence, largest first.
        median: float `[batch]`, the (lower) median of its finite magnitudes.
        token: float `[batch pos]`, each token's largest finite magnitude.
        hits: int `[hits 3]`, row, position and dimension of every massive activation.
        values: float `[hits]`, their signed values.
        nonfinite: int `[pos]`, how many numbers were infinite or NaN at each position.
    """

    top: np.ndarray
    median: np.ndarray
    token: np.ndarray
    hits: np.ndarray
    values: np.ndarray
    nonfinite: np.ndarray


def magnitudes(
    activation: Float[Tensor, "batch pos dim"],
    lengths: np.ndarray,
    *,
    threshold: float,
    ratio: float,
) -> Magnitudes:
    """Reduce one activation whose rows are padded on the right to `lengths` real tokens.

    Massive is a magnitude above `threshold` and at least `ratio` times the median of its sequence.
    """
    size = activation.abs().float()
    real = np.arange(size.shape[1]) < lengths[:, None]
    token = _floats(size.amax(-1))
    # amax hands NaN and infinity on, so a finite maximum vouches for the whole token.
    broken = np.flatnonzero((real & ~np.isfinite(token)).any(1))
    nonfinite = np.zeros(size.shape[1], np.int64)
    finite: dict[int, np.ndarray] = {}
    for row in broken.tolist():
        good = size[row, : lengths[row]].isfinite()
        nonfinite[: lengths[row]] += (~good).sum(-1).cpu().numpy()
        finite[row] = _floats(size[row, : lengths[row]][good], copy=True)
        size[row, : lengths[row]][~good] = -1.0
        token[row, : lengths[row]] = _floats(size[row, : lengths[row]].amax(-1))
    token[~real] = -1.0
    top = _top(size, token)
    median = _medians(size, lengths, finite)
    hits, values = _hits(activation, token, median, threshold, ratio)
    return Magnitudes(
        np.where(top < 0, np.nan, top),
        median,
        np.where(token < 0, np.nan, token),
        hits,
        values,
        nonfinite,
    )


def _floats(tensor: Tensor, *, copy: bool = False) -> np.ndarray:
    array = tensor.detach().float().cpu().numpy()
    return array.copy() if copy else array


def _top(size: Tensor, token: np.ndarray) -> np.ndarray:
    """The largest three of a sequence are in the three tokens with the largest maxima."""
    few = min(RANKS, token.shape[1])
    best = np.argpartition(-token, few - 1, axis=1)[:, :few]
    rows = np.arange(len(token))[:, None]
    # Pads can be among the best of a short row; their magnitudes must not.
    values = _floats(size[torch.from_numpy(rows), torch.from_numpy(best)])
    values = np.where(token[rows, best][:, :, None] < 0, -1.0, values).reshape(len(token), -1)
    largest = np.partition(values, values.shape[1] - RANKS, axis=1)[:, -RANKS:]
    return np.sort(largest, axis=1)[:, ::-1].astype(np.float64)


def _medians(size: Tensor, lengths: np.ndarray, finite: dict[int, np.ndarray]) -> np.ndarray:
    """Exact lower medians, as `torch.median` gives them. Destroys `size`."""
    width = size.shape[-1]
    if size.device.type != "cpu":
        values = [size[row, : int(n)].reshape(-1).median() for row, n in enumerate(lengths)]
        median = _floats(torch.stack(values)).astype(np.float64)
    else:
        flat = size.reshape(len(lengths), -1).numpy()
        median = np.array(
            _each(lambda row: _middle(flat[row, : int(lengths[row]) * width]), len(lengths))
        )
    for row, values in finite.items():
        median[row] = _middle(values) if len(values) else np.nan
    return median


def _middle(values: np.ndarray) -> float:
    middle = (len(values) - 1) // 2
    values.partition(middle)
    return float(values[middle])


def _each(work: Callable[[int], float], count: int) -> list[float]:
    threads = torch.get_num_threads()
    if threads == 1 or count == 1:
        return [work(row) for row in range(count)]
    # numpy partitions without the interpreter lock.
    return list(_pool(threads, os.getpid()).map(work, range(count)))


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # By process: a forked worker inherits the cache but not the threads.
    return ThreadPoolExecutor(threads, thread_name_prefix="lensprobe-median")


def _hits(
    activation: Tensor, token: np.ndarray, median: np.ndarray, threshold: float, ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    least = ratio * median[:, None]
    rows, places = np.nonzero((token > threshold) & (token >= least))
    if not len(rows):
        return np.zeros((0, 3), np.int64), np.zeros(0)
    chosen = activation[torch.from_numpy(rows), torch.from_numpy(places)]
    values = _floats(chosen).astype(np.float64)
    size = np.abs(values)
    which, dims = np.nonzero(np.isfinite(size) & (size > threshold) & (size >= least[rows]))
    return np.stack([rows[which], places[which], dims], axis=1), values[which, dims]
