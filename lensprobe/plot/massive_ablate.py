"""Figures of ablations: what each way of taking a massive activation away costs, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite
from .facets import facets, on
from .massive_rescale import MEASURES, coordinate, documents
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import Ablate

__all__ = ["VIEWS", "effects"]

NAMES = {
    "zero": "the number, to zero",
    "mean": "the number, to its mean",
    "random zero": "random others, to zero",
    "random mean": "random others, to their mean",
    "vector mean": "the whole vector, to its mean",
    "neurons": "neurons that write it",
    "weights": "only their weights into it",
    "random neurons": "random other neurons",
}
SHOWN = ("loss", "sink_rate")


def effects(
    result: Ablate,
    *,
    measure: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change in loss and in sink rate, one bar a way of ablating; controls in grey.

    Args:
        result: ablations.
        measure: one of those in `effects`; None is those two.

    Raises:
        ArgumentError: a measure that there is not.
    """
    look = style(theme, width_mm, title)
    known = list(dict.fromkeys(result.effects["measure"]))
    if measure is not None and measure not in known:
        raise ArgumentError(f"measure={measure!r}: it was measured in {', '.join(known)}.")
    chosen = [name for name in SHOWN if name in known] if measure is None else [measure]
    kinds = list(dict.fromkeys(result.effects["kind"]))
    words = Words(
        title=f"Without {coordinate(result)}, in several ways",
        subtitle=f"{model_name(result)}, after layer {result.provenance['layer']}, "
        f"{documents(result)}",
        caption=(
            "The change from the model as it is, with 95% bootstrap intervals over documents. Grey: "
            "as much of something else, drawn at random. Zero alone misleads: what is there may be "
            "needed as a constant, which setting it to its mean keeps."
        ),
        finding=_sentence(result),
    )
    xaxis = {"zeroline": True, "zerolinecolor": look.theme.muted, "zerolinewidth": 1}
    yaxis: dict[str, Any] = {
        "tickmode": "array",
        "tickvals": list(range(len(kinds))),
        "ticktext": [_name(result, kind) for kind in kinds],
        "autorange": "reversed",
        "showgrid": False,
    }
    layout = facets([f"change in {MEASURES[name]}" for name in chosen], look, xaxis, yaxis)
    if len(chosen) == 1:
        layout["xaxis"]["title"] = {"text": f"change in {MEASURES[chosen[0]]}"}
    traces = [_bars(result, name, kinds, panel, look) for panel, name in enumerate(chosen)]
    return build(traces, look, words, height=170 + 34 * len(kinds), showlegend=False, **layout)


def _name(result: Ablate, kind: str) -> str:
    count = int(result.effects.loc[result.effects["kind"] == kind, "count"].iloc[0])
    return NAMES[kind] if kind == "vector mean" or count == 1 else f"{NAMES[kind]} ({count})"


def _bars(result: Ablate, measure: str, kinds: list[str], panel: int, look: Look) -> go.Bar:
    rows: list[Any] = [result.effect(measure, kind) for kind in kinds]
    change = [float(row["change"]) for row in rows]
    low, high = ([float(row[name]) for row in rows] for name in ("change_low", "change_high"))
    plain, signal = look.theme.lines[5], look.theme.lines[0]
    return go.Bar(
        x=finite(change),
        y=list(range(len(kinds))),
        orientation="h",
        marker={"color": [plain if kind.startswith("random") else signal for kind in kinds]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [b - a if b == b else 0.0 for a, b in zip(change, high, strict=True)],
            "arrayminus": [a - b if b == b else 0.0 for a, b in zip(change, low, strict=True)],
            "color": look.theme.ink,
            "thickness": 1.2,
            "width": 3,
        },
        customdata=[
            [_name(result, kind), number(float(row["value"])), number(a), number(b)]
            for kind, row, a, b in zip(kinds, rows, low, high, strict=True)
        ],
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>change %{x:+.4~g} [%{customdata[2]}, %{customdata[3]}]"
            "<br>value %{customdata[1]}<extra></extra>"
        ),
        **on(panel),
    )


def _sentence(result: Ablate) -> str:
    own = result.effects[result.effects["measure"] == "loss"]
    change = {str(row.kind): float(row.change) for row in own.itertuples()}
    parts = [
        f"{words} costs {number(change[kind])} nats a token"
        for kind, words in (
            ("zero", "zero"),
            ("mean", "the mean"),
            ("random zero", "zeroing as many random others"),
            ("neurons", "silencing its neurons"),
            ("weights", "their weights alone"),
            ("random neurons", "random neurons"),
        )
        if kind in change
    ]
    return f"Here {', '.join(parts)}." if parts else "Here the whole vector was set to its mean."


VIEWS = {"effects": effects}
