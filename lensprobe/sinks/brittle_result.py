"""What repetition costs a model, before and after a repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result
from .citations import YONA

__all__ = ["Brittle"]


@dataclass(frozen=True, repr=False, eq=False)
class Brittle(Result):
    """A model on ordinary text and on text that repeats itself, plain and repaired.

    Attributes:
        effects: one row a `measure`, `kind` of sequence, `bos` and `condition` ("plain" or "repaired"):
            `value`, `low`, `high`, and the `change` from plain with `change_low`, `change_high` (95%
            bootstrap over documents). Measures: "loss" (nats a predicted token) and its "perplexity",
            "sink_rate" (share of heads above epsilon at key 0), "mass" (share of all attention that
            goes to tokens with a massive value), "massive" (share of tokens that have one).
    """

    kind: ClassVar[str] = "sinks.brittle"
    citations: ClassVar[tuple[str, ...]] = (YONA, GU)

    effects: pd.DataFrame

    def effect(self, measure: str, kind: str, *, bos: bool, condition: str = "plain") -> pd.Series:
        """The row of `effects` of one measure, kind of sequence and condition.

        Raises:
            ArgumentError: it was not measured.
        """
        frame = self.effects
        own = (frame["measure"] == measure) & (frame["kind"] == kind)
        own &= (frame["bos"] == bos) & (frame["condition"] == condition)
        if not own.any():
            raise ArgumentError(
                f"effect({measure!r}, {kind!r}, bos={bos}, condition={condition!r}): the measures are "
                f"{', '.join(frame['measure'].unique())}, the kinds "
                f"{', '.join(frame['kind'].unique())}, the conditions plain and repaired."
            )
        return frame.loc[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, and what the repair changes on text and on repeats."""
        facts: dict[str, Any] = {**super().summary(), "sequences": int(self.provenance["measured"])}
        last = bool(self.effects["bos"].iloc[-1])
        for kind in dict.fromkeys(self.effects["kind"]):
            for measure in ("loss", "massive"):
                row = self.effect(measure, kind, bos=last, condition="repaired")
                facts[f"{kind}_{measure}_change"] = float(row.to_dict()["change"])
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
