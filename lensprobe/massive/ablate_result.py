"""What ablations of a massive activation say, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result
from .ablations import Ablation
from .anatomy_result import YU
from .effects_tables import Documents
from .result import SUN
from .target import named

__all__ = ["Ablate", "draws_table", "sets_table"]


@dataclass(frozen=True, repr=False, eq=False)
class Ablate(Result):
    """A model without a massive activation, in several ways, and without as much of something else.

    Losses and divergences are in nats a predicted token, from the position on; measures are those of
    `Rescale`. Intervals are 95% bootstrap over documents.

    Attributes:
        effects: one row a `measure` and `kind`: `count` of what was taken away, `value`, `low`,
            `high`, and the `change` from the plain run of the same documents with `change_low`,
            `change_high`; random kinds are means over draws. Kinds: "zero" and "mean" (over texts) of
            the coordinates in the layer's output at the position; "random zero" and "random mean", as
            many other coordinates there; "vector mean", all of them; "neurons", the smallest set of
            neurons that carries 95% of the value, silent at every token; "weights", only their weights
            into the coordinates; "random neurons", as many others of the same layers.
        draws: the random kinds draw by draw: `measure`, `kind`, `draw`, `value`, `change`.
        sets: what was taken away: `kind`, `draw`, and `dim`, or `layer` and `neuron` (-1 where there is
            none; "vector mean" has no rows).
        plain: the plain model: `measure`, `value`, `low`, `high`.
        documents: one row a `measure`, `kind` and `document`: `value`, `change`, `count`.
    """

    kind: ClassVar[str] = "massive.ablate"
    citations: ClassVar[tuple[str, ...]] = (SUN, YU, GU)

    effects: pd.DataFrame
    draws: pd.DataFrame
    sets: pd.DataFrame
    plain: pd.DataFrame
    documents: pd.DataFrame

    def effect(self, measure: str, kind: str) -> pd.Series:
        """The row of `effects` of one measure and kind.

        Raises:
            ArgumentError: it was not measured.
        """
        own = (self.effects["measure"] == measure) & (self.effects["kind"] == kind)
        if not own.any():
            raise ArgumentError(
                f"effect({measure!r}, {kind!r}): the measures are "
                f"{', '.join(self.effects['measure'].unique())}, the kinds "
                f"{', '.join(self.effects['kind'].unique())}."
            )
        return self.effects[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, coordinates, plain loss, and by how much each kind changes it."""
        plain = self.plain.loc[self.plain["measure"] == "loss", "value"]
        losses = self.effects.loc[self.effects["measure"] == "loss", ["kind", "change"]]
        facts = {
            **super().summary(),
            **named(self.provenance),
            "layer": int(self.provenance["layer"]),
            "documents": int(self.documents["document"].nunique()),
            "loss": float(plain.iloc[0]),
            **{str(kind): float(change) for kind, change in losses.itertuples(index=False)},
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


def draws_table(tally: Documents, ablations: Sequence[Ablation]) -> pd.DataFrame:
    """`Ablate.draws`."""
    frame = tally.means(
        {"kind": [one.kind for one in ablations], "draw": [one.draw for one in ablations]}
    )
    return frame.loc[frame["draw"] >= 0].reset_index(drop=True)


def sets_table(ablations: Sequence[Ablation]) -> pd.DataFrame:
    """`Ablate.sets`."""
    rows: list[tuple[str, int, int, int, int]] = []
    for one in ablations:
        if one.kind != "vector mean":
            rows += [(one.kind, one.draw, dim, -1, -1) for dim in one.dims]
            rows += [(one.kind, one.draw, -1, layer, neuron) for layer, neuron in one.neurons]
    return pd.DataFrame(rows, columns=["kind", "draw", "dim", "layer", "neuron"])
