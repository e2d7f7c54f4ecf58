"""Figures of a comparison: every model's line on one scale, and the change from the first model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, log_axis, positive
from .comparison_slice import ACROSS, Slice, chosen, labels, place, slice_of
from .facets import facets, on
from .lines import empty
from .theme import Look, Words, build, number, style
from .tokens import escape

if TYPE_CHECKING:
    from ..comparing import Comparison

__all__ = ["VIEWS", "changes", "values"]

DEPTH = "relative depth (0: first block, 1: last)"
NAMES = {
    "": {"kl": "KL from plain", "log_odds": "log-odds"},
    "massive.scan": {
        "value": "largest magnitude",
        "mean": "mean magnitude",
        "median": "median magnitude",
        "ratio": "magnitude over the median",
    },
    "sinks.scan": {"value": "attention"},
}
"""What measures are called that only their table explains."""
UNITS = {"loss": "nats a token", "kl": "nats", "entropy": "nats", "log_odds": "nats"}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def values(
    comparison: Comparison,
    *,
    measure: str | None = None,
    where: Mapping[str, Any] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """One measure of every model on one scale, over relative depth where there are layers.

    Args:
        comparison: what `lp.compare` or `lp.over` returned.
        measure: which one; None is the main one of this kind of result.
        where: cells by column and value, such as `{"key": 1}`; what is not named is the first, or
            the strongest, and the subtitle says so.
    """
    look = style(theme, width_mm, title)
    shown = slice_of(comparison, measure, where)
    name = _words(shown)
    ends = ("value", "low", "high")
    words = Words(
        title=f"{name[:1].upper()}{name[1:]} of each model",
        subtitle=_subtitle(comparison, shown),
        caption=(
            f"The {name} of every model on one scale"
            + (", from the first block to the last" if shown.across == "layer" else "")
            + _bars(shown.frame, "low")
        ),
        finding=_values_sentence(comparison, shown),
    )
    return _figure(shown, ends, look, words, _with_unit(name, shown), logarithmic=True)


def changes(
    comparison: Comparison,
    *,
    measure: str | None = None,
    where: Mapping[str, Any] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How every other model differs from the first, cell by cell, with paired intervals.

    Args:
        comparison: what `lp.compare` or `lp.over` returned.
        measure: as in `values`.
        where: as in `values`.

    Raises:
        ArgumentError: no model has cells that the first one has too.
    """
    look = style(theme, width_mm, title)
    shown = slice_of(comparison, measure, where)
    first = labels(comparison)[0]
    rows = chosen(shown.frame, shown.frame["model"] != first).dropna(subset=["change"])
    if rows.empty:
        raise ArgumentError(f"plot.changes: no model has cells in common with {first!r}.")
    name = _words(shown)
    words = Words(
        title=f"Change in {name} from {first}",
        subtitle=_subtitle(comparison, shown),
        caption=(
            f"The {name} of each model less that of {first}, in the same cells"
            + _bars(rows, "change_low")
        ),
        finding=_change_sentence(rows, first, shown),
    )
    cut = replace(shown, frame=rows)
    ends = ("change", "change_low", "change_high")
    axis = _with_unit(f"change in {name}", shown)
    return _figure(cut, ends, look, words, axis, logarithmic=False)


def _figure(
    shown: Slice,
    ends: tuple[str, str, str],
    look: Look,
    words: Words,
    name: str,
    *,
    logarithmic: bool,
) -> go.Figure:
    """Lines over an axis of numbers, dots over names."""
    column, options = shown.panels
    wide = logarithmic and _spans(shown.frame["value"])
    y = (
        log_axis(positive(shown.frame["value"]), f"{name}, log scale")
        if wide
        else _axis(name, look)
    )
    traces = []
    for panel, option in enumerate(options):
        part = chosen(shown.frame, shown.frame[column] == option) if column else shown.frame
        for index, label in enumerate(shown.models):
            rows = chosen(part, part["model"] == label)
            if len(rows):
                line = _line(rows, shown.across, ends, index, look, log=wide)
                traces.append(line.update({"showlegend": panel == 0, **on(panel)}))
    known = [v for trace in traces for v in trace.y if v is not None]
    return build(
        traces,
        look,
        words,
        height=440,
        **_layout(shown, [str(option) for option in options], look, y),
        **({} if known else {"annotations": [empty("nothing to draw", look)]}),
        showlegend=True,
    )


def _layout(shown: Slice, names: Sequence[str], look: Look, y: dict[str, Any]) -> dict[str, Any]:
    x = shown.across
    axis: dict[str, Any] = {"title": {"text": DEPTH if x == "layer" else x}}
    if x == "layer":
        axis["range"] = [-0.03, 1.03]
    laid = facets(names, look, axis, y)
    if len(names) == 1:
        laid.pop("annotations")
    return laid


def _axis(name: str, look: Look) -> dict[str, Any]:
    zero = {"zeroline": True, "zerolinecolor": look.theme.muted, "zerolinewidth": 1}
    return {"title": {"text": name}, **zero}


def _spans(numbers: pd.Series) -> bool:
    """Whether positive numbers differ by more than a factor of thirty."""
    known = numbers[np.isfinite(numbers)]
    return bool(len(known) and (known > 0).all() and known.max() > 30 * known.min())


def _line(
    rows: pd.DataFrame,
    across: str,
    ends: tuple[str, str, str],
    index: int,
    look: Look,
    *,
    log: bool,
) -> go.Scatter:
    """One model in one panel, with its intervals as bars."""
    label, colour = str(rows["model"].iloc[0]), look.theme.lines[index % len(look.theme.lines)]
    numbers = across in ACROSS and pd.api.types.is_numeric_dtype(rows[across])
    axis = "depth" if across == "layer" else across
    ordered = rows.sort_values(by=[axis]) if numbers else rows
    names = [escape(str(value)) for value in ordered[across]]
    trace = go.Scatter(
        x=finite(ordered[axis]) if numbers else names,
        y=(positive if log else finite)(ordered[ends[0]]),
        name=escape(label),
        legendgroup=str(index),
        mode="lines+markers" if numbers else "markers",
        line={"color": colour, "width": 2, "dash": DASHES[index % len(DASHES)]},
        marker={"size": 6, "color": colour, "symbol": index % 5},
        text=names,
        customdata=[finite(pair) for pair in ordered[list(ends[1:])].to_numpy(dtype=float)],
    )
    told = "" if across == "model" else f", {across} %{{text}}"
    hover = f"%{{fullData.name}}{told}<br>%{{y:,.4~g}}"
    gaps = [ordered[ends[2]] - ordered[ends[0]], ordered[ends[0]] - ordered[ends[1]]]
    if gaps[0].notna().any():
        up, down = (finite(gap.clip(lower=0).fillna(0)) for gap in gaps)
        bar = {"type": "data", "array": up, "arrayminus": down, "symmetric": False}
        trace.error_y = {**bar, "thickness": 1, "width": 3, "color": colour}
        hover += " (%{customdata[0]:,.4~g} to %{customdata[1]:,.4~g})"
    trace.hovertemplate = hover + "<extra></extra>"
    return trace


def _words(shown: Slice) -> str:
    known = NAMES[""] | NAMES.get(shown.analysis, {})
    return known.get(shown.measure, shown.measure.replace("_", " "))


def _with_unit(name: str, shown: Slice) -> str:
    unit = UNITS.get(shown.measure)
    return f"{name} ({unit})" if unit else name


def _subtitle(comparison: Comparison, shown: Slice) -> str:
    what = f"{comparison.analysis}, {comparison.table}"
    return f"{what}, {shown.fixed}" if shown.fixed else what


def _bars(frame: pd.DataFrame, low: str) -> str:
    if frame[low].notna().any():
        by = "by document" if (frame["count"] > 0).any() else "as each result has it"
        return f". Bars are 95% intervals, {by}."
    return ". There are no rows by document, so there is no interval."


def _values_sentence(comparison: Comparison, shown: Slice) -> str:
    """The largest number of each model."""
    parts = []
    for label in labels(comparison)[:3]:
        rows = chosen(shown.frame, shown.frame["model"] == label).dropna(subset=["value"])
        if len(rows):
            row = rows.iloc[int(rows["value"].to_numpy().argmax())]
            parts.append(f"{number(row['value'])} for {label}{place(row, shown)}")
    if not parts:
        return "Here no model has a finite number to draw."
    one = shown.across == "model" and not shown.panels[0]
    most = "" if one else "at most "
    return f"Here the {_words(shown)} is {most}{', '.join(parts)}."


def _change_sentence(rows: pd.DataFrame, first: str, shown: Slice) -> str:
    row = rows.iloc[int(np.abs(rows["change"].to_numpy()).argmax())]
    ends = [row["change_low"], row["change_high"]]
    told = f"{number(row['change'])}"
    if np.isfinite(ends).all():
        told += f" (95% interval {number(ends[0])} to {number(ends[1])})"
        clear = chosen(rows, (rows["change_low"] > 0) | (rows["change_high"] < 0))
        told += f"; the interval leaves out zero in {len(clear)} of {len(rows)} cells"
    return f"Here {row['model']} differs most from {first}{place(row, shown)}: by {told}."


VIEWS = {"values": values, "changes": changes}
