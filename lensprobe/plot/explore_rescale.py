"""The figure of a rescaling widget: attention to the position by layer, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import finite, layer_axis, rows_of
from .facets import on
from .massive_rescale import coordinate
from .theme import Look, Words, build, number, style
from .tokens import visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..explore import Rescaled

__all__ = ["VIEWS", "rescaled"]

DASHES = {"plain": "dash", "rescaled": "solid"}


def rescaled(
    found: Rescaled,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Attention to the position layer by layer, and the loss, with a number as it is and multiplied."""
    look = style(theme, width_mm, title)
    facts, mine = found.provenance, found.run("rescaled")
    words = Words(
        title=f"{coordinate(found).capitalize()}, times {number(float(mine['factor']))}",
        subtitle=f"{model_name(found)}, after layer {facts['layer']}, "
        f"{plural(int(mine['count']), 'predicted token')}",
        caption=(
            "Left: attention that later tokens pay to the position, mean over the heads of a layer; "
            "the dotted line is the edited layer, above which it can change. Right: the text's loss."
        ),
        finding=_sentence(found),
    )
    words.extra["min_width"] = 620
    colours = {"plain": look.theme.lines[0], "rescaled": look.theme.lines[1]}
    traces: list[Any] = [_line(found, which, colour, look) for which, colour in colours.items()]
    return build(
        [*traces, _losses(found, colours)],
        look,
        words,
        height=400,
        showlegend=True,
        shapes=[_edited(int(facts["layer"]), look)],
        margin={"t": 76, "l": 64, "r": 24, "b": 86},
        **_axes(found),
    )


def _line(found: Rescaled, which: str, colour: str, look: Look) -> go.Scatter:
    rows = rows_of(found.layers, condition=which)
    factor = number(float(rows["factor"].iloc[0]))
    name = f"{which} (factor {factor})"
    return go.Scatter(
        x=[int(layer) for layer in rows["layer"]],
        y=finite(rows["value"]),
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": DASHES[which]},
        marker={"size": 6, "color": colour},
        customdata=finite(rows["sink_rate"]),
        hovertemplate=(
            f"<b>{name}</b>, layer %{{x}}<br>attention %{{y:.3f}}<br>sink rate %{{customdata:.0%}}"
            "<extra></extra>"
        ),
    )


def _losses(found: Rescaled, colours: dict[str, str]) -> go.Bar:
    names = list(colours)
    rows = [found.run(name) for name in names]
    return go.Bar(
        x=names,
        y=finite(row["loss"] for row in rows),
        name="loss",
        showlegend=False,
        marker={"color": list(colours.values()), "line": {"width": 0}},
        width=0.6,
        text=[number(float(row["loss"])) for row in rows],
        textposition="outside",
        cliponaxis=False,
        customdata=[finite([row["perplexity"], row["kl"]]) for row in rows],
        hovertemplate=(
            "<b>%{x}</b><br>loss %{y:.4~g} nats<br>perplexity %{customdata[0]:.4~g}"
            "<br>KL from plain %{customdata[1]:.3~g} nats<extra></extra>"
        ),
        **on(1),
    )


def _edited(layer: int, look: Look) -> dict[str, Any]:
    line = {"color": look.theme.muted, "width": 1.5, "dash": "dot"}
    ends = {"xref": "x", "x0": layer, "x1": layer, "yref": "y domain", "y0": 0, "y1": 1}
    return {"type": "line", "line": line, **ends}


def _axes(found: Rescaled) -> dict[str, Any]:
    layers = sorted({int(layer) for layer in found.layers["layer"]})
    return {
        "xaxis": {**layer_axis(layers, ""), "domain": [0.0, 0.66], "anchor": "y"},
        "yaxis": {
            "title": {"text": f"attention to position {found.provenance['position']}"},
            "range": [0.0, 1.02],
            "tickformat": ".0%",
            "anchor": "x",
        },
        "xaxis2": {
            "title": {"text": "run"},
            "domain": [0.78, 1.0],
            "anchor": "y2",
            "range": [-0.5, 1.5],
        },
        "yaxis2": {
            "title": {"text": "loss (nats a token)"},
            "rangemode": "tozero",
            "anchor": "x2",
        },
    }


def _sentence(found: Rescaled) -> str:
    plain, mine = found.run("plain"), found.run("rescaled")
    token = visible(str(found.provenance["token"]))
    return (
        f"Here the loss goes from {number(float(plain['loss']))} to {number(float(mine['loss']))} "
        f"nats a token, and {plain['sink_rate']:.0%} of the heads sink on {token} as it is, "
        f"{mine['sink_rate']:.0%} rescaled."
    )


VIEWS = {"rescaled": rescaled}
