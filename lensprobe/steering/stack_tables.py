"""The tables of `compare_stacks`: every cell, every completion, and one stack against the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..statistics import interval
from .stack_runs import MEASURES, Cell, Trial
from .study import text_of

__all__ = [
    "Chosen",
    "cells_table",
    "chosen_cells",
    "own_table",
    "stacks_table",
    "texts_table",
]

PLACES = ("best", "every block")
"""How a stack's cells are chosen for the comparison of stacks."""

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Chosen:
    """A stack's cells, chosen on one half of the texts and measured on the other.

    Attributes:
        stack: which.
        values: choice → measure → float64 `[texts]`.
        best: layer and scale that each half of the texts chose.
    """

    stack: str
    values: dict[str, Values]
    best: list[tuple[int, float]]


def cells_table(trial: Trial, cells: Sequence[Cell], plain: Values) -> pd.DataFrame:
    """Stack, layer, scale, measure, value, low, high; see `StackComparison.cells`."""
    parts = []
    for cell in cells:
        place = {"stack": cell.stack, "layer": cell.layer, "scale": [0.0, *trial.scales]}
        for measure in MEASURES:
            # [texts scales] -> scale by scale, the unedited model first.
            values = np.concatenate([plain[measure][:, None], cell.values[measure]], axis=1).T
            value, low, high = interval(values)
            found = {"measure": measure, "value": value, "low": low, "high": high}
            parts.append(pd.DataFrame({**place, **found}))
    return pd.concat(parts, ignore_index=True)


def texts_table(trial: Trial, cells: Sequence[Cell], plain: Values) -> pd.DataFrame:
    """Every completion with its measures; see `StackComparison.texts`."""
    own = own_table(trial)
    count = len(trial.scales)
    parts = []
    for cell in cells:
        place = {"stack": cell.stack, "layer": cell.layer, "scale": [0.0, *trial.scales]}
        for text in range(len(trial)):
            said = {name: own[name].iloc[text] for name in ("text", "prompt", "mixing")}
            written = [trial.own[0][1][text], *cell.words[text * count : (text + 1) * count]]
            values = {name: [plain[name][text], *cell.values[name][text]] for name in MEASURES}
            parts.append(pd.DataFrame({**place, **said, "completion": written, **values}))
    return pd.concat(parts, ignore_index=True)


def own_table(trial: Trial) -> pd.DataFrame:
    """What the unedited model makes of base texts and mixing inputs; see `StackComparison.own`."""
    tokenizer = getattr(trial.adapter.model, "tokenizer", None)
    return pd.DataFrame(
        {
            "text": np.arange(len(trial)),
            "prompt": [text_of(tokenizer, one.ids) for one in trial.base],
            "completion": trial.own[0][1],
            "mixing": [text_of(tokenizer, one.ids) for one in trial.mixing],
            "answer": trial.own[1][1],
        }
    )


def chosen_cells(trial: Trial, cells: Sequence[Cell]) -> Chosen:
    """One stack's best cell, and each block at its best scale, chosen where they are not measured.

    Every other text chooses for the rest: a cell that is best by chance on the texts that chose it
    gains nothing on the others.
    """
    values = {name: np.stack([cell.values[name] for cell in cells]) for name in MEASURES}
    count = values["mixed"].shape[1]
    found = {choice: {name: np.full(count, np.nan) for name in MEASURES} for choice in PLACES}
    best = []
    halves = np.arange(count) % 2 == 0, np.arange(count) % 2 == 1
    for measured, choosing in (halves, halves[::-1]):
        if not choosing.any():
            continue
        means = _known_mean(values["mixed"][:, choosing])
        each = means.argmax(1)
        layer, scale = divmod(int(means.argmax()), means.shape[1])
        best.append((cells[layer].layer, trial.scales[scale]))
        for name, value in values.items():
            found["best"][name][measured] = value[layer, measured, scale]
            own = np.stack([value[place, measured, at] for place, at in enumerate(each)])
            found["every block"][name][measured] = own.mean(0)
    return Chosen(str(cells[0].stack), found, best)


def stacks_table(stacks: Sequence[Chosen]) -> pd.DataFrame:
    """Stack, choice, measure, value, low, high; see `StackComparison.stacks`."""
    parts = []
    for choice in PLACES:
        for measure in MEASURES:
            rows = {one.stack: one.values[choice][measure] for one in stacks}
            if len(stacks) == 2:
                first, second = rows.values()
                rows[" - ".join(rows)] = first - second
            value, low, high = interval(np.stack(list(rows.values())))
            found = {"measure": measure, "value": value, "low": low, "high": high}
            parts.append(pd.DataFrame({"stack": list(rows), "choice": choice, **found}))
    return pd.concat(parts, ignore_index=True)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Means over texts `[layers scales]` of what is defined; -inf where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(1), known.sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)
