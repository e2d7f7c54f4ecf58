"""Figures of a first-token detector: its heads, and what it makes of copies and of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .theme import Words, build, number, style
from .tokens import label
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import FirstTokenDetector

__all__ = ["VIEWS", "copies", "heads", "text"]


def heads(
    result: FirstTokenDetector,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each head's share of the direction, and how well it tells first tokens apart by itself."""
    look = style(theme, width_mm, title)
    frame = result.heads[result.heads["head"] >= 0]
    bars = go.Bar(
        x=frame["head"].tolist(),
        y=finite(frame["share"]),
        marker={"color": look.theme.lines[0]},
        customdata=finite(frame["separation"]),
        hovertemplate="<b>head %{x}</b><br>%{y:.1%} of the direction<br>separation "
        "%{customdata:.3f}<extra></extra>",
        text=[f"{value:.2f}" for value in frame["separation"]],
        textposition="outside",
        cliponaxis=False,
    )
    words = Words(
        title="Which heads mark a first token",
        subtitle=f"{model_name(result)}, attention of layer {result.provenance['layer']}",
        caption=(
            "Share of the direction from tokens in their places to tokens alone that each head writes; "
            "shares sum to 1. Above the bars, how well the head alone separates the two on other "
            "documents (0.5 is chance, 1 perfect)."
        ),
        finding=_finding(result),
    )
    yaxis = {"title": {"text": "share of the direction"}, "tickformat": ".0%"}
    xaxis = {"title": {"text": f"head of layer {result.provenance['layer']}"}, "dtick": 1}
    return build([bars], look, words, height=400, xaxis=xaxis, yaxis=yaxis)


def copies(
    result: FirstTokenDetector,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How far the last of several copies is from the token alone, with BOS in front and without."""
    look = style(theme, width_mm, title)
    frame = rows_of(result.distances, head=-1)
    traces: list[Any] = []
    for index, front in enumerate(sorted(set(frame["bos"]))):
        rows = frame[frame["bos"] == front].groupby("count")["ratio"]
        median, low, high = (rows.quantile(q) for q in (0.5, 0.1, 0.9))
        name = "BOS in front" if front else "nothing in front"
        traces.append(
            go.Scatter(
                x=[int(count) for count in median.index],
                y=finite(median),
                name=name,
                mode="lines+markers",
                line={
                    "color": look.theme.lines[index],
                    "width": 2,
                    "dash": ("solid", "dash")[index],
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": finite(high - median),
                    "arrayminus": finite(median - low),
                    "thickness": 1.2,
                    "width": 4,
                },
                hovertemplate=f"<b>{name}</b><br>%{{x}} copies: %{{y:.3g}}<extra></extra>",
            )
        )
    words = Words(
        title="How alike copies and a lone token look",
        subtitle=f"{model_name(result)}, attention of layer {result.provenance['layer']}",
        caption=(
            "Distance between what attention adds at the last of several copies of a token and what it "
            "adds to that token alone, relative to the latter: median over words, bars from the 10th "
            "to the 90th percentile. 0 is no difference: the layer cannot tell them apart."
        ),
        finding=_copies_finding(result),
    )
    xaxis = {"title": {"text": "copies of the token (log scale)"}, "type": "log", "dtick": 0.30103}
    yaxis = {"title": {"text": "distance from the token alone"}, "rangemode": "tozero"}
    return build(traces, look, words, height=400, showlegend=True, xaxis=xaxis, yaxis=yaxis)


def text(
    result: FirstTokenDetector,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What the direction says of ordinary text, token by token."""
    look = style(theme, width_mm, title)
    frame = result.tokens
    points = go.Scatter(
        x=frame["position"].tolist(),
        y=finite(frame["value"]),
        mode="markers",
        marker={"size": 5, "color": look.theme.lines[0], "opacity": 0.8},
        text=[label(str(token)) for token in frame["token"]],
        customdata=frame["document"].tolist(),
        hovertemplate="<b>%{text}</b>, position %{x}, document %{customdata}<br>%{y:.2f}"
        "<extra></extra>",
    )
    later = frame.loc[frame["position"] > 0, "value"].to_numpy(float)
    words = Words(
        title="The detector on ordinary text",
        subtitle=f"{model_name(result)}, documents that the direction was not found on",
        caption=(
            "Component along the direction: 0 is the mean of tokens in their places, 1 that of the "
            "same tokens alone. Position 0 is a first token; high values elsewhere are false positives."
        ),
        finding=(
            f"Here {np.mean(later > 0.5):.1%} of {len(later):,} later tokens look more like first "
            "tokens than like tokens in their places."
        ),
    )
    line = {"color": look.theme.muted, "width": 1.2, "dash": "dot"}
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "layer": "below", "line": line}
    return build(
        [points],
        look,
        words,
        height=400,
        shapes=[{**level, "y0": one, "y1": one} for one in (0.0, 1.0)],
        xaxis={"title": {"text": "position"}},
        yaxis={"title": {"text": "component along the direction"}},
    )


def _finding(result: FirstTokenDetector) -> str:
    head = result.strongest_head
    share = float(rows_of(result.heads, head=head)["share"].iloc[0])
    return (
        f"Here head {head} writes {share:.0%} of the direction; all heads together separate with "
        f"{result.separation:.3f}."
    )


def _copies_finding(result: FirstTokenDetector) -> str:
    frame = rows_of(result.distances, head=-1)
    most = int(frame["count"].max())
    parts = []
    for front, words in ((False, "with nothing in front"), (True, "behind BOS")):
        own = (frame["bos"] == front) & (frame["count"] == most)
        if own.any():
            middle = float(frame.loc[own, "ratio"].median())
            parts.append(f"{number(middle)} {words}")
    return f"Here the median distance at {most} copies is {' and '.join(parts)}."


VIEWS = {"heads": heads, "copies": copies, "text": text}
