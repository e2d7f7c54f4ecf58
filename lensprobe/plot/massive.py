"""Figures of a massive-activation scan: the largest values of the stream, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, layer_axis, log_axis, positive, rows_of
from .landscape import landscape
from .lines import kinds, line, site, values
from .theme import Look, Words, build, number, style
from .tokens import label
from .wording import finding_name, finding_sentence, model_name, plural, rule

if TYPE_CHECKING:
    from ..massive import MassiveScan

__all__ = ["VIEWS", "kinds", "landscape", "trajectories", "values"]

RANKS = {1: "largest", 2: "second", 3: "third"}
NAMED = 3
"""Findings that are named in the figure itself; the others are in the table."""


def trajectories(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The three largest magnitudes and the median at every layer, on a log axis, findings named.

    Each line is a mean over sequences. Above the dotted line an activation counts as massive.
    """
    look = style(theme, width_mm, title)
    frame = scan.layers
    median = rows_of(frame, rank=1)
    magnitude, ratio = rule(scan)
    sequences = scan.provenance.get("sequences")
    threshold = [max(magnitude, ratio * m) if m == m else None for m in median["median"]]
    marks = _marks(scan, look)
    traces = [
        *(_rank_line(rows_of(frame, rank=rank), rank, look) for rank in sorted(RANKS)),
        line(median["layer"], positive(median["median"]), "median", look.theme.lines[2], "dash"),
        _threshold(median["layer"], threshold, look),
        *marks,
    ]
    shown = [y for trace in traces for y in (trace.y or ())]
    words = Words(
        title="The largest values in the residual stream",
        subtitle=f"{model_name(scan)}, mean over {plural(sequences, 'sequence')}",
        caption=(
            "The three largest magnitudes and the median magnitude of the residual stream after "
            f"each layer, averaged over sequences. Massive means above {number(magnitude)} and at "
            f"least {number(ratio)} times the median: above the dotted threshold."
        ),
        finding=finding_sentence(scan),
    )
    return build(
        traces,
        look,
        words,
        height=440,
        xaxis=layer_axis(list(median["layer"]), site(scan)),
        yaxis=log_axis(shown, "magnitude |a| (log scale)"),
        annotations=_names(scan, look, log_axis(shown, "")["range"]),
    )


def _rank_line(rows: pd.DataFrame, rank: int, look: Look) -> go.Scatter:
    trace = line(rows["layer"], positive(rows["mean"]), RANKS[rank], look.theme.shades[rank - 1])
    trace.customdata = list(zip(finite(rows["value"]), finite(rows["ratio"]), strict=True))
    trace.hovertemplate = (
        f"<b>{RANKS[rank]}</b>, layer %{{x}}<br>mean |a| = %{{y:,.4~r}}"
        "<br>at most %{customdata[0]:,.4~r} in one sequence"
        "<br>%{customdata[1]:,.3~r} × the median<extra></extra>"
    )
    return trace


def _threshold(layers: pd.Series, y: list[float | None], look: Look) -> go.Scatter:
    return go.Scatter(
        x=[int(layer) for layer in layers],
        y=y,
        name="threshold",
        mode="lines",
        line={"color": look.theme.muted, "width": 1.2, "dash": "dot"},
        hovertemplate="massive above %{y:,.4~r}<extra></extra>",
    )


def _marks(scan: MassiveScan, look: Look) -> list[go.Scatter]:
    """A ring at each finding's strongest layer, so that hovering tells all about it."""
    found = scan.findings.head(12)
    if found.empty:
        return []
    hover = [
        f"<b>{finding_name(row, markup=True)}</b><br>token {label(str(row.token))}"
        f"<br>value {number(row.value)} ± {number(row.std)} at layer {row.layer}"
        f"<br>massive in layers {row.first} to {row.last}"
        f"<br>in {row.share:.0%} of sequences<br>{number(row.ratio)} × the median<extra></extra>"
        for row in found.itertuples()
    ]
    ring = {"size": 11, "symbol": "circle-open", "color": look.theme.lines[1], "line": {"width": 2}}
    y = positive(found["value"].abs())
    x = [int(layer) for layer in found["layer"]]
    # The text travels as data, never inside the template: a token may hold %{...}.
    return [
        go.Scatter(
            x=x,
            y=y,
            name="massive",
            mode="markers",
            marker=ring,
            text=[h.removesuffix("<extra></extra>") for h in hover],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def _names(scan: MassiveScan, look: Look, span: list[float]) -> list[dict[str, Any]]:
    """Names of the strongest findings above their lines, where two would not overlap."""
    placed: list[float] = []
    notes = []
    layers = sorted(scan.layers["layer"].unique())
    for row in scan.findings.head(NAMED).itertuples():
        level = np.log10(abs(row.value)) if row.value else np.nan
        # About 4% of the axis is one line of text.
        if not np.isfinite(level) or any(
            abs(level - p) < 0.06 * (span[1] - span[0]) for p in placed
        ):
            continue
        placed.append(float(level))
        edge = (row.layer - layers[0]) / max(1, layers[-1] - layers[0])
        text = f"<b>{finding_name(row, markup=True)}</b>  {number(row.value)}"
        anchor = "left" if edge < 0.42 else "right" if edge > 0.58 else "center"
        font = {"size": look.theme.size - 1, "color": look.theme.ink}
        notes.append(
            {"x": int(row.layer), "y": float(level), "text": text, "showarrow": False, "yshift": 15}
            | {"xanchor": anchor, "font": font, "bgcolor": look.theme.surface}
        )
    return notes


VIEWS = {
    "trajectories": trajectories,
    "landscape": landscape,
    "values": values,
    "kinds": kinds,
}
