"""The token × dimension landscape of one text: the well-known 3-D figure, flat and readable."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .theme import Look, Words, build, colour_bar, number, style
from .tokens import label, token_axis, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import MassiveScan

__all__ = ["landscape"]

FLOOR = 1e-3
"""Smallest magnitude the colour scale goes down to, as a share of the largest."""


def landscape(
    scan: MassiveScan,
    *,
    dims: int = 24,
    tokens: int = 32,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The residual of the first text: tokens as rows, the dimensions that grow largest as columns.

    Args:
        scan: a massive-activation scan.
        dims: how many dimensions to show, those with the largest magnitude, in order of their index.
        tokens: how many tokens to show: the first three quarters of them from the start of the text,
            the rest where the largest magnitudes are.
        theme: "light", "dark" or "paper".
        width_mm: fixed width; None follows the page.
        title: replaces the title; "" leaves it out.
    """
    look = style(theme, width_mm, title)
    for name, given in (("dims", dims), ("tokens", tokens)):
        if not isinstance(given, int) or given < 1:
            raise ArgumentError(f"{name}={given!r}: a whole number from 1 on.")
    full = np.asarray(scan.landscape, dtype=np.float64)
    magnitude = np.where(np.isfinite(full), np.abs(full), 0.0)
    rows, columns = _rows(magnitude, tokens), _columns(magnitude, dims)
    names = [str(scan.landscape_tokens[row]) for row in rows]
    cut = full[np.ix_(rows, columns)]
    layer = scan.landscape_layer
    words = Words(
        title=f"Tokens × dimensions at layer {layer}",
        subtitle=f"{model_name(scan)}, residual stream of the first text",
        caption=(
            f"The residual stream of one text after layer {layer}: each row is a token, each "
            "column one of the dimensions that grow largest anywhere in the text. Colour is the "
            "magnitude on a log scale; the signed value appears on hover."
        ),
        finding=_sentence(full, magnitude, scan),
        extra={"min_width": 230 + 17 * len(columns)},
    )
    return build(
        [_map(cut, rows, columns, names, look)],
        look,
        words,
        height=150 + max(120, 19 * len(rows)),
        xaxis={
            "range": [-0.5, len(columns) - 0.5],
            "title": {"text": _thinned("dimension", columns, full.shape[1], "largest of")},
            "tickmode": "array",
            "tickvals": list(range(len(columns))),
            "ticktext": [str(column) for column in columns],
            "tickangle": -90 if len(columns) > 8 else 0,
            "showgrid": False,
        },
        yaxis={
            "title": {"text": _thinned("token and its position", rows, full.shape[0], "of")},
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
            **token_axis(names, rows),
        },
        shapes=_gaps(rows, look),
    )


def _columns(magnitude: np.ndarray, dims: int) -> list[int]:
    largest = np.argsort(-magnitude.max(axis=0, initial=0.0), kind="stable")[:dims]
    return sorted(int(column) for column in largest)


def _rows(magnitude: np.ndarray, tokens: int) -> list[int]:
    """The start of the text, and the rows beyond it that hold the largest magnitudes."""
    total = magnitude.shape[0]
    if total <= tokens:
        return list(range(total))
    start = max(1, tokens * 3 // 4)
    peaks = magnitude[start:].max(axis=1, initial=0.0)
    beyond = start + np.argsort(-peaks, kind="stable")[: tokens - start]
    return sorted([*range(start), *(int(row) for row in beyond)])


def _gaps(rows: list[int], look: Look) -> list[dict[str, Any]]:
    """A dotted line wherever tokens were left out between two rows."""
    line = {"color": look.theme.muted, "width": 1, "dash": "dot"}
    return [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": i + 0.5,
            "y1": i + 0.5,
            "line": line,
        }
        for i, (above, below) in enumerate(pairwise(rows))
        if below != above + 1
    ]


def _thinned(name: str, shown: list[int], total: int, joint: str) -> str:
    return name if len(shown) == total else f"{name} ({len(shown)} {joint} {total:,})"


def _map(
    cut: np.ndarray, rows: list[int], columns: list[int], names: list[str], look: Look
) -> go.Heatmap:
    size = np.abs(np.where(np.isfinite(cut), cut, np.nan))
    top = np.nanmax(size) if np.isfinite(size).any() else 1.0
    top = top if top > 0 else 1.0
    low = np.log10(top * FLOOR)
    z = np.where(np.isfinite(size), np.log10(np.maximum(size, 10**low)), np.nan)
    decades = np.arange(np.ceil(low), np.floor(np.log10(top)) + 1)
    hover: list[list[Any]] = [
        [[columns[j], rows[i], label(names[i]), _signed(cut[i, j])] for j in range(len(columns))]
        for i in range(len(rows))
    ]
    return go.Heatmap(
        z=[[None if np.isnan(v) else round(float(v), 4) for v in row] for row in z],
        customdata=hover,
        zmin=float(low),
        zmax=float(np.log10(top)),
        colorscale=list(look.theme.sequential),
        xgap=1,
        ygap=1,
        hoverongaps=True,
        hovertemplate=(
            "<b>a = %{customdata[3]}</b><br>token %{customdata[2]} at position %{customdata[1]}"
            "<br>dimension %{customdata[0]}<extra></extra>"
        ),
        colorbar=colour_bar(
            "magnitude |a|",
            look.theme,
            tickvals=[float(d) for d in decades],
            ticktext=[f"{10.0**d:,.10g}" for d in decades],
        ),
    )


def _signed(value: float) -> str:
    return f"{value:,.2f}" if np.isfinite(value) else str(value)


def _sentence(full: np.ndarray, magnitude: np.ndarray, scan: MassiveScan) -> str:
    if not magnitude.size or magnitude.max() == 0:
        return "Here the text has no finite value other than zero."
    position, dim = np.unravel_index(int(magnitude.argmax()), magnitude.shape)
    rest = np.delete(magnitude, position, axis=0)
    more = f"; no other token has a value above {number(float(rest.max()))}" if rest.size else ""
    token = visible(str(scan.landscape_tokens[int(position)]))
    return (
        f"Here the largest value is {number(float(full[position, dim]))}, in dimension {dim} of "
        f"the token {token} at position {position}{more}."
    )
