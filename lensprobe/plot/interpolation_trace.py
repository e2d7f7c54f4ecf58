"""Figures of a trace: what each position of a text is about at every layer, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, layer_axis, rows_of
from .facets import facets, on
from .interpolation_cells import NAMES, Cells, key, tint
from .interpolation_parts import CONDITIONS, blend_of
from .theme import Look, Words, build, style
from .tokens import token_axis
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..interpolation import Trace

__all__ = ["VIEWS", "curves", "grid"]

COLUMNS, ROWS = 24, 40
"""Positions that are drawn at once, and layers above which only some are."""
MEASURES = {"rank": "mean of 1 / rank", "probability": "mean probability"}


def grid(
    found: Trace,
    *,
    first: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layers and positions, coloured by which token the lens finds there, before and after.

    Args:
        found: a trace.
        first: the position that the drawn part of a longer text begins with.

    Raises:
        ArgumentError: the text has no such position.
    """
    look = style(theme, width_mm, title)
    last = len(found.tokens)
    if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < last:
        raise ArgumentError(f"first={first!r}: a position from 0 to {last - 1}.")
    shown = range(first, min(first + COLUMNS, last))
    layers = _thinned(sorted(int(layer) for layer in found.lens["layer"].unique()))
    traces: list[Any] = []
    for panel, condition in enumerate(CONDITIONS):
        cells = Cells(found, condition, layers, shown)
        traces += [cells.heat(kind, look, 1 - panel) for kind in NAMES]
    # Where nothing is drawn: the legend's squares.
    traces += [key(kind, look) for kind in NAMES]
    words = _grid_words(found, layers, shown)
    words.extra["min_width"] = 190 + 46 * len(shown)
    return build(
        traces,
        look,
        words,
        height=210 + 2 * max(120, 15 * len(layers)),
        showlegend=True,
        **_stacked(found, layers, shown, look),
    )


def curves(
    found: Trace,
    *,
    measure: str = "rank",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """By layer, how close each kind of token is to being read, where the guess was right and wrong.

    Args:
        found: a trace.
        measure: "rank" (the mean of 1 / rank, 1 where it is read first) or "probability".

    Raises:
        ArgumentError: another measure.
    """
    look = style(theme, width_mm, title)
    if measure not in MEASURES:
        raise ArgumentError(f"measure={measure!r}: {', '.join(MEASURES)}.")
    places = _split(found)
    traces: list[Any] = []
    for panel, name in enumerate(places):
        for kind in ("next", "guess", "current"):
            # Where the guess was right it is the next token.
            if kind == "guess" and name == "guessed right":
                continue
            for condition in CONDITIONS:
                means = _means(found, kind, condition, places[name], measure)
                traces.append(_line(means, kind, condition, look, panel))
    names = [f"{name} ({plural(len(where), 'position')})" for name, where in places.items()]
    words = Words(
        title="What positions are about, layer by layer",
        subtitle=f"{model_name(found)}, {blend_of(found)}, blended positions",
        caption=(
            f"The {MEASURES[measure]} that the logit lens gives, at each layer's output, to the token "
            "that came next, to the plain model's guess and to the position's own token; before "
            "(dashed) and after (solid) the interpolation."
        ),
        finding=_curve_finding(found, places),
    )
    layers = [int(layer) for layer in found.lens["layer"].unique()]
    yaxis = {"title": {"text": MEASURES[measure]}, "range": [-0.02, 1.04]}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        **facets(names, look, layer_axis(layers, "resid_post"), yaxis),
    )


def _thinned(layers: list[int]) -> list[int]:
    """Every n-th layer, and the last one, where there are too many to draw."""
    step = -(-len(layers) // ROWS)
    return layers[::-1][::step][::-1]


def _stacked(
    found: Trace, layers: Sequence[int], shown: Sequence[int], look: Look
) -> dict[str, Any]:
    """Two panels, the plain one below, one token axis under both."""
    tokens = found.tokens.set_index("position").loc[list(shown), "token"]
    names = [str(token) for token in tokens]
    step = max(1, len(layers) // 10)
    ticks = {
        "tickvals": list(range(0, len(layers), step)),
        "ticktext": [str(layer) for layer in layers[::step]],
        "showgrid": False,
        "range": [-0.5, len(layers) - 0.5],
    }
    axis = {**token_axis(names), "showgrid": False, "range": [-0.5, len(names) - 0.5]}
    titles = {"text": "layer (resid_post)"}
    blended = [
        at for at, layer in enumerate(layers) if layer in found.provenance["blend"]["layers"]
    ]
    line = {"color": look.theme.ink, "width": 1, "dash": "dot"}
    shapes = [
        {
            "type": "line",
            "x0": -0.5,
            "x1": len(names) - 0.5,
            "xref": "x2",
            "yref": "y2",
            "line": line,
        }
        | {"y0": at - 0.5, "y1": at - 0.5}
        for at in blended[:1]
    ]
    named = zip(("after", "before"), (1.0, 0.475), strict=True)
    above = {"x": 0, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {
        "margin": {"t": 104, "l": 64, "r": 24, "b": 110},
        "yaxis": {**ticks, "title": titles, "domain": [0.0, 0.475]},
        "yaxis2": {**ticks, "title": titles, "domain": [0.525, 1.0], "matches": "y"},
        "xaxis": {**axis, "anchor": "y", "title": {"text": "token"}, "tickangle": -45},
        "xaxis2": {**axis, "anchor": "y2", "matches": "x", "showticklabels": False},
        "shapes": shapes,
        "annotations": [
            {"text": f"<b>{name}</b>", "y": y, "showarrow": False, **above} for name, y in named
        ],
    }


def _grid_words(found: Trace, layers: Sequence[int], shown: Sequence[int]) -> Words:
    count = len(found.tokens)
    part = "" if len(shown) == count else f", positions {shown[0]} to {shown[-1]} of {count}"
    every = found.lens["layer"].nunique()
    thin = "" if len(layers) == every else f", {len(layers)} of {every} layers"
    return Words(
        title="What each position is about",
        subtitle=f"{model_name(found)}, {blend_of(found)}{part}{thin}",
        caption=(
            "Each layer's output read by the logit lens. The colour says which of three tokens it "
            "ranks best: the position's own, the one that really came next, or the one the plain model "
            "guessed; the stronger, the nearer to rank 1, and none from rank 1,000 on. In each cell is "
            "the token that the lens reads first. Above, after the interpolation (dotted: the first "
            "blended layer); below, before. The newest position is never blended."
        ),
        finding=_finding(found),
    )


def _finding(found: Trace) -> str:
    layers = sorted(found.lens["layer"].unique())
    deep = int(layers[-2] if len(layers) > 1 else layers[-1])
    places = found.tokens.loc[found.tokens["blended"], "position"]
    if places.empty:
        return "Here nothing is blended."
    parts = []
    for kind in ("next", "guess"):
        before, after = (_first(found, kind, one, deep, places) for one in CONDITIONS[::-1])
        name = "the next token" if kind == "next" else "the plain model's guess"
        parts.append(
            f"{name} at {before:.0%} of the blended positions before and {after:.0%} after"
        )
    return f"Here the lens reads first, after layer {deep}, {'; '.join(parts)}."


def _first(found: Trace, kind: str, condition: str, layer: int, places: Iterable[int]) -> float:
    rows = rows_of(found.lens, kind=kind, condition=condition, layer=layer)
    return float((rows.loc[rows["position"].isin(list(places)), "rank"] == 1).mean())


def _split(found: Trace) -> dict[str, list[int]]:
    """Blended positions by whether the plain model's guess was what came; empty groups are left out."""
    rows = found.tokens[found.tokens["blended"]]
    right = rows["next"] == rows["guess"]
    groups = {"guessed wrong": rows[~right], "guessed right": rows[right]}
    known = {name: list(part["position"]) for name, part in groups.items() if len(part)}
    return known or {"no position is blended": []}


def _means(
    found: Trace, kind: str, condition: str, places: Sequence[int], measure: str
) -> dict[int, float]:
    """By layer, the mean over positions."""
    rows = rows_of(found.lens, kind=kind, condition=condition)
    rows = rows.loc[rows["position"].isin(list(places))]
    rows = rows.assign(shown=1 / rows["rank"] if measure == "rank" else rows["probability"])
    layers = sorted(int(layer) for layer in rows["layer"].unique())
    return {layer: float(rows_of(rows, layer=layer)["shown"].mean()) for layer in layers}


def _line(means: dict[int, float], kind: str, condition: str, look: Look, panel: int) -> go.Scatter:
    after = condition == CONDITIONS[0]
    name = f"{NAMES[kind]}, {'after' if after else 'before'}"
    return go.Scatter(
        x=list(means),
        y=finite(means.values()),
        name=name,
        legendgroup=name,
        showlegend=panel == 0,
        mode="lines",
        line={
            "color": tint(kind, look),
            "width": 2.2 if after else 1.6,
            "dash": "solid" if after else "dash",
        },
        hovertemplate=f"<b>layer %{{x}}</b><br>{name}<br>%{{y:.3~g}}<extra></extra>",
        **on(panel),
    )


def _curve_finding(found: Trace, places: dict[str, list[int]]) -> str:
    wrong = places.get("guessed wrong", [])
    first = found.provenance["blend"]["layers"][0]
    if not wrong:
        return "Here no blended position was guessed wrong."
    kinds = []
    for kind in ("next", "guess"):
        before, after = (
            _from(first, _means(found, kind, one, wrong, "rank")) for one in CONDITIONS[::-1]
        )
        name = "the next token" if kind == "next" else "the guess"
        kinds.append(f"1 / rank of {name} goes from {before:.2f} to {after:.2f}")
    return (
        f"Here {' and '.join(kinds)} where the guess was wrong, on average from layer {first} on."
    )


def _from(first: int, means: dict[int, float]) -> float:
    return float(np.mean([value for layer, value in means.items() if layer >= first]))


VIEWS = {"grid": grid, "curves": curves}
