"""Position or token: the figure of a token study's experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import TokenStudy

__all__ = ["causes", "of_dim", "upright"]

KINDS = {
    "plain": "texts as they are",
    "embedding zero": "first embedding set to zero",
    "token moved": "first token moved",
    "another token first": "another token first",
    "token repeated": "copies of the first token",
    "position swapped": "another position embedding",
    "position given": "later token, first position embedding",
    "positions shifted": "all positions shifted",
    "sees only itself": "later token that sees only itself",
}
CAUSES = {
    "position": "being first brings it, whatever the token",
    "token": "the token brings it, wherever it stands",
    "either": "being first or being that token suffices",
    "both": "it takes that token in the first place",
    "unknown": "the texts are too short to tell what brings it",
}
ALSO = {
    "position given": "; a later token with the first position embedding has it too",
    "sees only itself": "; a later token has it too once it sees only itself",
    "token repeated": "; so do copies of the first token",
}


def causes(
    result: TokenStudy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Position or token: the value when the first token is changed one thing at a time."""
    look = style(theme, width_mm, title)
    plain = result.causes.iloc[0]
    rows: list[Any] = list(of_dim(result.causes, plain).itertuples())
    names = [_cause(row) for row in rows]
    ratio = [float(row.ratio) for row in rows]
    has = [np.isfinite(value) and value >= 0.5 for value in ratio]
    trace = go.Bar(
        # What could not be measured has a bar of no length, which says why.
        x=[0.0 if row.why else value for row, value in zip(rows, finite(ratio), strict=True)],
        y=list(range(len(rows))),
        orientation="h",
        marker={"color": [look.theme.lines[0 if yes else 5] for yes in has]},
        text=[row.why or f"{number(row.value)}" for row in rows],
        textposition="outside",
        cliponaxis=False,
        textfont={"size": look.theme.size - 2, "color": look.theme.ink},
        customdata=[
            [name, number(row.value), number(row.std), row.why]
            for name, row in zip(names, rows, strict=True)
        ],
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>a = %{customdata[1]} ± %{customdata[2]} %{customdata[3]}"
            "<br>%{x:.1%} of the plain value<extra></extra>"
        ),
    )
    words = Words(
        title="Position or token",
        subtitle=f"{model_name(result)}, dim {int(plain['dim'])} after layer {int(plain['layer'])}",
        caption=(
            "The coordinate, relative to the texts as they are, when the first token is changed one "
            "thing at a time. Blue bars keep at least half of the value. Where the model has no such "
            "part, the figure says what it has."
        ),
        finding=_finding(result, rows),
    )
    known = [value for value in ratio if np.isfinite(value)]
    low, high = min([0.0, *known]), max([1.0, *known])
    return build(
        [trace],
        look,
        words,
        height=120 + 34 * len(rows),
        shapes=[upright(1.0, "dash", look), upright(0.5, "dot", look)],
        xaxis={
            "title": {"text": "share of the plain value"},
            "tickformat": ".0%",
            "range": [1.1 * low, 1.25 * high],
        },
        yaxis={
            "title": {"text": "change"},
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "autorange": "reversed",
            "showgrid": False,
        },
        showlegend=False,
    )


def of_dim(frame: pd.DataFrame, plain: Any) -> pd.DataFrame:
    """The rows of the dimension that a row is about."""
    return frame.loc[frame["dim"] == plain["dim"]]


def upright(x: float, dash: str, look: Look) -> dict[str, Any]:
    """An upright line through the whole figure."""
    return {
        "type": "line",
        "layer": "below",
        "xref": "x",
        "yref": "paper",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "line": {"color": look.theme.muted, "width": 1.2, "dash": dash},
    }


def _cause(row: Any) -> str:
    name = KINDS[row.kind]
    return f"{name}, at position {int(row.position)}" if row.position else name


def _finding(result: TokenStudy, rows: list[Any]) -> str:
    kept = {row.kind for row in rows if np.isfinite(row.ratio) and row.ratio >= 0.5}
    more = [words for kind, words in ALSO.items() if kind in kept]
    return f"Here {CAUSES[result.cause(int(rows[0].dim))]}{''.join(more)}."
