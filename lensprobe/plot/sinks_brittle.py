"""Figures of brittleness: text that repeats itself, before and after a repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .facets import facets, on
from .theme import Look, Words, build, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..sinks import Brittle

__all__ = ["VIEWS", "loss", "massive"]

NAMES = {
    "loss": "loss (nats a token)",
    "sink_rate": "sink rate of key 0",
    "mass": "attention to massive tokens",
    "massive": "tokens with a massive value",
    "perplexity": "perplexity",
}


def loss(
    result: Brittle,
    *,
    measure: str = "loss",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each kind of sequence, plain and repaired.

    Args:
        result: a brittleness study.
        measure: "loss", "perplexity", "sink_rate", "mass" or "massive".
    """
    look = style(theme, width_mm, title)
    if measure not in NAMES:
        raise ArgumentError(f"measure={measure!r}: {', '.join(NAMES)}.")
    count = result.provenance["measured"]
    words = Words(
        title="What repetition costs, before and after the repair"
        if measure == "loss"
        else f"{NAMES[measure].capitalize()}, before and after the repair",
        subtitle=f"{model_name(result)}, {plural(count, 'sequence')} of each kind",
        caption=(
            f"{NAMES[measure].capitalize()} on ordinary text and on sequences made of its tokens that "
            "repeat themselves. Bars are 95% intervals over documents."
        ),
        finding=_finding(result),
    )
    frame = rows_of(result.effects, measure=measure)
    fronts = sorted(set(frame["bos"]))
    kinds = list(dict.fromkeys(frame["kind"]))
    traces: list[Any] = []
    for panel, front in enumerate(fronts):
        for index, condition in enumerate(("plain", "repaired")):
            rows = rows_of(frame, bos=front, condition=condition)
            traces.append(_dots(rows, kinds, condition, index, look, panel))
    names = ["BOS in front" if front else "nothing in front" for front in fronts]
    yaxis = {
        "tickvals": list(range(len(kinds))),
        "ticktext": kinds,
        "range": [len(kinds) - 0.4, -0.6],
        "showgrid": False,
    }
    xaxis: dict[str, Any] = {"title": {"text": NAMES[measure]}, "rangemode": "tozero"}
    if measure in ("sink_rate", "mass", "massive"):
        xaxis |= {"tickformat": ".0%", "range": [-0.04, 1.04]}
    layout = facets(names, look, xaxis, yaxis)
    return build(traces, look, words, height=230 + 46 * len(kinds), showlegend=True, **layout)


def massive(
    result: Brittle,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The share of tokens that are taken for first tokens, plain and repaired."""
    return loss(result, measure="massive", theme=theme, width_mm=width_mm, title=title)


def _dots(
    rows: Any, kinds: list[str], condition: str, index: int, look: Look, panel: int
) -> go.Scatter:
    value = rows["value"].to_numpy(float)
    colour = (look.theme.muted, look.theme.lines[1])[index]
    return go.Scatter(
        x=finite(value),
        y=[kinds.index(kind) + (index - 0.5) * 0.24 for kind in rows["kind"]],
        mode="markers",
        name=condition,
        legendgroup=condition,
        showlegend=panel == 0,
        marker={"size": 9, "color": colour, "symbol": ("circle", "diamond")[index]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": finite(rows["high"] - value),
            "arrayminus": finite(value - rows["low"]),
            "thickness": 1.3,
            "width": 4,
            "color": colour,
        },
        text=list(rows["kind"]),
        customdata=[
            finite(row) for row in rows[["change", "change_low", "change_high"]].to_numpy(float)
        ],
        hovertemplate=f"<b>%{{text}}, {condition}</b><br>%{{x:.4~g}}"
        "<br>change %{customdata[0]:+.3~g} [%{customdata[1]:+.3~g}, %{customdata[2]:+.3~g}]"
        "<extra></extra>",
        **on(panel),
    )


def _finding(result: Brittle) -> str:
    frame = result.effects
    front = bool(frame["bos"].iloc[0])
    parts = []
    for kind in dict.fromkeys(frame["kind"]):
        shares = [
            float(result.effect("massive", kind, bos=front, condition=c).to_dict()["value"])
            for c in ("plain", "repaired")
        ]
        row = result.effect("loss", kind, bos=front, condition="repaired").to_dict()
        parts.append(f"{kind}: {shares[0]:.0%} to {shares[1]:.0%}, loss {row['change']:+.2f}")
    where = "behind BOS" if front else "with nothing in front"
    return f"Here, {where}, massive tokens and loss change by the repair so: {'; '.join(parts)}."


VIEWS = {"loss": loss, "massive": massive}
