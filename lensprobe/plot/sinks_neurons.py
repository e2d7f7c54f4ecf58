"""Figures of sink neurons: what is left without each, and how much each writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import finite, rows_of
from .facets import facets, on
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import Neurons

__all__ = ["VIEWS", "ranking", "removed"]

PANELS = {
    "value": "massive value",
    "sink_rate": "sink rate of key 0",
    "loss": "loss (nats a token)",
}


def removed(
    result: Neurons,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Massive value, sink rate and loss with each neuron silent, with all of them, with others."""
    look = style(theme, width_mm, title)
    frame = rows_of(result.effects, measure="value")
    names = [_name(row) for row in frame.itertuples()]
    traces: list[Any] = []
    layout = facets([""] * len(PANELS), look, {"rangemode": "tozero", "nticks": 4}, {})
    shapes: list[Any] = []
    for panel, measure in enumerate(PANELS):
        rows = rows_of(result.effects, measure=measure)
        traces.append(_bars(rows, names, look, panel))
        layout[f"xaxis{panel + 1 if panel else ''}"] |= {"title": {"text": PANELS[measure]}}
        shapes.append(_plain(float(rows["value"].iloc[0]), look, panel))
    layout |= {"annotations": [], "margin": {"t": 76, "l": 64, "r": 24, "b": 60}}
    layout["yaxis"] |= {
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "range": [len(names) - 0.4, -0.6],
        "showgrid": False,
        "title": {"text": "what is silent"},
    }
    for tail in ("2", "3"):
        layout[f"yaxis{tail}"] |= {"range": [len(names) - 0.4, -0.6], "showgrid": False}
    words = Words(
        title="The model without its sink neurons",
        subtitle=f"{model_name(result)}, neurons of layer {result.provenance['sink_layer']}",
        caption=(
            "Largest magnitude at position 0 after the sink layer, share of heads that rest on key 0, "
            "and loss, with neurons silent at every token: each of the strongest alone, all sink "
            "neurons together, and as many others. Dotted: the plain model. Bars are 95% intervals "
            "over documents."
        ),
        finding=_finding(result),
    )
    height = 210 + 26 * len(names)
    return build(traces, look, words, height=height, showlegend=False, shapes=shapes, **layout)


def ranking(
    result: Neurons,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The norm that each of the strongest neurons writes at position 0."""
    look = style(theme, width_mm, title)
    frame = result.ranking.head(30)
    kept = frame["kept"].to_numpy(bool)
    bars = go.Bar(
        x=frame["rank"].tolist(),
        y=finite(frame["norm"]),
        marker={"color": [look.theme.lines[0] if one else look.theme.muted for one in kept]},
        customdata=frame[["neuron", "activation", "share"]].to_numpy(float).tolist(),
        hovertemplate="<b>neuron %{customdata[0]:.0f}</b><br>norm %{y:,.4~g}<br>activation "
        "%{customdata[1]:,.4~g}<br>%{customdata[2]:.1%} of the layer's norms<extra></extra>",
    )
    words = Words(
        title="Who writes at the first position",
        subtitle=f"{model_name(result)}, MLP of layer {result.provenance['sink_layer']}",
        caption=(
            "Norm of what each neuron adds to the stream at position 0: its activation times the norm "
            "of its output weights. Coloured: the sink neurons, without which the massive value falls."
        ),
        finding=_finding(result),
    )
    axis = {
        "title": {"text": "norm written (log scale)"},
        "type": "log",
        "tickformat": ",",
        "dtick": 1,
    }
    return build(
        [bars], look, words, height=380, xaxis={"title": {"text": "rank of the neuron"}}, yaxis=axis
    )


def _bars(rows: Any, names: list[str], look: Look, panel: int) -> go.Scatter:
    value = rows["value"].to_numpy(float)
    theme = look.theme
    colours = {"plain": theme.ink, "alone": theme.lines[0], "together": theme.lines[1]}
    return go.Scatter(
        x=finite(value),
        y=list(range(len(names))),
        mode="markers",
        marker={"size": 9, "color": [colours.get(kind, theme.muted) for kind in rows["kind"]]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": finite(rows["high"] - value),
            "arrayminus": finite(value - rows["low"]),
            "thickness": 1.3,
            "width": 4,
            "color": theme.muted,
        },
        text=names,
        customdata=finite(rows["change"]),
        hovertemplate="<b>%{text}</b><br>%{x:,.4~g} (%{customdata:+,.4~g})<extra></extra>",
        **on(panel),
    )


def _plain(value: float, look: Look, panel: int) -> dict[str, Any]:
    tail = "" if panel == 0 else str(panel + 1)
    return {
        "type": "line",
        "xref": f"x{tail}",
        "yref": "paper",
        "x0": value,
        "x1": value,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": {"color": look.theme.muted, "width": 1.2, "dash": "dot"},
    }


def _name(row: Any) -> str:
    if row.kind == "plain":
        return "nothing silent"
    if row.kind == "alone":
        return f"neuron {int(row.neuron)}"
    if row.kind == "together":
        return "all sink neurons" if row.count != 1 else "the sink neuron"
    return f"{int(row.count)} random ({int(row.draw) + 1})"


def _finding(result: Neurons) -> str:
    plain = number(result.effect("value", "plain"))
    kept = [neuron for _, neuron in result.kept]
    if not kept or "together" not in set(result.effects["kind"]):
        return f"Here no single neuron carries the massive value of {plain}."
    names = ", ".join(map(str, kept))
    rates = [result.effect("sink_rate", kind) for kind in ("plain", "together")]
    losses = [result.effect("loss", kind) for kind in ("plain", "together")]
    return (
        f"Here without neuron{'s' * (len(kept) > 1)} {names} the value falls from {plain} to "
        f"{number(result.effect('value', 'together'))}, the sink rate goes from {rates[0]:.0%} to "
        f"{rates[1]:.0%} and the loss from {losses[0]:.2f} to {losses[1]:.2f}."
    )


VIEWS = {"removed": removed, "ranking": ranking}
