"""Figures of the attention patterns of one text: all heads at once, one head, and the map of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import rows_of
from .massive_heads import head_maps
from .theme import Words, build, colour_bar, style
from .tokens import label, token_axis, visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..running import Attention

__all__ = ["THUMB", "VIEWS", "first_sentence", "grid", "head", "heads", "pooled"]

THUMB = 48
"""Most cells along the side of a head in the grid; longer texts are pooled."""
GAP = 3
LABELLED = 64
"""Tokens that can all be named along an axis; of longer texts, every so many are."""
MEASURES = {
    "value": "attention to the first token",
    "previous": "attention to the token before",
    "own": "attention to the query itself",
    "entropy": "entropy (nats)",
}
TICKS = (0.0, 0.1, 0.25, 0.5, 1.0)


def pooled(patterns: np.ndarray, side: int) -> np.ndarray:
    """Patterns `[... query key]` with at most `side` queries and keys: the largest weight of each cell.

    >>> pooled(np.arange(16, dtype=np.uint8).reshape(4, 4), 2).tolist()
    [[5, 7], [13, 15]]
    """
    length = patterns.shape[-1]
    begins = np.arange(0, length, -(-length // side))
    rows = np.maximum.reduceat(patterns, begins, axis=-2)
    return np.maximum.reduceat(rows, begins, axis=-1)


def grid(
    found: Attention,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Every head as a small pattern, layers from top to bottom.

    Colours rise with the square root of the weight, so that small weights are seen beside a sink's.
    """
    look = style(theme, width_mm, title)
    small = pooled(found.patterns, THUMB)
    side = small.shape[-1]
    layers, count = small.shape[:2]
    cell = side + GAP
    sheet = np.zeros((layers * cell - GAP, count * cell - GAP))
    for index in range(layers):
        for head in range(count):
            top, left = index * cell, head * cell
            sheet[top : top + side, left : left + side] = np.sqrt(small[index, head] / found.steps)
    centre = (side - 1) / 2
    words = Words(
        title="Every head at a glance",
        subtitle=f"{model_name(found)}, {plural(len(found.tokens), 'token')}: {_start(found)}",
        caption=(
            "One small square a head: queries from top to bottom, keys from left to right. Colour is "
            f"the square root of the attention weight{_pooling(found, side)}. A filled left edge is a "
            "sink on the first token, a diagonal a head that looks at or just before the query."
        ),
        finding=first_sentence(found),
    )
    trace = go.Heatmap(
        z=np.round(sheet * 255).astype(np.uint8),
        zmin=0,
        zmax=255,
        colorscale=list(look.theme.sequential),
        colorbar=colour_bar(
            "attention",
            look.theme,
            tickvals=[255 * mark**0.5 for mark in TICKS],
            ticktext=[f"{mark:g}" for mark in TICKS],
        ),
        hoverinfo="skip",
    )
    axis = {"showgrid": False, "ticks": "", "zeroline": False, "constrain": "domain"}
    words.extra["min_width"] = 130 + 34 * count
    return build(
        [trace],
        look,
        words,
        height=int(np.clip(150 + 48 * layers, 260, 1600)),
        xaxis={
            **axis,
            "title": {"text": "head"},
            "tickvals": [head * cell + centre for head in range(count)],
            "ticktext": [str(head) for head in range(count)],
        },
        yaxis={
            **axis,
            "title": {"text": "layer"},
            "tickvals": [index * cell + centre for index in range(layers)],
            "ticktext": [str(layer) for layer in found.layers],
            "autorange": "reversed",
            "scaleanchor": "x",
        },
    )


def head(
    found: Attention,
    *,
    layer: int | None = None,
    head: int | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The pattern of one head, with its tokens.

    Args:
        found: the patterns of a text.
        layer: which layer; None is that of the head that attends most to the first token.
        head: which head of it; None is the one of that layer that attends most to the first token.

    Raises:
        ArgumentError: no such layer or head.
    """
    look = style(theme, width_mm, title)
    layer, head = _chosen(found, layer, head)
    weights = found.pattern(layer, head)
    tokens = [str(token) for token in found.tokens["token"]]
    names = [label(token, 14) for token in tokens]
    trace = go.Heatmap(
        z=np.round(weights * 255).astype(np.uint8),
        zmin=0,
        zmax=255,
        colorscale=list(look.theme.sequential),
        colorbar=colour_bar(
            "attention",
            look.theme,
            tickvals=[255 * mark for mark in TICKS],
            ticktext=[f"{mark:g}" for mark in TICKS],
        ),
        customdata=None if len(tokens) > LABELLED else [[[q, k] for k in names] for q in names],
        hovertemplate=(
            "query %{y}, key %{x}<br>%{z}/255<extra></extra>"
            if len(tokens) > LABELLED
            else "query %{y}  %{customdata[0]}<br>key %{x}  %{customdata[1]}<br>%{z}/255<extra></extra>"
        ),
    )
    row = rows_of(found.heads, layer=layer, head=head).iloc[0]
    words = Words(
        title=f"Layer {layer}, head {head}",
        subtitle=f"{model_name(found)}, {plural(len(tokens), 'token')}: {_start(found)}",
        caption=(
            "What each query (row) gives to each key (column), in steps of 1/255. Rows sum to one, "
            "except in models with a learned sink."
        ),
        finding=(
            f"Here the head gives {row['value']:.2f} of its attention to the first token and "
            f"{row['own']:.2f} to the query itself, mean over queries; its entropy is "
            f"{row['entropy']:.2f} nats."
        ),
    )
    side = int(np.clip(18 * len(tokens), 360, 900))
    axis = {**_axis(tokens), "showgrid": False, "constrain": "domain"}
    words.extra["min_width"] = side + 120
    return build(
        [trace],
        look,
        words,
        height=side + 190,
        xaxis={**axis, "title": {"text": "key"}, "tickangle": -60},
        yaxis={
            **axis,
            "title": {"text": "query"},
            "autorange": "reversed",
            "scaleanchor": "x",
        },
    )


def heads(
    found: Attention,
    *,
    measure: str = "value",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The map of heads: one number of each.

    Args:
        found: the patterns of a text.
        measure: "value" (attention to the first token), "previous" (to the token before the query),
            "own" (to the query itself) or "entropy", means over queries.

    Raises:
        ArgumentError: no such measure.
    """
    look = style(theme, width_mm, title)
    if measure not in MEASURES:
        raise ArgumentError(
            f"measure={measure!r}: {', '.join(MEASURES)}.{nearest(str(measure), MEASURES)}"
        )
    name = MEASURES[measure]
    known = found.heads.dropna(subset=[measure])
    told = "Here no head has one."
    if len(known):
        top = known.loc[known[measure].idxmax()]
        told = (
            f"Here the mean over heads is {known[measure].mean():.2f}; the largest is layer "
            f"{int(top['layer'])}, head {int(top['head'])}, with {top[measure]:.2f}."
        )
    words = Words(
        title=f"{name[:1].upper()}{name[1:]}, head by head",
        subtitle=f"{model_name(found)}, {plural(len(found.tokens), 'token')}, mean over queries",
        caption="Computed from the model's own weights, before they are kept in bytes.",
        finding=told,
    )
    limits = None if measure == "entropy" else (0.0, 1.0)
    return head_maps(
        {"": (found.heads, measure)},
        look,
        words,
        bar=name,
        cell="%{z:.3f}",
        limits=limits,
        signed=False,
    )


def _axis(tokens: list[str]) -> dict[str, Any]:
    step = -(-len(tokens) // LABELLED)
    if step == 1:
        return token_axis(tokens)
    places = list(range(0, len(tokens), step))
    axis = token_axis([tokens[place] for place in places], places)
    return {**axis, "tickvals": places}


def _chosen(found: Attention, layer: int | None, head: int | None) -> tuple[int, int]:
    """The head that is asked for, or of those left open the one that rests most on the first token."""
    asked = {"layer": layer, "head": head}
    rows = rows_of(found.heads, **{name: one for name, one in asked.items() if one is not None})
    if rows.empty:
        raise ArgumentError(
            f"layer={layer!r}, head={head!r}: this result has the layers {found.layers} and the "
            f"heads 0 to {found.patterns.shape[1] - 1}."
        )
    top = rows.loc[rows["value"].fillna(-1.0).idxmax()]
    return int(top["layer"]), int(top["head"])


def _start(found: Attention) -> str:
    text = "".join(c if c == " " else visible(c) for c in "".join(found.tokens["token"]))
    return text if len(text) < 60 else text[:57] + "…"


def _pooling(found: Attention, side: int) -> str:
    step = -(-len(found.tokens) // side)
    return f", of {step} × {step} tokens the largest" if step > 1 else ""


def first_sentence(found: Attention) -> str:
    """How much the first token gets, and which heads look most at it and at the token before."""
    facts = found.summary()
    if "strongest_sink" not in facts:
        return "Here no weight is finite."
    told = f"Here the first token gets {facts['first_token']:.2f} of the attention on average, most in "
    told += f"{facts['strongest_sink']}"
    if "strongest_previous" in facts:
        told += f"; the head that looks most at the token before is {facts['strongest_previous']}"
    return told + "."


VIEWS = {"grid": grid, "head": head, "heads": heads}
