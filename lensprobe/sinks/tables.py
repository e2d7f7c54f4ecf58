"""The tables of a sink scan, from its merged statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..models.adapter import Adapter
from ..statistics import Bundle
from ..tokens import token_strings
from .reading import LEAST_QUERIES, SinkReading

__all__ = [
    "conditions_table",
    "heads_table",
    "layers_table",
    "massive_table",
    "profile_table",
    "rates_table",
    "secondary_table",
]


def heads_table(total: Bundle, reading: SinkReading) -> pd.DataFrame:
    """One row a layer, head and key."""
    attention, sinks = total["attention"].result(), total["sinks"].result()["mean"][0]
    _, heads, keys = attention["mean"].shape
    return pd.DataFrame(
        {
            **_crossed(layer=reading.layers, head=range(heads), key=range(keys)),
            "value": attention["mean"].reshape(-1),
            "sink_rate": sinks.reshape(-1),
            "count": attention["count"].reshape(-1),
        }
    )


def layers_table(heads: pd.DataFrame) -> pd.DataFrame:
    """Means over the heads of each layer."""
    grouped = heads.groupby(["layer", "key"], as_index=False)
    return pd.DataFrame(grouped[["sink_rate", "value"]].mean())


def profile_table(total: Bundle, reading: SinkReading, adapter: Adapter) -> pd.DataFrame:
    """One row a layer and head."""
    entropy = total["entropy"].result()["mean"]
    heads = entropy.shape[1]
    shared = np.arange(heads) // (heads // adapter.n_kv_heads)
    first = total["value"].result()["mean"][:, shared].reshape(-1)
    others = total["others"].result()["mean"][:, shared].reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = first / others
    return pd.DataFrame(
        {
            **_crossed(layer=reading.layers, head=range(heads)),
            "entropy": entropy.reshape(-1),
            "value_norm": first,
            "other_norm": others,
            "ratio": ratio,
            "mass": total["mass"].result()["mean"].reshape(-1),
            "remainder": total["remainder"].result()["mean"].reshape(-1),
        }
    )


def rates_table(totals: Mapping[str, Bundle], reading: SinkReading) -> pd.DataFrame:
    """One row a condition, epsilon, layer, head and key."""
    frames = []
    for name, total in totals.items():
        sinks = total["sinks"].result()
        _, _, heads, keys = sinks["mean"].shape
        places = _crossed(
            epsilon=reading.epsilons, layer=reading.layers, head=range(heads), key=range(keys)
        )
        values = {"sink_rate": sinks["mean"].reshape(-1), "count": sinks["count"].reshape(-1)}
        frames.append(pd.DataFrame({"condition": name, **places, **values}))
    return pd.concat(frames, ignore_index=True)


def conditions_table(totals: Mapping[str, Bundle], reading: SinkReading) -> pd.DataFrame:
    """One row a condition, layer and head: its use of the first token there."""
    frames = []
    for name, total in totals.items():
        attention, entropy = total["attention"].result(), total["entropy"].result()["mean"]
        value = attention["mean"][..., 0].reshape(-1)
        frame = pd.DataFrame(
            {
                "condition": name,
                **_crossed(layer=reading.layers, head=range(entropy.shape[1])),
                "value": value,
                "sink_rate": total["sinks"].result()["mean"][0][..., 0].reshape(-1),
                "mass": total["mass"].result()["mean"].reshape(-1),
                "entropy": entropy.reshape(-1),
                "count": attention["count"][..., 0].reshape(-1),
            }
        )
        dormant = np.where(value > reading.epsilon, "dormant", "active")
        frames.append(frame.assign(kind=np.where(np.isnan(value), "", dormant)))
    return pd.concat(frames, ignore_index=True)


def secondary_table(total: Bundle, reading: SinkReading, tokenizer: Any) -> pd.DataFrame:
    """One row a layer, position and token at which some head sinks; the most frequent first."""
    found = total["secondary"].result()
    layer, position, token = found["keys"].T
    lengths = total["lengths"].result()
    enough = [
        sum(count for (length,), count in lengths.items() if length - place >= LEAST_QUERIES)
        for place in position.tolist()
    ]
    frame = pd.DataFrame(
        {
            "layer": np.asarray(reading.layers)[layer],
            "position": position,
            "token": np.array(token_strings(tokenizer, token.tolist()), dtype=object),
            "count": found["count"],
            "share": found["count"] / (np.array(enough, float) * reading.heads),
            "value": found["mean"],
        }
    )
    ordered = frame.sort_values(["layer", "count"], ascending=[True, False], kind="stable")
    return ordered.reset_index(drop=True)


def massive_table(total: Bundle, tokenizer: Any, sequences: int) -> pd.DataFrame:
    """One row a position and token with a massive activation; the most frequent first."""
    found = total["massive"].result()
    keys = np.array(list(found), np.int64).reshape(-1, 2)
    counts = np.array(list(found.values()), np.int64)
    frame = pd.DataFrame(
        {
            "position": keys[:, 0],
            "token": np.array(token_strings(tokenizer, keys[:, 1].tolist()), dtype=object),
            "count": counts,
            "share": counts / sequences,
        }
    )
    return frame.sort_values("count", ascending=False, kind="stable").reset_index(drop=True)


def _crossed(**axes: Any) -> dict[str, np.ndarray]:
    """Every combination of the values of some columns, the last one running fastest."""
    grids = np.meshgrid(*axes.values(), indexing="ij")
    return {name: grid.reshape(-1) for name, grid in zip(axes, grids, strict=True)}
