"""Figures of an anatomy: the sum that makes a coordinate, and the neurons that write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite
from .massive_carriers import ablations, own, sources
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import Anatomy

__all__ = ["VIEWS", "ablations", "neurons", "sources", "waterfall"]

SHOWN = 0.01
"""Least share of the value from which a part has a bar of its own; the others are drawn together."""
BARS = 12
"""Parts that have a bar of their own at most, however many are that large."""
NEURONS = 14
NAMES = {"embed": "embedding", "pos_embed": "position", "attn": "attention", "mlp": "MLP"}


def waterfall(
    result: Anatomy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What each part adds to the coordinate, from the embedding to the last layer that was read."""
    look = style(theme, width_mm, title)
    first = result.values.iloc[0]
    steps = _steps(result, first)
    trace = go.Waterfall(
        x=list(range(len(steps))),
        y=finite(step["value"] for step in steps),
        measure=[step["measure"] for step in steps],
        customdata=[[step["name"], step["text"]] for step in steps],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        connector={"line": {"color": look.theme.muted, "width": 1}},
        increasing={"marker": {"color": look.theme.lines[0]}},
        decreasing={"marker": {"color": look.theme.lines[1]}},
        totals={"marker": {"color": look.theme.lines[5]}},
        text=[step["label"] for step in steps],
        textposition="outside",
        constraintext="none",
        textfont={"size": look.theme.size - 2, "color": look.theme.ink},
        cliponaxis=False,
    )
    words = Words(
        title=f"What dim {int(first['dim'])} at position {int(first['position'])} is made of",
        subtitle=f"{model_name(result)}, mean over {plural(first['count'], 'sequence')}",
        caption=(
            "Each bar is what one part of the model adds to the coordinate; blue raises, orange "
            "lowers, dark bars are the value so far. Small parts are drawn together. The bars "
            f"up to layer {int(first['layer'])} sum to the value, with a remainder of "
            f"{number(first['remainder'])} from rounding."
        ),
        finding=_sentence(result, first),
    )
    levels = np.cumsum([0.0, *(s["value"] for s in steps if s["measure"] == "relative")])
    low, high = float(levels.min()), float(levels.max())
    pad = 0.12 * (high - low or 1.0)
    return build(
        [trace],
        look,
        words,
        height=440,
        xaxis={
            "title": {"text": "part of the model"},
            "tickmode": "array",
            "tickvals": list(range(len(steps))),
            "ticktext": [step["name"] for step in steps],
            "tickangle": -40 if len(steps) > 6 else 0,
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "value a (signed)"},
            "tickformat": ",",
            "range": [low - pad, high + pad],
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
        showlegend=False,
    )


def neurons(
    result: Anatomy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The neurons that write and erase most, each as activation × weight."""
    look = style(theme, width_mm, title)
    first = result.values.iloc[0]
    frame = own(result.neurons, first)
    order = np.argsort(-np.abs(frame["value"].to_numpy(float)), kind="stable")
    top = frame.iloc[order[:NEURONS]]
    rest = frame.iloc[order[NEURONS:]]
    names = [f"layer {a}, neuron {b}" for a, b in zip(top["layer"], top["neuron"], strict=True)]
    text = [_product(row) for row in top.itertuples()]
    values = list(top["value"])
    if len(rest):
        names.append(f"the other {len(rest):,}")
        text.append(number(float(rest["value"].sum())))
        values.append(float(rest["value"].sum()))
    trace = _bars(names, values, text, first, look)
    words = Words(
        title="The neurons that write it and erase it",
        subtitle=f"{model_name(result)}, dim {int(first['dim'])} at position {int(first['position'])}",
        caption=(
            "The largest contributions of single neurons in the layers that write or erase, as "
            "activation × output weight (× the scale of a norm, where the block has one behind its "
            "MLP). Blue adds to the value, orange takes from it."
        ),
        finding=_carried(result, first),
    )
    low, high = min([0.0, *values]), max([0.0, *values])
    pad = 0.3 * (high - low or 1.0)
    return build(
        [trace],
        look,
        words,
        height=max(280, 120 + 24 * len(values)),
        xaxis={
            "title": {"text": "contribution to a"},
            "tickformat": ",",
            "range": [low - (pad if low < 0 else 0.02 * pad), high + pad],
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
        yaxis={
            "title": {"text": "neuron"},
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "autorange": "reversed",
            "showgrid": False,
        },
        showlegend=False,
    )


def _bars(names: list[str], values: list[float], text: list[str], first: Any, look: Look) -> go.Bar:
    sign = -1.0 if first["value"] < 0 else 1.0
    colours = [look.theme.lines[0 if sign * value >= 0 else 1] for value in values]
    return go.Bar(
        x=finite(values),
        y=list(range(len(values))),
        orientation="h",
        marker={"color": colours, "line": {"width": 0}},
        text=text,
        textposition="outside",
        cliponaxis=False,
        textfont={"size": look.theme.size - 2, "color": look.theme.ink},
        customdata=[
            [name, number(v), f"{v / first['value']:.1%}"]
            for name, v in zip(names, values, strict=True)
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>adds %{customdata[1]}, %{customdata[2]} of the value"
        "<extra></extra>",
    )


def _product(row: Any) -> str:
    scale = "" if row.scale == 1.0 else f" × {number(row.scale)}"
    return f"{number(row.activation)} × {number(row.weight)}{scale}"


def _steps(result: Anatomy, first: Any) -> list[dict[str, Any]]:
    """The bars: large parts alone, runs of small ones together, totals where the sum is stated."""
    frame = own(result.layers, first)
    least = SHOWN * abs(first["value"])
    if len(frame) > BARS:
        least = max(least, float(np.sort(np.abs(frame["value"]))[-BARS]))
    steps: list[dict[str, Any]] = []
    run: list[Any] = []
    total = 0.0

    def together() -> None:
        if run:
            value = sum(row.value for row in run)
            steps.append(_step(_range(run), value, first))
            run.clear()

    rows: list[Any] = list(frame.itertuples())
    for index, row in enumerate(rows):
        total += row.value
        if abs(row.value) >= least and row.value:
            together()
            steps.append(_step(_part(row), row.value, first))
        else:
            run.append(row)
        last = index + 1 == len(rows)
        if (last or rows[index + 1].layer > row.layer) and (row.layer == first["layer"] or last):
            together()
            at = f"after layer {row.layer}"
            if not steps or steps[-1]["name"] != at:
                step = {"name": at, "value": 0.0, "measure": "total", "label": number(total)}
                steps.append({**step, "text": f"a = {number(total)}"})
    return steps


def _step(name: str, value: float, first: Any) -> dict[str, Any]:
    share = value / first["value"] if first["value"] else 0.0
    text = f"adds {number(value)}, {share:.1%} of the value"
    return {
        "name": name,
        "value": float(value),
        "measure": "relative",
        "label": number(value),
        "text": text,
    }


def _part(row: Any) -> str:
    name = NAMES[row.component]
    return name if row.layer < 0 else f"{name} {row.layer}"


def _range(run: list[Any]) -> str:
    if len(run) == 1:
        return _part(run[0])
    low, high = run[0].layer, run[-1].layer
    if high < 0:
        return "embedding"
    if low < 0:
        return f"embedding to {high}"
    return f"rest of {low}" if low == high else f"rest of {low} to {high}"


def _sentence(result: Anatomy, first: Any) -> str:
    frame = own(result.layers, first)
    words = {}
    for kind in ("writer", "eraser"):
        rows = frame[frame["kind"] == kind]
        parts = [f"{_part(row)} ({number(row.value)})" for row in rows.itertuples()]
        words[kind] = ", ".join(parts[:4]) + (" and others" if len(parts) > 4 else "")
    start = f"Here the value after layer {int(first['layer'])} is {number(first['value'])}"
    written = (
        f", written by {words['writer']}" if words["writer"] else ", and no one part writes it"
    )
    erased = f"; it is taken back by {words['eraser']}" if words["eraser"] else ""
    return f"{start}{written}{erased}."


def _carried(result: Anatomy, first: Any) -> str:
    rows = own(result.weights, first)
    if rows.empty:
        return "Here no set of neurons carries 95% of the value: other parts write it too."
    names = [f"{int(r.neuron)} of layer {int(r.layer)}" for r in rows.head(4).itertuples()]
    more = " and others" if len(rows) > 4 else ""
    one = len(rows) == 1
    return (
        f"Here {'one neuron carries' if one else f'{len(rows):,} neurons carry'} "
        f"{float(rows['total'].iloc[-1]):.0%} of the value: {', '.join(names)}{more}."
    )


VIEWS = {"waterfall": waterfall, "neurons": neurons, "sources": sources, "ablations": ablations}
