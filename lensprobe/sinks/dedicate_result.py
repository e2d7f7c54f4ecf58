"""What a sink of the model's own parameters does for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result
from .citations import YONA
from .evict_result import XIAO

__all__ = ["Dedicate"]


@dataclass(frozen=True, repr=False, eq=False)
class Dedicate(Result):
    """A model behind a virtual sink, with its massive activation and without.

    Losses are in nats a token over the same predicted tokens in every run: those of a text from its
    second own token on, BOS not counted. Attention is that of the same queries.

    Attributes:
        effects: one row a `measure`, `condition`, `kind` and `group`, with 95% bootstrap intervals
            over documents and the `change` from the plain model as it is. Conditions: "own", the text
            as it is; "virtual", behind the averaged keys and values, which take the place of BOS where
            there is one; "fitted", behind those fitted further. Kinds: "plain"; "zero", the
            massive coordinate at zero at every token after its layer; "neurons", without the sink
            neurons. Groups: "text", and "repeats" of single words of those texts. Measures: "loss";
            "perplexity"; "attention" to the front (BOS, the virtual sink, or else the first token),
            mean over heads; "sink_rate", the share of heads in which it exceeds epsilon; "first_rate",
            the same of the first own token; "massive", the share of the tokens read that have at
            least half of a first token's massive value; "largest", the largest magnitude of the
            coordinate among them.
        fit: `loss` before each `step` of the fit; empty without one.
        words: what was repeated: `id`, `token`.
        keys, values: the virtual sink, float32 `[layer kv_head d_head]`; the fitted one if there is.
    """

    kind: ClassVar[str] = "sinks.dedicate"
    citations: ClassVar[tuple[str, ...]] = (XIAO, YONA, GU)

    effects: pd.DataFrame
    fit: pd.DataFrame
    words: pd.DataFrame
    keys: np.ndarray
    values: np.ndarray

    def effect(
        self, measure: str, condition: str, kind: str = "plain", group: str = "text"
    ) -> pd.Series:
        """The row of `effects` of one measure, condition, kind and group.

        Raises:
            ArgumentError: it was not measured.
        """
        wanted = {"measure": measure, "condition": condition, "kind": kind, "group": group}
        own = np.ones(len(self.effects), dtype=bool)
        for name, value in wanted.items():
            known = list(dict.fromkeys(self.effects[name]))
            if value not in known:
                raise ArgumentError(f"{name}={value!r}: measured were {', '.join(known)}.")
            own &= (self.effects[name] == value).to_numpy()
        return self.effects[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, layer, and the loss on texts in every run."""
        frame = self.effects
        rows: list[Any] = list(
            frame[(frame["measure"] == "loss") & (frame["group"] == "text")].itertuples()
        )
        facts: dict[str, Any] = {
            **super().summary(),
            "dim": int(self.provenance["dim"]),
            "layer": int(self.provenance["sink_layer"]),
            **{f"loss {row.condition} {row.kind}": float(row.value) for row in rows},
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
