"""Figures of a steering sweep: what an effect costs, and the tokens that it moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .steering_wording import NAMES, chosen_layers, documents, scale_text, strongest, with_ends
from .theme import Look, Words, build, style
from .tokens import label
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import Sweep

__all__ = ["tokens", "tradeoff"]


def tradeoff(
    sweep: Sweep,
    *,
    layers: int | Sequence[int] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The wanted effect against the side effect: answers moved, over perplexity lost on texts.

    Raises:
        ArgumentError: the sweep has not both questions and texts.
    """
    look = style(theme, width_mm, title)
    have = set(sweep.effects["measure"])
    if not {"probability", "ratio"} <= have:
        raise ArgumentError(
            "tradeoff needs a sweep over questions and texts: "
            'sweep(model, {"questions": ..., "texts": ...}).'
        )
    answers = rows_of(sweep.effects, measure="probability")
    first = str(answers["group"].iloc[0])
    answers = rows_of(answers, group=first)
    side = rows_of(sweep.effects, measure="ratio")
    side = rows_of(side, group=side["group"].iloc[0])
    both = answers.merge(side, on=["layer", "scale"], suffixes=("", "_side"))
    traces = []
    for index, layer in enumerate(chosen_layers(answers, layers)):
        rows = with_ends(rows_of(both, layer=layer)).sort_values(by=["scale"])
        colour = look.theme.lines[index % len(look.theme.lines)]
        traces.append(
            go.Scatter(
                x=finite(rows["value_side"]),
                y=finite(rows["value"]),
                mode="lines+markers",
                name=f"layer {layer}",
                line={"color": colour, "width": 2},
                marker={"size": 7, "color": colour},
                error_y=_whiskers(rows, "value", "low", "high"),
                text=[scale_text(s) for s in rows["scale"]],
                hovertemplate=(
                    f"<b>layer {layer}, scale %{{text}}</b><br>probability %{{y:.3f}}"
                    "<br>perplexity ratio %{x:.3f}<extra></extra>"
                ),
            )
        )
    plain = rows_of(sweep.plain, group=first, measure="probability").iloc[0]["value"]
    words = Words(
        title="What steering buys, and what it costs",
        subtitle=f"{model_name(sweep)}, {documents(sweep)}",
        caption=(
            "Probability of the matching answer against the perplexity of ordinary text over its "
            "plain value, a point for each scale. Up and to the left is a vector that moves answers "
            "and leaves the rest alone. Bars are 95% intervals of the change from the unsteered "
            "model (dashed), paired by question."
        ),
        finding=strongest(sweep, "probability", [first]),
    )
    return build(
        traces,
        look,
        words,
        height=430,
        showlegend=True,
        xaxis={"title": {"text": NAMES["ratio"] + " (log scale)"}, "type": "log", "dtick": "D2"},
        yaxis={"title": {"text": NAMES["probability"]}},
        shapes=[_level(float(plain), look)],
    )


def tokens(
    sweep: Sweep,
    *,
    layer: int | None = None,
    scale: float | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The next tokens whose probability moves most at one layer and scale.

    Args:
        sweep: a sweep with `measure` including "tokens".
        layer: None is the one where they move most; so is `scale`.

    Raises:
        ArgumentError: the sweep kept no tokens, or has not that layer or scale.
    """
    look = style(theme, width_mm, title)
    frame = sweep.tokens
    if frame.empty:
        raise ArgumentError('this sweep kept no tokens; ask for them with measure=[..., "tokens"].')
    frame = frame if layer is None else rows_of(frame, layer=layer)
    frame = frame if scale is None else rows_of(frame, scale=scale)
    if frame.empty:
        raise ArgumentError(f"layer={layer!r}, scale={scale!r}: this sweep has no such cell.")
    top = frame.loc[frame["change"].abs().idxmax()]
    rows = rows_of(frame, **{name: top[name] for name in ("group", "layer", "scale")})
    rows = rows.drop_duplicates("id").sort_values("change")
    up = rows["change"] > 0
    theme_lines = look.theme.lines
    bars = go.Bar(
        x=finite(rows["change"]),
        # Integer positions: two tokens may show alike, and must not merge.
        y=list(range(len(rows))),
        orientation="h",
        marker={"color": np.where(up, theme_lines[0], theme_lines[1]).tolist()},
        customdata=finite(rows["probability"]),
        hovertemplate="change %{x:+.3f}<br>probability %{customdata:.3f}<extra></extra>",
    )
    words = Words(
        title="Next tokens that steering moves",
        subtitle=f"{model_name(sweep)}, layer {top['layer']}, scale {scale_text(top['scale'])}",
        caption=(
            "Mean change in next-token probability after the documents of one group, for the tokens "
            "that rise and fall most."
        ),
        finding=f"Here {label(str(top['token']))} moves most, by {top['change']:+.3f}.",
    )
    ticks = {"tickvals": list(range(len(rows))), "ticktext": [label(t) for t in rows["token"]]}
    return build(
        [bars],
        look,
        words,
        height=120 + 22 * len(rows),
        xaxis={"title": {"text": "change in probability"}, "zeroline": True},
        yaxis={"title": {"text": "next token"}, **ticks},
    )


def _level(value: float, look: Look) -> dict[str, Any]:
    line = {"color": look.theme.muted, "width": 1.5, "dash": "dash"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
    return {"type": "line", **ends, "line": line, "layer": "below"}


def _whiskers(rows: pd.DataFrame, value: str, low: str, high: str) -> dict[str, Any]:
    above = finite(rows[high] - rows[value])
    below = finite(rows[value] - rows[low])
    arrays = {"array": above, "arrayminus": below, "symmetric": False}
    return {"type": "data", **arrays, "thickness": 1, "width": 2}
