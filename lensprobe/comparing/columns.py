"""A table of any result as cells and measures: which columns say where, and which say how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..errors import ArgumentError
from ..results import Result

__all__ = ["Cells", "cells", "chosen_table"]

UNITS = ("document", "text")
"""Columns that number the documents, the unit that was drawn independently."""
KEYS = (
    *("group", "condition", "kind", "stack", "choice", "component", "positive", "negative"),
    *("steered", "reference", "mixing", "bos", "epsilon", "factor", "scale", "weight", "keep"),
    *("step", "seed", "run", "n", "repeat", "draw", "lag", "decile", "rank", "layer", "site"),
    *("head", "neuron", "dim", "key", "position", "query", "id", "token", "document", "text"),
)
"""Columns that say where a number was measured."""
PREDICTED = ("loss", "logprob", "probability")
"""Beside one of these a rank is a token's among all that might have come, and so was measured."""
BESIDE = (
    *("count", "low", "high", "std", "change", "change_low", "change_high"),
    *("first", "last", "index", "rows", "plain"),
)
"""Numbers that go with another number of their row."""
BY_DOCUMENT = ("documents", "texts")
"""Tables that may have one row a document and cell."""
WEIGHED = ("score", "interpolation.score")
"""Results whose `texts` hold means over `count` tokens; tables named `documents` always do."""
DEFAULTS = {"sinks.scan": "layers", "report": "massive.layers"}
"""The table that is compared, where it is not the first one."""


@dataclass(frozen=True)
class Cells:
    """A table in long form.

    Attributes:
        frame: one row a cell, measure and document: the `keys`, `measure`, the unit where there is
            one, `value`, `count` (what the document weighs), and `low` and `high` where the result
            has them itself.
        keys: columns that say which cell it is, in order.
        unit: the column that numbers the documents; "" where there are no rows by document.
    """

    frame: pd.DataFrame
    keys: tuple[str, ...]
    unit: str


def chosen_table(result: Result, table: str | None) -> str:
    """The table to compare: as asked, else the one by document, else the kind's main one.

    Raises:
        ArgumentError: the result has no such table, or none at all.
    """
    if not result.tables:
        raise ArgumentError(f"results: a {type(result).__name__} has no table to compare.")
    if table is not None:
        result.to_frame(table)
        return table
    for name in BY_DOCUMENT:
        if name in result.tables and _unit(result, name):
            return name
    return DEFAULTS.get(result.kind, result.tables[0])


def cells(result: Result, table: str) -> Cells:
    """The table as cells and measures.

    Raises:
        ArgumentError: it holds no numbers, or several rows for one cell.
    """
    frame, unit = result.to_frame(table), _unit(result, table)
    keys = _keys(frame, unit)
    # Where rows have names for what they measure, the number is the value beside the name.
    names = (
        ["value"] if {"measure", "value"} <= set(frame.columns) else _measures(frame, keys, unit)
    )
    if not names:
        raise ArgumentError(
            f"table={table!r} of a {result.kind!r} result holds no number to compare; its tables "
            f"are {', '.join(result.tables)}."
        )
    weighed = bool(unit) and (table == "documents" or result.kind in WEIGHED)
    parts = [_part(frame, name, keys, unit, weighed=weighed) for name in names]
    long = pd.concat(parts, ignore_index=True)
    index = [*keys, "measure", *([unit] if unit else [])]
    if long.duplicated(index).any():
        raise ArgumentError(
            f"table={table!r} of a {result.kind!r} result has several rows for one cell; "
            f"choose another of {', '.join(result.tables)}."
        )
    return Cells(long, keys, unit)


def _unit(result: Result, table: str) -> str:
    """The column that numbers documents, if the table has one row a document and cell."""
    frame = result.to_frame(table)
    for unit in UNITS:
        if table in BY_DOCUMENT and unit in frame:
            keys = _keys(frame, unit)
            rows = [unit, *keys, *(["measure"] if "measure" in frame else [])]
            named = {"measure", "value"} <= set(frame.columns)
            measured = named or bool(_measures(frame, keys, unit))
            return unit if measured and not frame.duplicated(rows).any() else ""
    return ""


def _keys(frame: pd.DataFrame, unit: str) -> tuple[str, ...]:
    aside = {unit, *(["rank"] if set(PREDICTED) & set(frame.columns) else [])}
    return tuple(name for name in KEYS if name in frame and name not in aside)


def _measures(frame: pd.DataFrame, keys: tuple[str, ...], unit: str) -> list[str]:
    aside = {*keys, unit, *BESIDE}
    # What stands beside a number may be all there is, as tokens written are.
    numbers = [name for name in frame.columns if _number(frame[name])]
    main = [name for name in numbers if name not in aside]
    if unit and "loss" in main:
        # No mean over documents; it is made from the mean loss.
        main = [name for name in main if name != "perplexity"]
    return main or [name for name in numbers if name in ("change", "count")][:1]


def _number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _part(
    frame: pd.DataFrame, name: str, keys: tuple[str, ...], unit: str, *, weighed: bool
) -> pd.DataFrame:
    """One measure's rows."""
    columns: dict[str, Any] = {key: frame[key] for key in keys}
    columns["measure"] = frame.get("measure", name)
    if unit:
        columns[unit] = frame[unit]
    columns["value"] = frame[name].astype(float)
    columns["count"] = frame["count"].astype(float) if weighed and "count" in frame else 1.0
    if not unit and name in ("value", "change") and {"low", "high"} <= set(frame.columns):
        columns |= {end: frame[end].astype(float) for end in ("low", "high")}
    return pd.DataFrame(columns)
