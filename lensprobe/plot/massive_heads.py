"""Maps of heads, layer by layer, for what was measured of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, grid, layer_axis
from .facets import facets, on
from .theme import Look, Words, build, colour_bar

__all__ = ["head_maps"]


def head_maps(
    panels: dict[str, tuple[pd.DataFrame, str]],
    look: Look,
    words: Words,
    *,
    bar: str,
    cell: str,
    limits: tuple[float, float] | None = None,
    signed: bool = True,
) -> go.Figure:
    """One map a panel, all in one scale; head pairs that were not measured are gaps.

    Args:
        panels: name of a panel → a frame with `layer` and `head`, and which of its columns is drawn.
        bar: what the colours say.
        cell: how a cell reads in its hover box, as plotly writes `%{z}`.
        limits: of the colours; None is what there is, around zero where it is signed.
        signed: whether colours part at zero.
    """
    grids = {name: grid(frame, column) for name, (frame, column) in panels.items()}
    low, high = limits or _limits(list(grids.values()), signed)
    colours = look.theme.diverging if signed else look.theme.sequential
    frames = [frame for frame, _ in panels.values()]
    layers = sorted({int(layer) for frame in frames for layer in frame["layer"]})
    count = max([int(frame["head"].nunique()) for frame in frames] or [1])
    traces = [
        go.Heatmap(
            x=sorted(int(layer) for layer in frame["layer"].unique()),
            y=sorted(int(head) for head in frame["head"].unique()),
            z=[finite(row) for row in grids[name]],
            zmin=low,
            zmax=high,
            colorscale=list(colours),
            xgap=1,
            ygap=1,
            showscale=index == 0,
            colorbar=colour_bar(bar, look.theme),
            hovertemplate=f"<b>layer %{{x}}, head %{{y}}</b><br>{cell}<extra></extra>",
            **on(index),
        )
        for index, (name, (frame, _)) in enumerate(panels.items())
    ]
    words.extra["min_width"] = len(panels) * (130 + 9 * len(layers))
    xaxis = {**layer_axis(layers, "", half=True), "showgrid": False}
    yaxis: dict[str, Any] = {
        "title": {"text": "head"},
        "tickmode": "linear",
        "tick0": 0,
        "dtick": 1 if count <= 16 else 4,
        "range": [-0.5, count - 0.5],
        "showgrid": False,
    }
    height = 170 + int(np.clip(22 * count, 140, 560))
    return build(traces, look, words, height=height, **facets(list(panels), look, xaxis, yaxis))


def _limits(grids: list[np.ndarray], signed: bool) -> tuple[float, float]:
    known = np.concatenate([part[np.isfinite(part)] for part in grids] or [np.zeros(0)])
    if signed:
        limit = float(np.abs(known).max()) if known.size else 1.0
        return -(limit or 1.0), limit or 1.0
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
