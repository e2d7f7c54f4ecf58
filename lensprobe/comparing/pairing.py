"""Cells of several results side by side, with the interval of each difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd

from ..running.measures import perplexity
from ..statistics import ends, interval, resampled
from .columns import Cells

__all__ = ["paired", "unpaired"]

SIZES = {"layer": "n_layers", "head": "n_heads", "dim": "d_model", "neuron": "d_model"}
"""Which fact of a model must be equal before two of its numbers name the same thing."""
ENDS = ("value", "low", "high")
CHANGES = ("change", "change_low", "change_high")


def unpaired(keys: tuple[str, ...], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Which results cannot be subtracted from the first cell by cell, and why."""
    first, *others = facts
    found = {}
    for label in others:
        for key, size in SIZES.items():
            pair = [facts[name].get(size) for name in (first, label)]
            if key in keys and None not in pair and pair[0] != pair[1]:
                found[label] = (
                    f"{label} has {size}={pair[1]} where {first} has {pair[0]}: a {key} of one is no "
                    f"{key} of the other, so no change is given."
                )
                break
    return found


def paired(tables: Mapping[str, Cells], apart: Mapping[str, str], *, seed: int) -> pd.DataFrame:
    """One row a cell, measure and result: `value`, `low`, `high` and the change from the first result.

    Where tables have a row a document, intervals are 95% bootstraps over documents; that of a
    change is over the documents that both results have, all cells sharing the resamples.

    Args:
        tables: the cells of each result, by its label.
        apart: labels that have no change.
        seed: of the resampling.
    """
    base = next(iter(tables.values()))
    frames = []
    for label, own in tables.items():
        other = None if label in apart else base
        make = _by_document if own.unit else _as_they_are
        frame = make(own, other, seed=seed)
        frame.insert(len(own.keys) + 1, "model", label)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _as_they_are(own: Cells, base: Cells | None, *, seed: int) -> pd.DataFrame:
    """Numbers without documents: the ends that the result has itself, and a change without any."""
    index = [*own.keys, "measure"]
    frame = own.frame.drop(columns="count")
    for end in ("low", "high"):
        if end not in frame:
            frame[end] = np.nan
    before = np.full(len(frame), np.nan)
    if base is not None:
        known = base.frame.set_index(index)["value"]
        before = known.reindex(_index(frame, index)).to_numpy()
    frame["change"] = frame["value"].to_numpy() - before
    frame["change_low"] = frame["change_high"] = np.nan
    frame["count"] = 0
    return frame.filter(items=[*index, *ENDS, *CHANGES, "count"])


def _by_document(own: Cells, base: Cells | None, *, seed: int) -> pd.DataFrame:
    """Means over documents, and their change over the documents that the first result has too."""
    rows, values, weights = _grids(own)
    nothing = (np.full(len(rows), np.nan),) * 3
    value = interval(values * weights, weights, seed=seed)
    change = nothing if base is None else _change(own, base, np.positive, seed)
    count = np.isfinite(values).sum(-1)
    frames = [_frame(rows, value, change, count)]
    loss = (rows["measure"] == "loss").to_numpy()
    if loss.any():
        # Of the mean loss: a mean of perplexities over documents is something else.
        lost = tuple(part[loss] for part in nothing)
        if base is not None:
            lost = _change(_losses(own), _losses(base), perplexity, seed)
        names = rows[loss].assign(measure="perplexity")
        frames.append(_frame(names, [perplexity(part[loss]) for part in value], lost, count[loss]))
    return pd.concat(frames, ignore_index=True)


def _losses(own: Cells) -> Cells:
    return replace(own, frame=cast(pd.DataFrame, own.frame.loc[own.frame["measure"] == "loss"]))


def _change(
    own: Cells, base: Cells, of: Callable[[Any], Any], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`of(mean of own) - of(mean of base)` over shared documents, draw by draw of one resampling.

    Each side is weighed by its own counts, because another tokenizer counts other tokens.
    """
    values, weights = _grids(own)[1:]
    before, others = _grids(base, like=own)[1:]
    shared = np.isfinite(values) & np.isfinite(before)
    means, draws = [], []
    for numbers, count in ((values, weights), (before, others)):
        known = np.where(shared, numbers, np.nan)
        mean, drawn = resampled(known * count, np.where(shared, count, 0.0), seed=seed)
        means.append(of(mean))
        draws.append(of(drawn))
    return means[0] - means[1], *ends(draws[0] - draws[1])


def _grids(own: Cells, like: Cells | None = None) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The cells, and their values and weights float64 `[cell document]`, NaN and 0 where unknown.

    Args:
        own: what is laid out.
        like: whose cells and documents are the rows and columns; None is its own.
    """
    like = like or own
    index = [*like.keys, "measure"]
    rows = like.frame.filter(items=index).drop_duplicates(ignore_index=True)
    documents = np.unique(like.frame[like.unit].to_numpy())
    at = _index(rows, index).get_indexer(_index(own.frame, index))
    column = pd.Index(documents).get_indexer(own.frame[own.unit])
    values = np.full((len(rows), len(documents)), np.nan)
    weights = np.zeros_like(values)
    known = (at >= 0) & (column >= 0)
    values[at[known], column[known]] = own.frame["value"].to_numpy()[known]
    weights[at[known], column[known]] = own.frame["count"].to_numpy()[known]
    return rows, values, weights


def _index(frame: pd.DataFrame, names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame.filter(items=names))


def _frame(rows: pd.DataFrame, value: Any, change: Any, count: np.ndarray) -> pd.DataFrame:
    ends_of = dict(zip((*ENDS, *CHANGES), (*value, *change), strict=True))
    return pd.DataFrame({**rows, **ends_of, "count": count})
