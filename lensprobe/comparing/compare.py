"""Results of one kind → one table, with what keeps their numbers from meaning the same."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..results import Result, open_result
from ..settings import checked_seed
from .columns import cells, chosen_table
from .pairing import paired, unpaired
from .result import Comparison
from .settings import cautions, settings_table

__all__ = ["compare", "compared", "joined_facts", "opened"]

COLUMNS = [
    "measure",
    "model",
    "value",
    "low",
    "high",
    "change",
    "change_low",
    "change_high",
    "count",
]


def compare(
    results: Mapping[str, Any], *, table: str | None = None, seed: int | None = None
) -> Comparison:
    """Results of one kind side by side, each against the first.

    Where a result keeps its numbers document by document, the interval of a change is a bootstrap of
    documents paired by their number, so both must have read the same texts. Other results are
    compared without intervals, and a note says so.

    Args:
        results: a label for each result, or for the file that one was saved to; at least two.
        table: which table; None is the one by document where there is one, else the main one.
        seed: of the bootstrap; None is 0.

    Warns:
        UserWarning: BOS, window length, dtype, coordinates or texts are not the same.

    Raises:
        ArgumentError: fewer than two results, of different kinds, or no such table.
        OutputError: a file that holds no result.

    Examples:
        >>> text = "The cat sat on the mat."
        >>> off = lp.Scale(factor=0.0, layers=1, dim=447)
        >>> runs = {"plain": lp.score(model, text), "without 447": lp.score(model, text, edits=off)}
        >>> found = lp.compare(runs)
        >>> found.values.query("measure == 'loss'")["change"].round(2).tolist()
        [0.0, 0.69]
    """
    given = opened(results)
    _one_kind(given)
    found = compared(given, table=table, seed=seed)
    told = [note for note in found.provenance["notes"] if " differs: " in note]
    if told:
        warnings.warn(" ".join(told), UserWarning, stacklevel=2)
    return found


def compared(
    given: Mapping[str, Result],
    *,
    table: str | None,
    seed: int | None,
    failed: Mapping[str, tuple[str, str]] | None = None,
    complete: bool = True,
) -> Comparison:
    """The comparison of results that are of one kind.

    Args:
        given: the results, by label.
        table: as in `compare`.
        seed: as in `compare`.
        failed: by label, the source and the error of those that gave none.
        complete: whether all that was asked for is there.
    """
    seed = checked_seed(seed) or 0
    facts = {label: result.provenance for label, result in given.items()}
    name = chosen_table(next(iter(given.values())), table) if given else (table or "")
    tables = {label: cells(result, name) for label, result in given.items()}
    settings = settings_table(facts)
    notes = [*cautions(settings)]
    values = pd.DataFrame(columns=COLUMNS)
    kind = ""
    if given:
        first = next(iter(tables.values()))
        apart = unpaired(first.keys, facts)
        values = paired(tables, apart, seed=seed)
        depths(values, facts)
        notes += [*apart.values(), _interval_note(name, first.unit, tables)]
        kind = next(iter(given.values())).kind
    return Comparison(
        provenance=joined_facts(given, facts, failed or {}, notes, complete) | {"seed": seed},
        values=values,
        models=_models(given, failed or {}),
        settings=settings,
        citations_of=list(dict.fromkeys(r.cite() for r in given.values() if r.cite())),
        analysis=kind,
        table=name,
    )


def depths(values: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Add `depth` behind `layer`, so that models of different depth share an axis."""
    if "layer" not in values:
        return
    for label, given in facts.items():
        rows = values["model"] == label
        most = given.get("n_layers") or int(values.loc[rows, "layer"].max()) + 1
        place = values.loc[rows, "layer"].astype(float) / max(1, int(most) - 1)
        if "depth" not in values:
            values.insert(list(values.columns).index("layer") + 1, "depth", np.nan)
        values.loc[rows, "depth"] = place


def opened(results: Any) -> dict[str, Result]:
    """Results by label; files are read.

    Raises:
        ArgumentError: fewer than two, a label that is no name, something that is no result.
        OutputError: a file that holds no result.
    """
    if not isinstance(results, Mapping) or len(results) < 2:
        raise ArgumentError(
            "results: a label for each of at least two results, as {'base': a, 'tuned': b}."
        )
    found = {}
    for label, result in results.items():
        if not isinstance(label, str) or not label.strip():
            raise ArgumentError(f"results: the label {label!r} is no name.")
        opened = open_result(result) if isinstance(result, str | os.PathLike) else result
        if not isinstance(opened, Result):
            raise ArgumentError(
                f"results: {label!r} is a {type(opened).__name__}; a result of an analysis, or the "
                "file one was saved to."
            )
        found[label] = opened
    return found


def _one_kind(given: Mapping[str, Result]) -> None:
    (first, base), *others = given.items()
    if base.kind in ("comparison", "plan"):
        raise ArgumentError(f"results: {first!r} is a {base.kind}, which is not compared.")
    for label, result in others:
        if result.kind != base.kind:
            raise ArgumentError(
                f"results: {label!r} is a {result.kind!r} result and {first!r} a {base.kind!r}; "
                "only results of one kind are compared."
            )


def _interval_note(table: str, unit: str, tables: Mapping[str, Any]) -> str:
    if not unit:
        return (
            f"{table} has no rows by document, so the changes have no interval: a difference may be "
            "chance."
        )
    ids = [set(own.frame[unit]) for own in tables.values()]
    lost = max(len(set.union(*ids) - known) for known in ids)
    more = f" {lost} documents are not in all of them and enter no change." if lost else ""
    return (
        f"intervals: 95% bootstrap over documents, which are paired by their number ({unit}): the "
        f"texts must be the same, in the same order.{more}"
    )


def joined_facts(
    given: Mapping[str, Result],
    facts: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, tuple[str, str]],
    notes: list[str],
    complete: bool,
) -> dict[str, Any]:
    """What all share, once; where each comes from, under its label."""
    first, *others = [*facts.values()] or [{}]
    aside = ("notes", "complete", "seed", "model")
    shared = {
        key: value
        for key, value in first.items()
        if key not in aside and all(other.get(key) == value for other in others)
    }
    own = {
        label: {key: value for key, value in fact.items() if key not in (*shared, *aside)}
        | {"model": fact.get("model", "?")}
        for label, fact in facts.items()
    }
    for label, fact in facts.items():
        notes += [f"{label}: {note}" for note in fact.get("notes") or ()]
    return {
        "model": ", ".join([*given, *failed]) or "none",
        **shared,
        "compared": own,
        "complete": complete and all(fact.get("complete", True) for fact in facts.values()),
        "notes": notes,
    }


def _models(given: Mapping[str, Result], failed: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for label, result in given.items():
        fact = result.provenance
        known = {"source": str(fact.get("model", "?")), "revision": str(fact.get("revision") or "")}
        scalars = {key: value for key, value in result.summary().items() if key != "model"}
        rows.append({"model": label, **known, "error": "", **scalars})
    for label, (source, error) in failed.items():
        rows.append({"model": label, "source": source, "revision": "", "error": error})
    columns = dict.fromkeys(["model", "source", "revision", "error"])
    columns |= dict.fromkeys(key for row in rows for key in row)
    return pd.DataFrame(rows, columns=list(columns))
