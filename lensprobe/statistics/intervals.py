"""Confidence intervals over documents, the unit that was drawn independently."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["difference", "ends", "interval", "resampled"]

LEVEL = 0.95
RESAMPLES = 2000
BATCH_NUMBERS = 2_000_000
"""Numbers that are resampled at a time: bounded memory for any number of cells."""


def interval(
    sums: Any, counts: Any = None, *, level: float = LEVEL, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ratio of totals over documents, and the ends of its percentile bootstrap interval.

    The value is `sum(sums) / sum(counts)` over the last axis: a mean over documents, or over tokens
    whose number differs by document. Documents are resampled, tokens never, and all cells share
    the resamples: the interval of a difference of two runs is that of the paired comparison, when
    the differences are what is passed.

    Args:
        sums: float `[... document]`; documents that are not finite in some cell are left out of it.
        counts: what each document weighs, broadcast to `sums`; None is 1 each.
        level: coverage.
        seed: of the resampling.

    Returns:
        `value, low, high`, float64 `[...]`. One document has no interval: NaN ends.

    >>> value, low, high = interval([1.0, 1.0, 1.0])
    >>> float(value), float(low), float(high)
    (1.0, 1.0, 1.0)
    """
    value, drawn = resampled(sums, counts, seed=seed)
    return value, *ends(drawn, level=level)


def resampled(sums: Any, counts: Any = None, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The value of `interval`, and its resamples float64 `[... resample]`.

    Two calls over the same documents with one seed draw the same resamples, so that anything computed
    from both, draw by draw, is paired. A cell with fewer than two known documents has NaN draws.
    """
    totals = np.asarray(sums, dtype=np.float64)
    weights = np.broadcast_to(1.0 if counts is None else counts, totals.shape).astype(np.float64)
    known = np.isfinite(totals) & np.isfinite(weights)
    totals, weights = np.where(known, totals, 0.0), np.where(known, weights, 0.0)
    value = _ratio(totals, weights)
    if totals.shape[-1] < 2:
        return value, np.full((*value.shape, 1), np.nan)
    with warnings.catch_warnings():
        # A resample may miss every document that a cell knows; such a resample counts for nothing,
        # which is why the ends are read off here and not by scipy.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        drawn = stats.bootstrap(
            (totals, weights),
            _ratio,
            axis=-1,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=int(np.clip(BATCH_NUMBERS // totals.size, 1, RESAMPLES)),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    # Fewer than two known documents say nothing about the spread between documents.
    return value, np.where(known.sum(-1)[..., None] > 1, drawn, np.nan)


def difference(
    sums: Any, base: Any, counts: Any = None, *, of: Callable[[Any], Any], seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`of(mean of sums) - of(mean of base)` over the same documents, and the ends of its interval.

    For what is no mean over documents itself, as a perplexity is not: taken resample by resample.
    Documents that are not finite in `sums` are left out of both. `base` is broadcast to `sums`.
    """
    known = np.where(np.isfinite(sums), base, np.nan)
    value, drawn = resampled(sums, counts, seed=seed)
    other, base_drawn = resampled(known, counts, seed=seed)
    return of(value) - of(other), *ends(of(drawn) - of(base_drawn))


def ends(drawn: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the percentile interval of resamples `[... resample]`; NaN where there are none."""
    tail = 50.0 * (1.0 - level)
    if not np.isnan(drawn).any():
        # The same numbers, without a loop over cells.
        low, high = np.percentile(drawn, [tail, 100.0 - tail], axis=-1)
        return low, high
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        low, high = np.nanpercentile(drawn, [tail, 100.0 - tail], axis=-1)
    return low, high


def _ratio(totals: np.ndarray, weights: np.ndarray, axis: int = -1) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(totals.sum(axis) / weights.sum(axis))
