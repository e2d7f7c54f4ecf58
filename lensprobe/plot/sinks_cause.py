"""Does the massive activation make the sink? What is left of both, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .facets import facets, on
from .massive_ablate import NAMES
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..sinks import Cause

__all__ = ["VIEWS", "causes"]

PANELS = {
    "ratio": "left of the number",
    "sink_rate": "sink rate",
    "change": "change in loss (nats)",
}
ENDS = {
    "sink_rate": ("sink_rate", ("low", "high")),
    "change": ("loss", ("change_low", "change_high")),
}


def causes(
    result: Cause,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What each way of taking the number away leaves of it, of the sink, and of the loss."""
    look = style(theme, width_mm, title)
    kinds = list(result.causes["kind"])
    epsilon = float(result.provenance["epsilon"])
    where = f"dim {', '.join(map(str, result.provenance['dims']))}"
    words = Words(
        title="Does the massive activation make the sink?",
        subtitle=f"{model_name(result)}, {where} at position {result.provenance['position']}, "
        f"after layer {result.provenance['layer']}",
        caption=(
            "Each row takes the number away in one way. Left: how much of it is left where it is "
            f"largest. Middle: share of heads that give more than ε = {epsilon:g} of their attention "
            "to that position. Right: what it costs, nats a token. Grey rows are controls, as much of "
            "something else. Bars are 95% intervals over documents."
        ),
        finding=_sentence(result),
    )
    counts = [int(count) for count in result.causes["count"]]
    yaxis: dict[str, Any] = {
        "tickmode": "array",
        "tickvals": list(range(len(kinds))),
        "ticktext": [_name(*pair) for pair in zip(kinds, counts, strict=True)],
        "autorange": "reversed",
        "showgrid": False,
    }
    xaxis = {"zeroline": True, "zerolinecolor": look.theme.muted, "zerolinewidth": 1}
    layout = facets(list(PANELS.values()), look, {**xaxis, "nticks": 5}, yaxis)
    layout["xaxis"]["tickformat"] = layout["xaxis2"]["tickformat"] = ".0%"
    traces = [_bars(result, name, panel, look) for panel, name in enumerate(PANELS)]
    return build(traces, look, words, height=170 + 32 * len(kinds), showlegend=False, **layout)


def _name(kind: str, count: int) -> str:
    if kind == "plain":
        return "the model as it is"
    return f"{NAMES[kind]} ({count})" if "neurons" in kind or kind == "weights" else NAMES[kind]


def _bars(result: Cause, column: str, panel: int, look: Look) -> go.Bar:
    kinds = list(result.causes["kind"])
    values = result.causes[column].to_numpy(float)
    control = [kind == "plain" or kind.startswith("random") for kind in kinds]
    ends = _ends(result, column, kinds, values)
    return go.Bar(
        x=finite(values),
        y=list(range(len(kinds))),
        orientation="h",
        marker={"color": [look.theme.lines[5 if plain else 0] for plain in control]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(ends[:, 1] - values).tolist(),
            "arrayminus": np.nan_to_num(values - ends[:, 0]).tolist(),
            "thickness": 1.2,
            "width": 3,
            "color": look.theme.ink,
        },
        customdata=[[kind, number(value)] for kind, value in zip(kinds, values, strict=True)],
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{PANELS[column]} %{{customdata[1]}}"
        "<extra></extra>",
        **on(panel),
    )


def _ends(result: Cause, column: str, kinds: list[str], values: np.ndarray) -> np.ndarray:
    """Interval ends `[kind 2]`; what has none stands at its value."""
    found = np.stack([values, values], axis=1)
    measure, names = ENDS.get(column, ("", ()))
    rows: list[Any] = list(rows_of(result.effects, measure=measure).itertuples())
    for row in rows:
        found[kinds.index(row.kind)] = [float(getattr(row, name)) for name in names]
    return np.where(np.isfinite(found), found, values[:, None])


def _sentence(result: Cause) -> str:
    each: list[Any] = list(result.causes.itertuples())
    rows = {row.kind: row for row in each}
    plain = rows["plain"]
    words = [f"{plain.sink_rate:.0%} of the heads rest on the position"]
    if "zero" in rows:
        row = rows["zero"]
        words.append(f"{row.sink_rate:.0%} with the number at zero (loss {row.change:+.2f} nats)")
    if "mean" in rows:
        words.append(f"{rows['mean'].sink_rate:.0%} with it at its mean")
    if "neurons" in rows:
        row = rows["neurons"]
        words.append(
            f"{row.sink_rate:.0%} without the {plural(row.count, 'neuron')} that write it, which "
            f"leaves {row.ratio:.0%} of the number"
        )
    return f"Here {', '.join(words)}."


VIEWS = {"causes": causes}
