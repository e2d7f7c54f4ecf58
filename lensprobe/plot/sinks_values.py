"""Figures of values and keys at a sink: an angle or a norm, and what attention there hands on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import finite, layer_axis
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import SinkValues

__all__ = ["VIEWS", "angles", "norms"]

NAMES = {"value": "value v", "written": "v · W_O", "key": "key k"}

MARKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
TIMES: dict[str, Any] = {
    "type": "log",
    "tickmode": "array",
    "tickvals": list(MARKS),
    "ticktext": [f"×{mark:g}" for mark in MARKS],
}
"""An axis of ratios."""


def angles(
    result: SinkValues,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each head's queries with the sink's key: how well they point at it, and how long the two are."""
    look = style(theme, width_mm, title)
    cosine, product = result.measure("cosine"), result.measure("product")
    gap = cosine["value"] - cosine["others"]
    ratio = product["ratio"]
    layers = [int(layer) for layer in cosine["layer"]]
    trace = go.Scatter(
        x=finite(ratio),
        y=finite(gap),
        mode="markers",
        marker={
            "color": layers,
            "colorscale": list(look.theme.sequential[2:]),
            "size": 7,
            "opacity": 0.85,
            "line": {"width": 0.5, "color": look.theme.muted},
            "colorbar": {"title": {"text": "layer", "side": "right"}, "thickness": 11},
        },
        customdata=list(zip(layers, map(int, cosine["head"]), strict=True)),
        hovertemplate=(
            "<b>layer %{customdata[0]}, head %{customdata[1]}</b><br>cosine %{y:+.2f} against other "
            "keys<br>norms ×%{x:.2f}<extra></extra>"
        ),
    )
    wins = float(((gap > 0) & (ratio < 1)).mean())
    words = Words(
        title="An angle or a norm?",
        subtitle=f"{model_name(result)}, queries after position {result.provenance['position']}",
        caption=(
            "A score is the product of the two norms times the cosine. Heads above the line point at "
            "the sink's key more than at others; heads left of ×1 have a shorter key there. Upper "
            "left: the sink is found by its angle, against its norm."
        ),
        finding=(
            f"Here {wins:.0%} of heads find the sink by its angle although its key is shorter; in the "
            f"median head the cosine is {cosine['value'].median():.2f}, with other keys "
            f"{cosine['others'].median():.2f}."
        ),
    )
    return build(
        [trace],
        look,
        words,
        height=440,
        xaxis={
            "title": {"text": "product of norms at the sink / at other keys (log scale)"},
            **TIMES,
        },
        yaxis={"title": {"text": "cosine with the sink's key, less other keys'"}, "zeroline": True},
        shapes=[_line(look, x=1.0), _line(look, y=0.0)],
        showlegend=False,
    )


def _line(look: Look, **at: float) -> dict[str, Any]:
    axis, value = next(iter(at.items()))
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": value,
        f"{axis}1": value,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "line": {"color": look.theme.muted, "width": 1, "dash": "dot"},
    }


def norms(
    result: SinkValues,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Norms at the sink over norms elsewhere, layer by layer: values, what they write, keys."""
    look = style(theme, width_mm, title)
    traces = []
    for index, (measure, name) in enumerate(NAMES.items()):
        line = result.measure(measure).groupby("layer")["ratio"].median()
        traces.append(
            go.Scatter(
                x=[int(layer) for layer in line.index],
                y=finite(line.to_numpy()),
                name=name,
                mode="lines+markers",
                line={
                    "color": look.theme.lines[index],
                    "width": 2,
                    "dash": ("solid", "dash", "dot")[index],
                },
                marker={"size": 5},
                hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>×%{{y:.3f}}<extra></extra>",
            )
        )
    written = result.measure("written")["ratio"].median()
    words = Words(
        title="How large a sink's value and key are",
        subtitle=f"{model_name(result)}, median over heads",
        caption=(
            "Norms at the sink over the mean norm elsewhere. Where v · W_O is far below ×1, a head "
            "that attends to the sink writes next to nothing: attention there is a way of not acting."
        ),
        finding=(
            f"Here the median head would write {number(float(written))} times as much from the sink as "
            f"from another token."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis([int(v) for v in result.heads["layer"]], "attn.v, attn.k"),
        yaxis={
            "title": {"text": "norm at the sink / elsewhere (log scale)"},
            **TIMES,
        },
        shapes=[_line(look, y=1.0)],
        showlegend=True,
    )


VIEWS = {"angles": angles, "norms": norms}
