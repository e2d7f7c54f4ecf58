"""Merged statistics of a massive-activation scan → the tables of its result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..statistics import Bundle
from ..tokens import token_strings
from .kinds import KINDS, is_delimiter
from .magnitudes import RANKS
from .reading import FIRST_POSITION

__all__ = ["findings_table", "kinds_table", "layers_table", "nonfinite_table", "trajectories_table"]

FINDINGS = {
    "dim": int,
    "position": int,
    "token": str,
    "kind": str,
    "layer": int,
    "first": int,
    "last": int,
    "value": float,
    "std": float,
    "share": float,
    "count": int,
    "ratio": float,
}
NONFINITE = {"layer": int, "site": str, "position": int, "count": int}
TRAJECTORIES = {
    "dim": int,
    "position": int,
    "layer": int,
    "site": str,
    "value": float,
    "std": float,
    "count": int,
}


def layers_table(total: Bundle, layers: tuple[int, ...], site: str) -> pd.DataFrame:
    """Layer, site, rank, value, mean, median, ratio."""
    top = total["top"].result()
    median = np.repeat(top["mean"][:, RANKS], RANKS)
    mean = top["mean"][:, :RANKS].reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean / median
    return pd.DataFrame(
        {
            "layer": np.repeat(layers, RANKS),
            "site": site,
            "rank": np.tile(np.arange(1, RANKS + 1), len(layers)),
            "value": top["max"][:, :RANKS].reshape(-1),
            "mean": mean,
            "median": median,
            "ratio": ratio,
        }
    )


def kinds_table(total: Bundle, layers: tuple[int, ...], site: str) -> pd.DataFrame:
    """Layer, site, kind, value, mean, count; a kind that never occurred has NaN and count 0."""
    parts = {kind: total[kind].result() for kind in KINDS}
    columns = {"value": "max", "mean": "mean", "count": "count"}
    return pd.DataFrame(
        {
            "layer": np.repeat(layers, len(KINDS)),
            "site": site,
            "kind": np.tile(KINDS, len(layers)),
            **{
                name: np.stack([parts[kind][field] for kind in KINDS], axis=1).reshape(-1)
                for name, field in columns.items()
            },
        }
    )


def nonfinite_table(total: Bundle, layers: tuple[int, ...], site: str) -> pd.DataFrame:
    """Layer, site, position, count; no row where everything was finite."""
    rows = [
        {"layer": layers[index], "site": site, "position": position, "count": count}
        for (index, position), count in total["nonfinite"].result().items()
    ]
    return _frame(rows, NONFINITE)


def findings_table(
    total: Bundle, layers: tuple[int, ...], tokenizer: Any, sequences: int
) -> pd.DataFrame:
    """One row a (dim, position 0) or (dim, token elsewhere) with hits, strongest first."""
    hits = total["hits"].result()
    median = total["top"].result()["mean"][:, RANKS]
    places = total["places"].result()
    where = {tuple(key): index for index, key in enumerate(places["keys"].tolist())}
    tokens = total["tokens"].common()
    rows = []
    for group, members in _grouped(hits["keys"]).items():
        best = members[int(np.argmax(np.abs(hits["mean"][members])))]
        index, dim, token = hits["keys"][best].tolist()
        scanned = [layers[int(hits["keys"][member, 0])] for member in members]
        place = where[group]
        fixed = places["min"][place] == places["max"][place]
        first = token == FIRST_POSITION
        text = token_strings(tokenizer, [tokens[(dim,)] if first else token])[0]
        value = float(hits["mean"][best])
        rows.append(
            {
                "dim": dim,
                "position": int(places["min"][place]) if fixed else -1,
                "token": text,
                "kind": _kind(first, text, tokenizer),
                "layer": layers[index],
                "first": min(scanned),
                "last": max(scanned),
                "value": value,
                "std": float(hits["std"][best]),
                "share": total["found"][group] / sequences,
                "count": int(hits["count"][best]),
                "ratio": abs(value) / median[index] if median[index] else np.inf,
            }
        )
    # Ties need an order of their own, or batching would decide.
    rows.sort(key=lambda row: (-abs(row["value"]), row["dim"], row["position"], row["token"]))
    return _frame(rows, FINDINGS)


def _grouped(keys: np.ndarray) -> dict[tuple[int, int], list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (_, dim, token) in enumerate(keys.tolist()):
        groups.setdefault((dim, token), []).append(index)
    return groups


def _kind(first: bool, token: str, tokenizer: Any) -> str:
    if first:
        return "first"
    return "delimiter" if tokenizer is not None and is_delimiter(token) else "other"


def trajectories_table(
    total: Bundle, findings: pd.DataFrame, layers: tuple[int, ...], site: str
) -> pd.DataFrame:
    """The activation at position 0 through all scanned layers, for each finding there."""
    origin = total["origin"].result()
    dims = findings.loc[findings["kind"] == "first", "dim"]
    rows = [
        {
            "dim": dim,
            "position": 0,
            "layer": layer,
            "site": site,
            "value": origin["mean"][index, dim],
            "std": origin["std"][index, dim],
            "count": origin["count"][index, dim],
        }
        for dim in dims.tolist()
        for index, layer in enumerate(layers)
    ]
    return _frame(rows, TRAJECTORIES)


def _frame(rows: list[dict[str, Any]], columns: dict[str, type]) -> pd.DataFrame:
    """Columns keep their types when there is no row."""
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: kind for name, kind in columns.items() if kind is not str})
