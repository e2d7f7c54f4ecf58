"""What a sink scan found."""

from __future__ import annotations

from dataclasses import dataclass
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
        key_tokens: the most common token at each key.
    """

    kind: ClassVar[str] = "sinks.scan"
    citations: ClassVar[tuple[str, ...]] = (GU, GUO)

    heads: pd.DataFrame
    layers: pd.DataFrame
    profile: pd.DataFrame
    key_tokens: list[str]

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
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
