"""Whether the massive activation makes the sink, in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..errors import ArgumentError
from ..massive import Ablate
from ..results import Result

__all__ = ["Cause"]


@dataclass(frozen=True, repr=False, eq=False)
class Cause(Result):
    """Sink rate and loss with the massive activation taken away in several ways.

    Attributes:
        causes: one row a `kind`, the plain run first: `count` of numbers or neurons taken away;
            `value`, what is left of the (first) coordinate at the layer where it is largest, signed
            mean over sequences, and `ratio` of that to the plain value; `sink_rate` and mean
            `attention` of all heads to the position; `loss` in nats a token, its `change`, and `kl`
            from the plain model. Random kinds are means over draws (of `value` the first draw).
        effects: one row a `measure` and `kind` with 95% intervals over documents: those of
            `lp.massive.ablate`, whose kinds these are.
    """

    kind: ClassVar[str] = "sinks.cause"
    citations: ClassVar[tuple[str, ...]] = Ablate.citations

    causes: pd.DataFrame
    effects: pd.DataFrame

    def cause(self, kind: str) -> pd.Series:
        """The row of `causes` of one kind.

        Raises:
            ArgumentError: it was not measured.
        """
        own = self.causes["kind"] == kind
        if not own.any():
            raise ArgumentError(f"cause({kind!r}): the kinds are {', '.join(self.causes['kind'])}.")
        return self.causes[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, coordinates, the plain sink rate and that under each kind."""
        pairs = zip(self.causes["kind"], self.causes["sink_rate"], strict=True)
        rates = {f"sink_rate {kind}": float(rate) for kind, rate in pairs}
        facts: dict[str, Any] = {
            **super().summary(),
            "dim": ", ".join(map(str, self.provenance["dims"])),
            "position": int(self.provenance["position"]),
            "layer": int(self.provenance["layer"]),
            **rates,
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
