"""What patching activations between two sequences found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result
from .citations import YONA

__all__ = ["Patch"]


@dataclass(frozen=True, repr=False, eq=False)
class Patch(Result):
    """A run with single activations of another run in it, place by place.

    Attributes:
        effects: one row a `measure`, `site`, `layer` and patched `position` (with its `token` in the
            corrupt sequence): `value`, `change` from the corrupt run, and the `share` of the way to the
            clean run (NaN where the two do not differ). Measures: "value" (largest magnitude in the
            residual after the sink layer, at the position that provenance names), "attention" (to key
            0, mean over queries, heads and layers), "sink_rate" (share of heads above epsilon there).
        ends: the two runs as they are: `condition` ("clean" or "corrupt"), `measure`, `value`.
        clean_tokens, corrupt_tokens: the tokens of both.
    """

    kind: ClassVar[str] = "sinks.patch"
    citations: ClassVar[tuple[str, ...]] = (YONA, GU)

    effects: pd.DataFrame
    ends: pd.DataFrame
    clean_tokens: list[str]
    corrupt_tokens: list[str]

    def grid(self, measure: str, site: str) -> np.ndarray:
        """`value` as `[layer position]`, layers in order.

        Raises:
            ArgumentError: it was not measured.
        """
        frame = self.effects
        rows = frame.loc[(frame["measure"] == measure) & (frame["site"] == site)]
        if rows.empty:
            raise ArgumentError(
                f"grid({measure!r}, {site!r}): the measures are "
                f"{', '.join(frame['measure'].unique())}, the sites "
                f"{', '.join(frame['site'].unique())}."
            )
        return rows.pivot(index="layer", columns="position", values="value").to_numpy(float)

    def end(self, condition: str, measure: str) -> float:
        """A measure of the clean or the corrupt run."""
        own = (self.ends["condition"] == condition) & (self.ends["measure"] == measure)
        return float(self.ends.loc[own, "value"].iloc[0])

    def summary(self) -> dict[str, Any]:
        """Model, the massive value at both ends, and the patch that moves it furthest."""
        frame = self.effects.loc[self.effects["measure"] == "value"]
        top = frame.iloc[int(np.abs(frame["change"].to_numpy(float)).argmax())]
        facts: dict[str, Any] = {
            **super().summary(),
            "clean_value": self.end("clean", "value"),
            "corrupt_value": self.end("corrupt", "value"),
            "site": str(top["site"]),
            "layer": int(top["layer"]),
            "position": int(top["position"]),
            "change": float(top["change"]),
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
