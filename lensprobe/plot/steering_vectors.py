"""Figures of steering vectors at several layers: how long they are, and how much they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .axes import finite, layer_axis
from .lines import line
from .theme import Words, build, colour_bar, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import SteeringVectors

__all__ = ["VIEWS", "cosines", "norms"]


def norms(
    vectors: SteeringVectors,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The norm of each layer's vector, and below it the cosine to the vector of the layer before."""
    look = style(theme, width_mm, title)
    frame = vectors.to_frame()
    above = line(frame["layer"], finite(frame["norm"]), "norm", look.theme.lines[0])
    above.hovertemplate = "<b>layer %{x}</b><br>norm %{y:,.4~r}<extra></extra>"
    below = line(frame["layer"], finite(frame["cosine"]), "cosine", look.theme.lines[1])
    below.hovertemplate = "<b>layer %{x}</b><br>cosine to the layer before %{y:.3f}<extra></extra>"
    below.yaxis = "y2"
    layers = [int(layer) for layer in frame["layer"]]
    longest = frame.loc[frame["norm"].idxmax()]
    words = Words(
        title="The steering vectors, layer by layer",
        subtitle=_subtitle(vectors),
        caption=(
            "Above: the norm of each layer's vector. Below: its cosine to the vector of the layer "
            "before; near 1 the direction is carried on, near 0 it is a new one."
        ),
        finding=(
            f"Here the vector is longest at layer {int(longest['layer'])} "
            f"({number(float(longest['norm']))})." + _turn(vectors)
        ),
    )
    zero = {"zeroline": True, "zerolinecolor": look.theme.muted, "zerolinewidth": 1}
    return build(
        [above, below],
        look,
        words,
        height=460,
        xaxis={**layer_axis(layers, vectors.site), "anchor": "y2"},
        yaxis={"title": {"text": "norm"}, "domain": [0.46, 1.0], "rangemode": "tozero"},
        yaxis2={"title": {"text": "cosine"}, "domain": [0.0, 0.36], "range": [-1.05, 1.05]}
        | {"anchor": "x", "tickvals": [-1, 0, 1], **zero},
        showlegend=False,
    )


def cosines(
    vectors: SteeringVectors,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The cosine between the vectors of every two layers."""
    look = style(theme, width_mm, title)
    grid, layers = _grid(vectors), list(vectors.layers)
    names = [str(layer) for layer in layers]
    heat = go.Heatmap(
        x=names,
        y=names,
        z=[finite(row) for row in grid],
        zmin=-1.0,
        zmax=1.0,
        colorscale=list(look.theme.diverging),
        colorbar=colour_bar("cosine", look.theme),
        hovertemplate="<b>layers %{x} and %{y}</b><br>cosine %{z:.3f}<extra></extra>",
    )
    words = Words(
        title="Which layers' vectors agree",
        subtitle=_subtitle(vectors),
        caption=(
            "The cosine between the steering vectors of every two layers. Blocks of high values are "
            "stretches of layers that share one direction."
        ),
        finding=_agreement(grid, layers),
    )
    step = next((d for d in (1, 2, 5, 10) if len(names) / d <= 16), 20)
    shown = {"type": "category", "tickmode": "array", "tickvals": names[::step]}
    return build(
        [heat],
        look,
        words,
        height=480,
        xaxis={"title": {"text": f"layer ({vectors.site})"}, **shown},
        yaxis={"title": {"text": "layer"}, **shown},
    )


def _subtitle(vectors: SteeringVectors) -> str:
    method = vectors.provenance.get("method")
    return f"{model_name(vectors)}, {vectors.site}" + (f", {method}" if method else "")


def _grid(vectors: SteeringVectors) -> np.ndarray:
    rows = np.stack([v.values.astype(np.float64).reshape(-1) for v in vectors.values()])
    lengths = np.linalg.norm(rows, axis=1)
    # A vector of zeros has no direction; its row is a gap.
    units = rows / np.where(lengths > 0, lengths, np.nan)[:, None]
    return units @ units.T


def _turn(vectors: SteeringVectors) -> str:
    frame = vectors.to_frame().dropna()
    if frame.empty:
        return ""
    row = frame.loc[frame["cosine"].idxmin()]
    return f" Its direction turns most at layer {int(row['layer'])} (cosine {row['cosine']:.2f})."


def _agreement(grid: np.ndarray, layers: list[int]) -> str:
    apart = np.where(np.eye(len(layers), dtype=bool), np.nan, grid)
    if not np.isfinite(apart).any():
        return "Here there are no two layers to compare."
    low = np.unravel_index(int(np.nanargmin(apart)), apart.shape)
    return (
        f"Here two layers' vectors have a cosine of {number(float(np.nanmedian(apart)))} in the "
        f"median, and least of all layers {layers[low[0]]} and {layers[low[1]]} "
        f"({number(float(apart[low]))})."
    )


VIEWS = {"norms": norms, "cosines": cosines}
