"""Axes and cleaned numbers that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

__all__ = ["attention_grid", "finite", "grid", "layer_axis", "log_axis", "positive", "rows_of"]

LARGE = 40_000
"""Cells from which a map of probabilities travels as bytes instead of floats."""


def rows_of(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows whose columns equal the given values, by layer where there is one."""
    for column, value in where.items():
        frame = cast(pd.DataFrame, frame[frame[column] == value])
    return frame.sort_values(by=["layer"]) if "layer" in frame else frame


def finite(values: Iterable[Any]) -> list[float | None]:
    """Numbers for plotly; NaN and infinities become gaps, because JSON has no word for them."""
    return [float(v) if v is not None and math.isfinite(float(v)) else None for v in values]


def positive(values: Iterable[Any]) -> list[float | None]:
    """Numbers for a log axis: what cannot be drawn there becomes a gap."""
    return [v if v is not None and v > 0 else None for v in finite(values)]


def layer_axis(layers: Sequence[int], site: str, *, half: bool = False) -> dict[str, Any]:
    """A layer axis with whole-number ticks; `half` leaves room for the cells of a map."""
    low, high = (min(layers), max(layers)) if len(layers) else (0, 0)
    pad = 0.5 if half or low == high else 0.35
    return {
        "title": {"text": f"layer ({site})" if site else "layer"},
        "tickmode": "linear",
        "tick0": 0,
        "dtick": next((d for d in (1, 2, 5, 10, 20) if (high - low) / d <= 16), 50),
        "range": [low - pad, high + pad],
    }


def log_axis(values: Iterable[float | None], title: str) -> dict[str, Any]:
    """A log axis around the values, labelled at decades when there are enough of them."""
    known = [v for v in values if v is not None and v > 0]
    low, high = (math.log10(min(known)), math.log10(max(known))) if known else (0.0, 1.0)
    pad = max(0.08 * (high - low), 0.1)
    axis: dict[str, Any] = {
        "title": {"text": title},
        "type": "log",
        "range": [low - pad, high + 2 * pad],
        "tickformat": ",",
    }
    return {**axis, "dtick": 1} if high - low >= 1.5 else axis


def grid(frame: pd.DataFrame, value: str) -> np.ndarray:
    """One column as an array [head, layer]; pairs that are missing are NaN."""
    layers, heads = sorted(frame["layer"].unique()), sorted(frame["head"].unique())
    wide = frame.pivot_table(index="head", columns="layer", values=value, dropna=False)
    return wide.reindex(index=heads, columns=layers).to_numpy(dtype=np.float64)


def attention_grid(values: np.ndarray) -> dict[str, Any]:
    """Heatmap fields for probabilities: floats, or bytes (steps of 1/255) when the grid is large.

    Returns `z`, `zmin`, `zmax`, the bar's tick settings and how to write a cell in a hover box.
    """
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    text = ["0", "0.25", "0.5", "0.75", "1"]
    if values.size < LARGE:
        z = [finite(row) for row in values]
        return {"z": z, "zmax": 1.0, "tickvals": marks, "ticktext": text, "cell": "%{z:.3f}"}
    z = np.round(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    ticks = [255 * mark for mark in marks]
    return {"z": z, "zmax": 255, "tickvals": ticks, "ticktext": text, "cell": "%{z}/255"}
