"""What a sink scan found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU, GUO
from ..results import Result

__all__ = ["SinkScan"]


@dataclass(frozen=True, repr=False, eq=False)
class SinkScan(Result):
    """Attention to the first keys of a corpus, after Gu et al. (2410.10781).

    Attributes:
        heads: one row a layer, head and key: `value` the mean over sequences of the attention to
            that key, `sink_rate` the share of sequences in which it exceeds epsilon, `count` of
            sequences that have that key.
        layers: one row a layer and key: `sink_rate` and `value`, means over the layer's heads.
        profile: one row a layer and head: `entropy` in nats, mean over queries; `value_norm` and
            `other_norm`, mean norm of the value vectors at key 0 and at all other tokens; `ratio`
            of the first to the second. With grouped queries, heads of a group share their values.
            `mass`: attention to all positions with a massive activation, NaN where no sequence has
            one; `remainder`: what no key gets, in models with a learned sink, NaN elsewhere.
        key_tokens: the most common token at each key.
        rates: one row a `condition`, `epsilon`, layer, head and key: `sink_rate` and `count`. The texts
            are "natural", or go by their names.
        conditions: one row a condition, layer and head: `value`, `sink_rate`, `mass` and `entropy` of
            its first token, `count`, and `kind`: "dormant" where the value exceeds epsilon (Guo et al.
            2410.13835), else "active".
        secondary: one row a layer, `position` (from 1 on) and `token` on which some head sinks: `count`
            of heads and sequences that do, their `share` of all, `value` their mean attention.
        massive: one row a position and token that has a massive activation: `count` and `share` of
            sequences.

    `provenance["definitions"]` says what each measure is, word by word.
    """

    kind: ClassVar[str] = "sinks.scan"
    citations: ClassVar[tuple[str, ...]] = (GU, GUO)

    heads: pd.DataFrame
    layers: pd.DataFrame
    profile: pd.DataFrame
    key_tokens: list[str]
    rates: pd.DataFrame = field(default_factory=pd.DataFrame)
    conditions: pd.DataFrame = field(default_factory=pd.DataFrame)
    secondary: pd.DataFrame = field(default_factory=pd.DataFrame)
    massive: pd.DataFrame = field(default_factory=pd.DataFrame)

    def switching(self) -> pd.DataFrame:
        """Heads that are dormant in one condition and active in another, the largest change first.

        Columns: `layer`, `head`, one column a condition with its mean attention to the first token,
        and `change`, the largest of these less the smallest.
        """
        wide = self.conditions.pivot_table(
            index=["layer", "head"], columns="condition", values="value", sort=False
        )
        kinds = self.conditions.groupby(["layer", "head"])["kind"].nunique()
        found = wide[kinds.reindex(wide.index) > 1]
        found = found.assign(change=found.max(axis=1) - found.min(axis=1))
        found.columns.name = None
        return found.sort_values("change", ascending=False).reset_index()

    def sink_rate(self, key: int = 0) -> float:
        """Share of scanned heads that sink on `key`, mean over sequences; NaN if none has it."""
        return float(self.layers.loc[self.layers["key"] == key, "sink_rate"].mean())

    def summary(self) -> dict[str, float | int | str | bool]:
        """Model, texts, sink rate of key 0 and the head that attends most to it."""
        facts: dict[str, Any] = {
            **super().summary(),
            "sequences": int(self.provenance["sequences"]),
            "length": int(self.provenance["length"]),
            "sink_rate": self.sink_rate(),
        }
        first = self.heads.loc[(self.heads["key"] == 0) & self.heads["value"].notna()]
        if len(first):
            best = first.nlargest(1, "value").iloc[0]
            facts["strongest_head"] = f"L{int(best['layer'])}H{int(best['head'])}"
            facts["value"] = float(best["value"])
        if len(self.massive) and self.profile["mass"].notna().any():
            facts["mass"] = float(self.profile["mass"].mean())
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
