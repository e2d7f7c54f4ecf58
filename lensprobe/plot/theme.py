"""Colours, fonts and sizes of the figures: "light", "dark" and "paper".

Colours are safe for the common kinds of colour blindness: line colours near the Okabe-Ito set, moved
apart until every two of them differ by 12 (CIEDE2000) for protanopes, deuteranopes and tritanopes,
one-hue sequential maps that rise in lightness, and a blue-orange diverging map that is always centred
on zero. Contrast is that of WCAG AA. Nothing global is changed: every figure brings its own template.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .printing import printed_height

__all__ = ["THEMES", "Look", "Theme", "Words", "build", "colour_bar", "number", "style"]

SANS = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'


@dataclass(frozen=True)
class Theme:
    """One set of colours; every colour is a hex string.

    `cells` and `signed_cells` are the parts of the two maps that `ink` can be read on.
    """

    name: str
    page: str
    surface: str
    ink: str
    muted: str
    grid: str
    lines: tuple[str, ...]
    shades: tuple[str, str, str]
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]
    cells: tuple[str, ...]
    signed_cells: tuple[str, ...]
    size: int = 13
    showgrid: bool = True


LIGHT = Theme(
    name="light",
    page="#f7f7f4",
    surface="#ffffff",
    ink="#1c2128",
    muted="#5a6472",
    grid="#e8eaed",
    lines=("#006eb7", "#bb5006", "#3c9f63", "#a96c8f", "#4b4200", "#3a4350"),
    shades=("#062a4d", "#2868a5", "#5f99cf"),
    sequential=("#f6f8fb", "#d3e2f0", "#9cc3df", "#5a9bc9", "#2a6ea8", "#0f4680", "#08264d"),
    diverging=("#0b4f8a", "#4d93c7", "#b4d3e8", "#f7f7f7", "#f6c99b", "#dd8233", "#8f4300"),
    cells=("#f6f8fb", "#d3e2f0", "#9cc3df", "#5a9bc9"),
    signed_cells=("#4d93c7", "#b4d3e8", "#f7f7f7", "#f6c99b", "#dd8233"),
)
DARK = Theme(
    name="dark",
    page="#12151a",
    surface="#1a1e25",
    ink="#e6e9ed",
    muted="#9da8b5",
    grid="#2c333d",
    lines=("#0a8ee9", "#f38f4c", "#47cc9f", "#cca7de", "#ffdd62", "#c6cad0"),
    shades=("#bfe3fb", "#5aaee8", "#2f75ab"),
    sequential=("#1d232c", "#1d3b58", "#20598a", "#2f7fbd", "#5ba8de", "#a3d1f1", "#f2f9ff"),
    diverging=("#a9d6f7", "#4f9fd8", "#2a5578", "#242a33", "#7d4a1c", "#d98338", "#ffd0a1"),
    cells=("#1d232c", "#1d3b58", "#20598a", "#276a9f"),
    signed_cells=("#276a9f", "#24486a", "#242a33", "#63401f", "#935418"),
)
PAPER = Theme(
    name="paper",
    page="#ffffff",
    surface="#ffffff",
    ink="#000000",
    muted="#404040",
    grid="#e0e0e0",
    lines=LIGHT.lines,
    shades=LIGHT.shades,
    sequential=("#ffffff", *LIGHT.sequential[1:]),
    diverging=LIGHT.diverging,
    cells=("#ffffff", *LIGHT.cells[1:]),
    signed_cells=LIGHT.signed_cells,
    size=10,
    showgrid=False,
)
THEMES: dict[str, Theme] = {theme.name: theme for theme in (LIGHT, DARK, PAPER)}


@dataclass(frozen=True)
class Look:
    """What the three options that every view takes come to."""

    theme: Theme
    width: int | None = None
    title: str | None = None


@dataclass(frozen=True)
class Words:
    """The texts of a figure, plain (not markup): page and figure escape them where they are shown."""

    title: str
    subtitle: str
    caption: str
    finding: str
    extra: dict[str, Any] = field(default_factory=dict)


def style(theme: str, width_mm: float | None, title: str | None) -> Look:
    """Check the options that every view takes.

    Raises:
        ArgumentError: an unknown theme, or a width that is not a positive number.
    """
    if theme not in THEMES:
        raise ArgumentError(
            f"theme={theme!r}: the themes are {', '.join(THEMES)}.{nearest(str(theme), THEMES)}"
        )
    if width_mm is None:
        return Look(THEMES[theme], None, title)
    if not (isinstance(width_mm, (int, float)) and math.isfinite(width_mm) and width_mm > 0):
        raise ArgumentError(f"width_mm={width_mm!r}: a positive number of millimetres, or None.")
    return Look(THEMES[theme], round(width_mm / 25.4 * 96), title)


def build(
    traces: Sequence[Any], look: Look, words: Words, *, height: int, **layout: Any
) -> go.Figure:
    """A figure in a theme, with its title, its axes and its captions in `layout.meta`."""
    from .tokens import escape

    title = escape(words.title if look.title is None else look.title)
    subtitle = escape(words.subtitle) if title else ""
    theme, top = look.theme, 76 if title else 16
    printed = printed_height(
        look.width or 0, height, traces, size=theme.size, top=top, legend=layout.get("showlegend")
    )
    return go.Figure(
        data=list(traces),
        layout={
            "template": _template(theme),
            "title": {"text": title, "subtitle": {"text": subtitle}},
            "meta": {"caption": words.caption, "finding": words.finding, **words.extra},
            "margin": {"t": top, "l": 64, "r": 24, "b": 60},
            "width": look.width,
            "height": height if look.width is None else printed,
            **layout,
        },
    )


def _template(theme: Theme) -> go.layout.Template:
    axis = {
        "gridcolor": theme.grid,
        "showgrid": theme.showgrid,
        "linecolor": theme.muted,
        "tickcolor": theme.muted,
        "ticks": "outside",
        "ticklen": 4,
        "tickfont": {"color": theme.muted, "size": theme.size - 1},
        "title": {"font": {"color": theme.ink, "size": theme.size}, "standoff": 10},
        "showline": not theme.showgrid,
        "zeroline": False,
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": SANS, "size": theme.size, "color": theme.ink},
            "paper_bgcolor": theme.surface,
            "plot_bgcolor": theme.surface,
            "colorway": list(theme.lines),
            "title": {
                "x": 0.0,
                "xref": "container",
                "xanchor": "left",
                "pad": {"l": 14, "t": 14},
                "y": 1.0,
                "yref": "container",
                "yanchor": "top",
                "automargin": True,
                "font": {"size": theme.size + 4, "color": theme.ink},
                "subtitle": {"font": {"size": theme.size, "color": theme.muted}},
            },
            "hoverlabel": {
                "bgcolor": theme.page,
                "bordercolor": theme.muted,
                "align": "left",
                "font": {"family": SANS, "size": theme.size, "color": theme.ink},
                "namelength": -1,
            },
            "legend": {
                "orientation": "h",
                # Below the axis: on top, a legend that wraps would run into the title.
                "x": 0.0,
                "y": 0.0,
                "yref": "container",
                "yanchor": "bottom",
                "bgcolor": "rgba(0,0,0,0)",
                "font": {"size": theme.size - 1, "color": theme.ink},
            },
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def colour_bar(title: str, theme: Theme, **extra: Any) -> dict[str, Any]:
    """A slim bar with its title on top, so that it takes no width from the figure."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": theme.size - 1}},
        "thickness": 11,
        "outlinewidth": 0,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": theme.muted,
        "tickfont": {"size": theme.size - 2, "color": theme.muted},
        **extra,
    }


def number(value: float) -> str:
    """A number as prose shows it: three digits that count, thousands separated.

    >>> number(3012.4), number(0.5934), number(48.27), number(float("nan"))
    ('3,012', '0.593', '48.3', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinity"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
