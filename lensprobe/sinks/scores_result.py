"""What the score of one head to one key is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import ELHAGE, GU
from ..results import Result

__all__ = ["SinkScores"]


@dataclass(frozen=True, repr=False, eq=False)
class SinkScores(Result):
    """The scores of one head to the key at one position, as sums; before a cap and the softmax.

    In `parts`, `dims` and `coordinates`, `value` is the mean over the queries after the position, and
    `others` the same part of the mean score over those queries' other keys: what sets the key apart is
    their difference. The values of `parts` sum to the mean score, those of `coordinates` too, and those
    of `dims` to it less the parts of the key that are biases.

    Attributes:
        queries: one row a `query` after the position: its `token`, the score's `value`, the mean of
            `others`, the attention's `probability`; `content` (query and key as if none were turned),
            `turn` (what the rotary turn changes; 0 in models without) and `remainder` (rounding).
            The last three sum to the value.
        parts: one row a `query_part` and `key_part`: "bias" (of the head), "norm bias", "token",
            "position", "attention" and "mlp" (all layers below), "rest" (rounding, edits).
        dims: one row a dimension of the residual stream that the key is made from: `activation` at the
            position, `value`, `others`, and `kind`: "massive" or "".
        coordinates: one row a `coordinate` of the head's queries and keys, after the turn.
    """

    kind: ClassVar[str] = "sinks.scores"
    citations: ClassVar[tuple[str, ...]] = (GU, ELHAGE)

    queries: pd.DataFrame
    parts: pd.DataFrame
    dims: pd.DataFrame
    coordinates: pd.DataFrame

    @property
    def score(self) -> float:
        """Mean score over the queries after the position."""
        return float(self.queries["value"].mean())

    def summary(self) -> dict[str, Any]:
        """Model, head, mean score and attention, and what of it is due to massive dimensions."""
        lift = self.dims["value"] - self.dims["others"]
        massive = self.dims["kind"] == "massive"
        return {
            **super().summary(),
            "head": f"L{self.provenance['layer']}H{self.provenance['head']}",
            "position": int(self.provenance["position"]),
            "score": self.score,
            "others": float(self.queries["others"].mean()),
            "attention": float(self.queries["probability"].mean()),
            "massive": float(lift[massive].sum()),
            "remainder": float(self.provenance["remainder"]),
        }
