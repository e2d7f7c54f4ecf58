"""A text as lines of coloured tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from .axes import finite
from .facets import on
from .theme import Look, colour_bar
from .tokens import label

__all__ = ["BARE", "token_lines"]

BARE = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False}
"""Axis settings of a figure that is a text."""


def token_lines(
    tokens: Iterable[str],
    values: Iterable[Any],
    hover: Iterable[str],
    look: Look,
    *,
    wide: int,
    limit: float,
    bar: str,
    signed: bool = False,
    panel: int = 0,
) -> go.Heatmap:
    """Tokens line by line, each in the colour of its value.

    Args:
        tokens: the token strings.
        values: one each; NaN leaves the token without a colour, and without its text.
        hover: what each token's box says, escaped.
        look: the theme.
        wide: tokens in a line.
        limit: value of the strongest colour.
        bar: title of the colour bar, which the first panel has.
        signed: whether colours part at zero.
        panel: of facets, counted from 0.
    """
    theme = look.theme
    # The pale part of each scale alone: tokens must be read on it.
    scale = theme.diverging[1:6] if signed else theme.sequential[:4]
    shown = finite(values)
    return go.Heatmap(
        x=list(range(wide)),
        y=list(range(-(-len(shown) // wide))),
        z=_wrapped(shown, wide),
        zmin=-limit if signed else 0.0,
        zmax=limit,
        colorscale=list(scale),
        colorbar=colour_bar(bar, theme),
        showscale=panel == 0,
        text=_wrapped([label(str(token), 9) for token in tokens], wide, ""),
        texttemplate="%{text}",
        textfont={"size": theme.size - 2, "color": theme.ink},
        xgap=1,
        ygap=5,
        customdata=_wrapped(list(hover), wide, ""),
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        **on(panel),
    )


def _wrapped(values: Sequence[Any], wide: int, filler: Any = None) -> list[list[Any]]:
    padded = [*values, *[filler] * (-len(values) % wide)]
    return [padded[begin : begin + wide] for begin in range(0, len(padded), wide)]
