"""Panels side by side in one figure, each with its axes and its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .theme import Look
from .tokens import escape

__all__ = ["facets", "on"]

GAP = 0.06


def facets(
    names: Sequence[str], look: Look, xaxis: dict[str, Any], yaxis: dict[str, Any]
) -> dict[str, Any]:
    """Layout fields for panels in a row that share what their axes say.

    The y axis is labelled on the first panel only and zooms in all of them at once. A single panel
    gets no name of its own.
    """
    count = len(names)
    width = (1 - GAP * (count - 1)) / count
    layout: dict[str, Any] = {"annotations": []}
    if count > 1:
        # Room for the panels' names below the subtitle.
        layout["margin"] = {"t": 100, "l": 64, "r": 24, "b": 60}
    for index, name in enumerate(names):
        begin = index * (width + GAP)
        tail = "" if index == 0 else str(index + 1)
        rest = {"matches": "y", "showticklabels": False, "title": None} if index else {}
        layout[f"xaxis{tail}"] = {**xaxis, "domain": [begin, begin + width], "anchor": f"y{tail}"}
        layout[f"yaxis{tail}"] = {**yaxis, **rest, "anchor": f"x{tail}"}
        if count > 1:
            layout["annotations"].append(
                {
                    "text": escape(name),
                    "x": begin + width / 2,
                    "y": 1.0,
                    "xref": "paper",
                    "yref": "paper",
                    "xanchor": "center",
                    "yanchor": "bottom",
                    "showarrow": False,
                    "font": {"size": look.theme.size, "color": look.theme.ink},
                }
            )
    return layout


def on(panel: int) -> dict[str, str]:
    """The trace fields that put it on a panel, counted from 0."""
    tail = "" if panel == 0 else str(panel + 1)
    return {"xaxis": f"x{tail}", "yaxis": f"y{tail}"}
