"""Figures of one steering vector: its largest coordinates, or its norm token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .theme import Look, Words, build, number, style
from .tokens import label, token_axis
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import SteeringVector

__all__ = ["VIEWS", "concentration", "place", "profile"]

SHOWN = 24
"""Coordinates that get a bar; the table has them all."""
LEVELS = (0.5, 0.9)
"""Shares of the squared norm that the second figure marks."""


def profile(
    vector: SteeringVector,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The largest coordinates; of a vector with a row for each token, the norm of each row."""
    look = style(theme, width_mm, title)
    if vector.tokens is None:
        return _coordinates(vector, look)
    return _rows(vector, look)


def concentration(
    vector: SteeringVector,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How much of the squared norm the largest coordinates hold: is it sparse or spread out?"""
    look = style(theme, width_mm, title)
    shares = _shares(vector)
    counts = np.arange(1, len(shares) + 1)
    spread = shares[-1] > 0
    marks = {level: int(np.searchsorted(shares, level) + 1) for level in LEVELS} if spread else {}
    traces = [
        _line(counts, shares, "largest coordinates", look.theme.lines[0]),
        go.Scatter(
            x=list(marks.values()),
            y=list(marks),
            mode="markers+text",
            text=[f"{level:.0%} in {count:,}" for level, count in marks.items()],
            textposition="bottom right",
            textfont={"color": look.theme.ink, "size": look.theme.size - 1},
            marker={"size": 9, "symbol": "circle-open", "color": look.theme.lines[1]},
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        ),
    ]
    half = marks.get(0.5, 0)
    words = Words(
        title="How concentrated the vector is",
        subtitle=place(vector),
        caption=(
            "The share of the squared norm that the largest coordinates hold together, the largest "
            "first. A vector whose curve rises at once acts through a few coordinates."
        ),
        finding=f"Here half of the squared norm lies in {half:,} of {len(shares):,} coordinates."
        if spread
        else "Here the vector is zero.",
    )
    return build(
        traces,
        look,
        words,
        height=380,
        xaxis={"title": {"text": "coordinates, largest first (log scale)"}, "type": "log"}
        | {"dtick": 1},
        yaxis={"title": {"text": "share of the squared norm"}, "tickformat": ".0%"}
        | {"range": [0, 1.04]},
        showlegend=False,
    )


def place(vector: Any) -> str:
    """Model, site and layer in one line."""
    return (
        f"{model_name(vector)}, {vector.site} of layer {vector.layer}, norm {number(vector.norm)}"
    )


def _coordinates(vector: SteeringVector, look: Look) -> go.Figure:
    values = vector.values
    largest = np.argsort(-np.abs(values), kind="stable")[:SHOWN]
    total = float(np.square(values.astype(np.float64)).sum())
    shares = np.square(values[largest].astype(np.float64)) / (total or 1.0)
    colours = [look.theme.lines[0 if value >= 0 else 1] for value in values[largest]]
    bars = go.Bar(
        x=list(range(len(largest))),
        y=values[largest].tolist(),
        customdata=np.stack([largest, shares], axis=1).tolist(),
        marker={"color": colours, "line": {"width": 0}},
        hovertemplate=(
            "<b>dim %{customdata[0]:d}</b><br>value %{y:,.4~r}"
            "<br>%{customdata[1]:.1%} of the squared norm<extra></extra>"
        ),
    )
    words = Words(
        title="The largest coordinates of the vector",
        subtitle=place(vector),
        caption=(
            f"The {len(largest)} coordinates with the largest magnitude, largest first, of "
            f"{vector.width:,}."
        ),
        finding=(
            f"Here dimension {largest[0]} is the largest ({number(float(values[largest[0]]))}), with "
            f"{shares[0]:.0%} of the squared norm; the {len(largest)} shown hold {shares.sum():.0%}."
        ),
    )
    ticks = {"tickmode": "array", "tickvals": list(range(len(largest)))}
    return build(
        [bars],
        look,
        words,
        height=380,
        xaxis={"title": {"text": "dimension"}, **ticks, "ticktext": [str(d) for d in largest]}
        | {"tickangle": -60},
        yaxis=_zeroed("value", look),
        bargap=0.25,
    )


def _rows(vector: SteeringVector, look: Look) -> go.Figure:
    norms = np.linalg.norm(vector.values.astype(np.float64), axis=1)
    names, axis = _tokens(vector)
    bars = go.Bar(
        x=list(range(len(norms))),
        y=norms.tolist(),
        text=names,
        textposition="none",
        marker={"color": look.theme.lines[0], "line": {"width": 0}},
        hovertemplate="<b>position %{x}</b><br>%{text}<br>norm %{y:,.4~r}<extra></extra>",
    )
    top = int(norms.argmax())
    words = Words(
        title="The vector's norm, token by token",
        subtitle=place(vector),
        caption=(
            "The norm of each row of the vector, which is added to the token at that position. A "
            "row is zero where both prompts are still the same."
        ),
        finding=f"Here the longest row is at position {top}: {number(float(norms[top]))}.",
    )
    return build(
        [bars],
        look,
        words,
        height=380,
        xaxis={"title": {"text": "position"}, **axis},
        yaxis={"title": {"text": "norm"}, "rangemode": "tozero"},
        bargap=0.35,
    )


def _tokens(vector: SteeringVector) -> tuple[list[str], dict[str, Any]]:
    """What stands at each position, for hover boxes and as axis settings."""
    count = int(vector.tokens or 0)
    few = count <= 2 * SHOWN
    one, two, tokens = (
        _listed(vector.provenance.get(name), count)
        for name in ("positive_tokens", "negative_tokens", "tokens")
    )
    if one and two:
        names = [f"{label(a, 12)} − {label(b, 12)}" for a, b in zip(one, two, strict=True)]
        ticks = {"tickmode": "array", "tickvals": list(range(count)), "ticktext": names}
        title = {"title": {"text": "token (positive − negative)"}}
        return names, {**title, **ticks} if few else {}
    if tokens:
        return [label(t) for t in tokens], token_axis(tokens) if few else {}
    return [""] * count, {"dtick": 1} if few else {}


def _listed(tokens: Any, count: int) -> list[str]:
    """One string for each row, or nothing where the provenance does not say."""
    return list(tokens) if isinstance(tokens, list) and len(tokens) == count else []


def _shares(vector: SteeringVector) -> np.ndarray:
    """Cumulative share of the squared norm, coordinates sorted by it; rows count together."""
    squares = np.square(vector.values.astype(np.float64)).reshape(-1, vector.width).sum(0)
    ordered = np.sort(squares)[::-1].cumsum()
    return ordered / (ordered[-1] or 1.0)


def _line(x: np.ndarray, y: np.ndarray, name: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=x.tolist(),
        y=y.tolist(),
        name=name,
        mode="lines",
        line={"color": colour, "width": 2},
        hovertemplate="the %{x:,} largest hold %{y:.1%}<extra></extra>",
    )


def _zeroed(title: str, look: Look) -> dict[str, Any]:
    zero = {"zeroline": True, "zerolinecolor": look.theme.muted, "zerolinewidth": 1}
    return {"title": {"text": title}, **zero}


VIEWS = {"profile": profile, "concentration": concentration}
