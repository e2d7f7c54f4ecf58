"""Runs of the same sequences side by side, in tables with intervals over documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..running.measures import perplexity
from ..statistics import difference, interval

__all__ = ["Sums", "by_document", "compared", "documents_table", "threshold"]

Sums = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Measures by name: float64 `[run sequence]`, and what each sequence weighs, `[sequence]`."""

CHANGES = ("change", "change_low", "change_high")


def compared(
    sums: Sums,
    documents: Sequence[int],
    labels: Mapping[str, Sequence[Any]],
    *,
    base: Sequence[int],
    seed: int,
) -> pd.DataFrame:
    """One row a measure and run: labels, `value`, `low`, `high`, and the change from a base run.

    Intervals are 95% bootstrap over documents, paired in the change. A measure that is NaN for a
    run throughout has no row for it. A "loss" is followed by its "perplexity".

    Args:
        sums: what was measured.
        documents: which document each sequence is a piece of.
        labels: columns, one entry a run.
        base: the run that each run is compared with.
        seed: of the bootstrap.
    """
    frames = []
    for name, (values, counts) in sums.items():
        totals, weights = by_document(values, documents), by_document(counts, documents)
        measured = np.isfinite(totals).any(1)
        before = totals[list(base)]
        value = interval(totals, weights, seed=seed)
        change = interval(totals - before, weights, seed=seed)
        frames.append(_frame(name, labels, value, change)[measured])
        if name == "loss":
            lost = difference(totals, before, weights, of=perplexity, seed=seed)
            frames.append(_frame("perplexity", labels, map(perplexity, value), lost)[measured])
    return pd.concat(frames, ignore_index=True)


def documents_table(
    sums: Sums, documents: Sequence[int], labels: Mapping[str, Sequence[Any]]
) -> pd.DataFrame:
    """One row a measure, run and document: labels and `value`."""
    names = np.unique(documents)
    frames = []
    for name, (values, counts) in sums.items():
        value = by_document(values, documents) / by_document(counts, documents)
        each = {
            label: np.repeat(np.asarray(column), len(names)) for label, column in labels.items()
        }
        frames.append(
            pd.DataFrame(
                {
                    "measure": name,
                    **each,
                    "document": np.tile(names, len(values)),
                    "value": value.reshape(-1),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def threshold(epsilon: Any) -> float:
    """The least attention of a sink.

    Raises:
        ArgumentError: no attention.
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ArgumentError(f"epsilon={epsilon!r}: an attention, at least 0 and below 1.")
    return float(epsilon)


def by_document(values: np.ndarray, documents: Sequence[int]) -> np.ndarray:
    """Sums over the sequences of each document, `[... document]` of `[... sequence]`."""
    names, place = np.unique(documents, return_inverse=True)
    # Sequences to the front, because that is the axis that `add.at` sums over.
    total = np.zeros((len(names), *values.shape[:-1]))
    np.add.at(total, place, np.moveaxis(values, -1, 0))
    return np.moveaxis(total, 0, -1)


def _frame(
    measure: str, labels: Mapping[str, Sequence[Any]], value: Any, change: Any
) -> pd.DataFrame:
    ends = dict(zip(("value", "low", "high"), value, strict=True))
    changes = dict(zip(CHANGES, change, strict=True))
    return pd.DataFrame({"measure": measure, **labels, **ends, **changes})
