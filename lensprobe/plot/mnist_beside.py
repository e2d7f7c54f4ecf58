"""A network for digits and a language model under one contrast vector, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import log_axis, positive
from .steering_parts import rgba
from .theme import Look, Words, build, number, style
from .tokens import escape

if TYPE_CHECKING:
    import pandas as pd

    from ..mnist import Beside

__all__ = ["VIEWS", "depths"]


def depths(
    beside: Beside,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The rise of the log loss against the depth of the edited layer, on a log scale."""
    look = style(theme, width_mm, title)
    traces: list[Any] = []
    for index, (model, rows) in enumerate(beside.layers.groupby("model", sort=False)):
        traces += _line(str(model), rows, look, index)
    shown = [y for trace in traces for y in (trace.y or ())]
    words = Words(
        title="What one contrast vector costs elsewhere",
        subtitle=f"coefficient {number(float(beside.provenance['scale']))}, each layer edited alone",
        caption=(
            "Rise of the log loss (nats a prediction) on what the vector has nothing to do with: "
            "images that are not of the negative digit (median and middle half of the pairs), and text "
            "(95% interval over documents). One nat multiplies the perplexity by 2.7. Falls cannot be "
            "drawn on a log scale and leave gaps."
        ),
        finding=_sentence(beside),
    )
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis={
            "title": {"text": "depth of the edited layer (0 first, 1 last)"},
            "range": [-0.03, 1.03],
        },
        yaxis=log_axis(shown, "rise of the log loss (nats, log scale)"),
    )


def _line(model: str, rows: pd.DataFrame, look: Look, index: int) -> list[go.Scatter]:
    colour = look.theme.lines[index]
    name = escape(model)
    x = [float(depth) for depth in rows["depth"]]
    clear = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    return [
        go.Scatter(x=x, y=positive(rows["high"]), **clear),
        go.Scatter(
            x=x, y=positive(rows["low"]), fill="tonexty", fillcolor=rgba(colour, 0.15), **clear
        ),
        go.Scatter(
            x=x,
            y=positive(rows["value"]),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": ("solid", "dash")[index % 2]},
            marker={"size": 6, "color": colour},
            customdata=rows[["layer", "ratio"]].to_numpy().tolist(),
            hovertemplate=(
                f"<b>{name}</b>, layer %{{customdata[0]:.0f}}<br>%{{y:.3g}} nats, perplexity × "
                "%{customdata[1]:.3g}<extra></extra>"
            ),
        ),
    ]


def _sentence(beside: Beside) -> str:
    parts = []
    for model, rows in beside.layers.groupby("model", sort=False):
        middle, top = float(rows["value"].median()), rows.loc[rows["value"].idxmax()]
        parts.append(
            f"{model} loses {number(middle)} nats at the median layer and "
            f"{number(float(top['value']))} at most (layer {int(top['layer'])})"
        )
    return f"Here {'; '.join(parts)}."


VIEWS = {"depths": depths}
