"""What silencing sink neurons found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result
from .citations import YONA

__all__ = ["Neurons"]


@dataclass(frozen=True, repr=False, eq=False)
class Neurons(Result):
    """The neurons that write a model's massive activation, and the model without them.

    Attributes:
        effects: one row a `measure` and run: `kind` ("plain"; "alone", one `neuron` silent;
            "together", all sink neurons; "random", as many others, by `draw`), `count` of silent
            neurons, `value`, `low`, `high`, and the `change` from plain with `change_low`,
            `change_high` (95% bootstrap over documents). Measures: "value" (largest magnitude in the
            residual at position 0 after the sink layer), "sink_rate" (share of heads above epsilon at
            key 0), "loss" (nats a predicted token) and its "perplexity".
        ranking: one row a neuron of the sink layer, strongest first: `rank`, `layer`, `neuron`,
            `activation` at position 0, `norm` of what it writes there, its `share` of the sum of those
            norms, and whether it was `kept` as a sink neuron.
    """

    kind: ClassVar[str] = "sinks.neurons"
    citations: ClassVar[tuple[str, ...]] = (YONA, GU)

    effects: pd.DataFrame
    ranking: pd.DataFrame

    @property
    def kept(self) -> tuple[tuple[int, int], ...]:
        """The sink neurons as `(layer, neuron)`, strongest first."""
        rows = self.ranking[self.ranking["kept"]]
        return tuple(
            (int(layer), int(neuron))
            for layer, neuron in zip(rows["layer"], rows["neuron"], strict=True)
        )

    def effect(self, measure: str, kind: str) -> float:
        """Mean value of one measure over the runs of one kind.

        Raises:
            ArgumentError: it was not measured.
        """
        own = self.effects[(self.effects["measure"] == measure) & (self.effects["kind"] == kind)]
        if own.empty:
            raise ArgumentError(
                f"effect({measure!r}, {kind!r}): the measures are "
                f"{', '.join(self.effects['measure'].unique())}, the kinds "
                f"{', '.join(self.effects['kind'].unique())}."
            )
        return float(own["value"].mean())

    def summary(self) -> dict[str, Any]:
        """Model, sink layer, sink neurons, and what is left without them."""
        facts: dict[str, Any] = {
            **super().summary(),
            "sink_layer": int(self.provenance["sink_layer"]),
            "neurons": ", ".join(str(neuron) for _, neuron in self.kept) or "none",
            "value": self.effect("value", "plain"),
            "sink_rate": self.effect("sink_rate", "plain"),
        }
        if "together" in set(self.effects["kind"]):
            facts["value_without"] = self.effect("value", "together")
            facts["sink_rate_without"] = self.effect("sink_rate", "together")
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
