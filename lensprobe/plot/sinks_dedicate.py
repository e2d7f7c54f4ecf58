"""Figures of a virtual sink: what it saves, and what it does to repeated words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .facets import facets, on
from .theme import Look, Words, build, style
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import Dedicate

__all__ = ["VIEWS", "loss", "massive", "sinks"]

KINDS = {
    "plain": "massive activation as it is",
    "zero": "massive coordinate at zero",
    "neurons": "without the sink neurons",
}
CONDITIONS = {"own": "its own first token", "virtual": "a virtual sink", "fitted": "a fitted sink"}
GROUPS = {"text": "texts", "repeats": "one word repeated"}


def loss(
    result: Dedicate,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Loss with and without the massive activation, with a virtual sink and without."""
    look = style(theme, width_mm, title)
    words = Words(
        title="Does a model with a sink of its own need its massive activation?",
        subtitle=f"{model_name(result)}, {_place(result)}",
        caption=(
            "Loss behind the text's own first token and behind a virtual sink, keys and values that "
            "no token computes, with the massive activation and without. Bars of equal length "
            "behind the virtual sink mean that the activation was needed for nothing else. "
            "Whiskers are 95% intervals over documents, or words."
        ),
        finding=_finding(result),
    )
    return _panels(result, "loss", look, words, {"title": {"text": "loss (nats a token)"}})


def sinks(
    result: Dedicate,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Share of heads that rest on what stands in front."""
    look = style(theme, width_mm, title)
    epsilon = float(result.provenance["epsilon"])
    front = "BOS" if result.provenance["bos"] else "the first token"
    words = Words(
        title="Who rests on the front",
        subtitle=f"{model_name(result)}, attention above ε = {epsilon:g}",
        caption=(
            f"Share of heads that give more than ε = {epsilon:g} of their attention to {front}, or to "
            "the virtual sink in its place, with the massive activation and without. Whiskers are "
            "95% intervals over documents, or words."
        ),
        finding=_rates(result),
    )
    axis = {"title": {"text": "sink rate"}, "tickformat": ".0%", "range": [0, 1]}
    return _panels(result, "sink_rate", look, words, axis)


def massive(
    result: Dedicate,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Share of the tokens that are given a massive activation, most of them wrongly in repeats."""
    look = style(theme, width_mm, title)
    words = Words(
        title="Which tokens are treated as the first",
        subtitle=f"{model_name(result)}, {_place(result)}",
        caption=(
            "Share of the tokens read that have at least half of a first token's massive value. In "
            "repeats every such copy is a false positive; behind a virtual sink no token needs one."
        ),
        finding=_fooled(result),
    )
    axis = {"title": {"text": "tokens with a massive value"}, "tickformat": ".0%", "range": [0, 1]}
    return _panels(result, "massive", look, words, axis)


def _panels(
    result: Dedicate, measure: str, look: Look, words: Words, yaxis: dict[str, Any]
) -> go.Figure:
    groups = list(dict.fromkeys(result.effects["group"]))
    known = list(dict.fromkeys(result.effects["condition"]))
    traces: list[Any] = []
    for panel, group in enumerate(groups):
        for index, kind in enumerate(KINDS):
            rows = rows_of(result.effects, measure=measure, group=group, kind=kind)
            if rows.empty:
                continue
            places = [known.index(name) for name in rows["condition"]]
            value = rows["value"].to_numpy(float)
            ends = rows[["low", "high"]].to_numpy(float)
            # One document, or one word, has no interval.
            ends = np.where(np.isfinite(ends), ends, value[:, None])
            traces.append(
                go.Bar(
                    x=places,
                    y=finite(value),
                    name=KINDS[kind],
                    legendgroup=kind,
                    showlegend=panel == 0,
                    marker={"color": look.theme.lines[index]},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": (ends[:, 1] - value).tolist(),
                        "arrayminus": (value - ends[:, 0]).tolist(),
                        "thickness": 1.2,
                        "width": 3,
                        "color": look.theme.ink,
                    },
                    customdata=ends.tolist(),
                    text=[CONDITIONS[name] for name in rows["condition"]],
                    textposition="none",
                    hovertemplate=f"<b>%{{text}}, {KINDS[kind]}</b><br>%{{y:.3~g}} "
                    "[%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]<extra></extra>",
                    **on(panel),
                )
            )
    xaxis = {
        "tickmode": "array",
        "tickvals": list(range(len(known))),
        "ticktext": [CONDITIONS[name] for name in known],
    }
    layout = facets([GROUPS[group] for group in groups], look, xaxis, yaxis)
    return build(traces, look, words, height=430, barmode="group", showlegend=True, **layout)


def _place(result: Dedicate) -> str:
    facts = result.provenance
    return f"dim {facts['dim']} after layer {facts['sink_layer']}"


def _values(result: Dedicate, measure: str, group: str) -> dict[tuple[str, str], float]:
    rows: list[Any] = list(rows_of(result.effects, measure=measure, group=group).itertuples())
    return {(row.condition, row.kind): float(row.value) for row in rows}


def _finding(result: Dedicate) -> str:
    found = _values(result, "loss", "text")
    removed = "neurons" if ("own", "neurons") in found else "zero"
    taken = "without its sink neurons" if removed == "neurons" else "with the coordinate at zero"
    if ("virtual", removed) not in found:
        return "Here the runs that would be compared were not finished."
    return (
        f"Here the loss on texts is {found['own', 'plain']:.2f} nats as the model is and "
        f"{found['own', removed]:.2f} {taken}; behind the virtual sink it is "
        f"{found['virtual', 'plain']:.2f}, and {found['virtual', removed]:.2f} {taken}."
    )


def _rates(result: Dedicate) -> str:
    found = _values(result, "sink_rate", "text")
    removed = "neurons" if ("own", "neurons") in found else "zero"
    words = [
        f"{found[name, 'plain']:.0%} behind {front} and {found[name, removed]:.0%} "
        f"{KINDS[removed] if removed == 'neurons' else 'with the coordinate at zero'}"
        for name, front in CONDITIONS.items()
        if (name, removed) in found
    ]
    return f"Here the sink rate on texts is {', '.join(words)}."


def _fooled(result: Dedicate) -> str:
    found = _values(result, "massive", "repeats")
    words = [
        f"{share:.0%} of them behind {CONDITIONS[name]}"
        for (name, kind), share in found.items()
        if kind == "plain"
    ]
    return f"Here, of the tokens of repeats, a massive value is given to {', '.join(words)}."


VIEWS = {"loss": loss, "sinks": sinks, "massive": massive}
