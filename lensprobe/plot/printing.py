"""How high a figure of a given printed width is, so that legend and axes leave it room to be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["printed_height"]

ASPECT = 0.62
"""Height of the area that data is drawn in, against the figure's width."""
TALL = 480
"""Figures that are higher than this on a screen have a row for each token or dimension."""
BELOW = 52
"""Ticks and title of the x axis, in pixels."""
SIDES = 88
"""What axis and margins take of the width."""
ROW = 19
"""A row of the legend."""


def printed_height(
    width: int, height: int, traces: Sequence[Any], *, size: int, top: int, legend: bool | None
) -> int:
    """Pixels from top to bottom of a figure that is `width` pixels wide.

    Args:
        width: of the whole figure.
        height: the figure's height on a screen, never exceeded by its data area.
        traces: what is drawn; their names make the legend.
        size: of the letters.
        top: what the title takes.
        legend: whether there is one; None is plotly's rule, more than one name.
    """
    names = [t.name for t in traces if t.name and t.showlegend is not False]
    area = min(height - 120, width * (ASPECT if height <= TALL else 1.05))
    rows = 0
    if names and (legend or (legend is None and len(names) > 1)):
        # plotly gives every entry the width of the longest.
        entry = 44 + 0.56 * size * max(len(_plain(name)) for name in names)
        rows = math.ceil(len(names) / max(1, int((width - SIDES) // entry)))
    return round(max(area, 150) + top + BELOW + ROW * rows)


def _plain(name: str) -> str:
    return name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
