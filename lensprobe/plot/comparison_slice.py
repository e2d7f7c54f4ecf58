"""Which cells of a comparison one figure shows: what is its axis, what its panels, what is fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from ..errors import ArgumentError, nearest

if TYPE_CHECKING:
    from ..comparing import Comparison

__all__ = ["ACROSS", "Slice", "chosen", "labels", "place", "slice_of"]

MAIN = {"massive.scan": "mean", "report": "mean", "sinks.scan": "sink_rate"}
"""The measure that is drawn of a kind of result, where it is not the first."""
ACROSS = ("layer", "factor", "scale", "weight", "keep", "step", "lag", "decile", "n", "epsilon")
"""Columns that make an axis of numbers, the first that varies."""
STRENGTHS = ("factor", "scale", "weight", "step")
"""Columns of which the largest is drawn where another one is the axis."""
PANELS = 4
NUMBERS = ("value", "low", "high", "change", "change_low", "change_high", "count")


@dataclass(frozen=True)
class Slice:
    """The rows of a comparison that one figure shows.

    Attributes:
        frame: those rows.
        measure: what is measured.
        across: the column on the x axis; "model" where nothing else varies.
        panels: the column that has a panel for each value, and those values.
        fixed: what was held fixed, in words.
        analysis: the kind of the compared results.
        models: all of them, in order, whether they have such rows or not.
    """

    frame: pd.DataFrame
    measure: str
    across: str
    panels: tuple[str, tuple[Any, ...]]
    fixed: str
    analysis: str
    models: tuple[str, ...]


def chosen(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where a mask holds."""
    return cast(pd.DataFrame, frame.loc[mask])


def labels(comparison: Comparison) -> list[str]:
    """The models, in order."""
    return [str(label) for label in dict.fromkeys(comparison.values["model"])]


def slice_of(comparison: Comparison, measure: str | None, where: Mapping[str, Any] | None) -> Slice:
    """The cells that are drawn."""
    frame: pd.DataFrame = comparison.values
    if frame.empty:
        raise ArgumentError("plot: this comparison has no model that could be analysed.")
    frame = _of_measure(frame, measure, MAIN.get(comparison.analysis))
    name = str(frame["measure"].iloc[0])
    frame, told = _where(frame, dict(where or {}))
    keys = [key for key in frame if key not in (*NUMBERS, "model", "measure", "depth")]
    open_keys = [key for key in keys if frame[key].nunique(dropna=False) > 1]
    across = next((key for key in ACROSS if key in open_keys), "")
    rest = [key for key in open_keys if key != across]
    panels: tuple[str, tuple[Any, ...]] = ("", ("",))
    for key in rest:
        options = list(dict.fromkeys(frame[key]))
        text = not pd.api.types.is_numeric_dtype(frame[key])
        if text and not across:
            across = key
        elif text and not panels[0] and len(options) <= PANELS:
            panels = (key, tuple(options))
        else:
            pick = _pick(key, options, text)
            frame = chosen(frame, frame[key] == pick)
            told.append(_told(key, pick))
    return Slice(
        frame,
        name,
        across or "model",
        panels,
        ", ".join(told),
        comparison.analysis,
        tuple(labels(comparison)),
    )


def _of_measure(frame: pd.DataFrame, measure: str | None, main: str | None) -> pd.DataFrame:
    known = [str(name) for name in dict.fromkeys(frame["measure"])]
    if measure is not None and measure not in known:
        raise ArgumentError(
            f"measure={measure!r}: this comparison has {', '.join(known)}."
            f"{nearest(str(measure), known)}"
        )
    name = measure or (main if main in known else known[0])
    return chosen(frame, frame["measure"] == name)


def _where(frame: pd.DataFrame, where: dict[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The rows that were asked for, and the words for it."""
    keys = [key for key in frame if key not in (*NUMBERS, "measure", "depth")]
    for key, value in where.items():
        if key not in keys:
            raise ArgumentError(
                f"where={{{key!r}: ...}}: the cells are told apart by {', '.join(keys)}."
                f"{nearest(str(key), keys)}"
            )
        found = chosen(frame, frame[key] == value)
        if found.empty:
            options = ", ".join(str(option) for option in list(dict.fromkeys(frame[key]))[:12])
            raise ArgumentError(f"where={{{key!r}: {value!r}}}: {key} is one of {options}.")
        frame = found
    return frame, [_told(key, value) for key, value in where.items()]


def _pick(key: str, options: list[Any], text: bool) -> Any:
    known = options if text else [option for option in options if option == option]
    return max(known) if key in STRENGTHS else known[0] if text else min(known)


def _told(key: str, value: Any) -> str:
    return f"{key} {value:g}" if isinstance(value, int | float | np.number) else f"{key} {value}"


def place(row: pd.Series, shown: Slice) -> str:
    """Where a row is: ` at relative depth 0.4`, `at factor 2`."""
    parts = [] if shown.across == "model" else [_at(row, shown.across)]
    if shown.panels[0]:
        parts.append(f"for {shown.panels[0]} {row[shown.panels[0]]}")
    return " ".join(["", *parts])


def _at(row: pd.Series, across: str) -> str:
    if across == "layer":
        return f"at relative depth {row['depth']:.2f} (layer {row['layer']:.0f})"
    return f"at {_told(across, row[across])}"
