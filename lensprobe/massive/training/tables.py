"""From the logs of all runs to the tables of a `TrainingWatch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .log import Log
from .material import Material

__all__ = ["COLUMNS", "log_tables", "order_table", "runs_table", "spread_tables"]

RUN = ["run", "seed", "step"]
PLACE = ["layer", "dim", "position"]
WEIGHTS = ["weight", "gradient", "update", "momentum", "second", "value"]
COLUMNS: dict[str, list[str]] = {
    "steps": [*RUN, *PLACE, "value", "median", "ratio", "loss", "sink_rate"],
    "changes": [*RUN, *PLACE, "value", "predicted", "measured", "remainder"],
    "account": [*RUN, "component", "tensor", "kind", "value"],
    "writers": [*RUN, "layer", "component", *WEIGHTS],
    "neurons": [*RUN, "layer", "component", "neuron", *WEIGHTS],
    "losses": [*RUN, "loss", "learning_rate"],
    "peaks": [*RUN, *PLACE, "value", "median", "ratio", "massive"],
    "checkpoints": [*RUN, "path"],
}
MEASURES = ["value", "ratio", "loss", "sink_rate"]

Key = tuple[str, int]


def log_tables(logs: Mapping[Key, Log]) -> dict[str, pd.DataFrame]:
    """One frame a table of the logs, with `run` and `seed` in front."""
    frames = {}
    for table, columns in COLUMNS.items():
        rows = [
            {"run": run, "seed": seed, **row}
            for (run, seed), log in logs.items()
            for row in log.tables[table]
        ]
        frames[table] = pd.DataFrame(rows, columns=columns)
    return frames


def runs_table(
    logs: Mapping[Key, Log], facts: Mapping[str, Mapping[str, Any]], steps: pd.DataFrame
) -> pd.DataFrame:
    """One row a run: how far it came and what it was given."""
    rows = []
    for (run, seed), log in logs.items():
        looks = steps[(steps["run"] == run) & (steps["seed"] == seed)]
        given = facts[run]
        row = {
            "run": run,
            "seed": seed,
            "step": log.step,
            "status": log.status,
            "optimizer": " + ".join(one["class"] for one in given["torch"]),
            "learning_rate": float(given["torch"][0].get("lr", np.nan)),
            "weight_decay": float(given["torch"][0].get("weight_decay", np.nan)),
            "warmup": int(given["warmup"]),
            "interventions": "; ".join(given["interventions"]),
        }
        for name in ("value", "loss"):
            known = np.asarray(looks[name], dtype=np.float64)
            row[f"first_{name}"] = known[0] if len(known) else np.nan
            row[f"last_{name}"] = known[-1] if len(known) else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def spread_tables(steps: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Over seeds: each run's measures by step, and their differences to the first run's."""
    tall = steps.melt(id_vars=RUN, value_vars=MEASURES, var_name="kind", value_name="amount")
    first = tall["run"].iloc[0] if len(tall) else ""
    reference = tall[tall["run"] == first].drop(columns="run")
    keys = ["seed", "step", "kind"]
    both = tall[tall["run"] != first].merge(reference, on=keys, suffixes=("", "_first"))
    paired = _spread(both.assign(amount=both["amount"] - both["amount_first"]))
    paired.insert(1, "reference", first)
    return _spread(tall), paired


def _spread(tall: pd.DataFrame) -> pd.DataFrame:
    grouped = tall.groupby(["run", "step", "kind"], sort=False)["amount"]
    return grouped.agg(
        mean="mean",
        # Of one seed there is no spread.
        std=lambda values: float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        low="min",
        high="max",
        count="count",
    ).reset_index()


def order_table(material: Material, seeds: Sequence[int], steps: int) -> pd.DataFrame:
    """Which windows each step of each seed trains on."""
    rows = []
    for seed in seeds:
        for step in range(1, steps + 1):
            for row, index in enumerate(material.batch(seed, step)):
                window = material.windows[index]
                rows.append((seed, step, row, window.document, window.index))
    return pd.DataFrame(rows, columns=["seed", "step", "row", "document", "index"])
