"""What the gradient of the loss by one number says, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..citations import GU
from ..results import Result
from ..statistics import interval
from .paths import Slopes
from .result import SUN
from .target import named

__all__ = ["Gradient", "gradient_tables"]

ENDS = ("value", "low", "high")


@dataclass(frozen=True, repr=False, eq=False)
class Gradient(Result):
    """Derivatives of the mean loss by one number, in nats a predicted token.

    By the logarithm of the factor (`measure` "log_factor": the change for each e-fold, so that 1% of
    growth changes the loss by a hundredth of it) or by the number itself ("value"). Where a derivative
    is negative, gradient descent makes the number larger in that direction. Intervals are 95%
    bootstrap over documents.

    Attributes:
        slopes: one row a `factor` and `measure`: the derivative of the mean loss as `value`, `low`,
            `high`; over documents, `share` of those where it is negative, `count` of those where it is
            not zero, and `p_value` of the two-sided sign test on them.
        documents: one row a `factor`, `measure` and `document`: `value`, and its `loss`, `activation`
            (the number before the factor, a mean over its sequences) and `count` of tokens.
        paths: where the derivative by the logarithm comes from, by `factor` and `component`: "key"
            (through the attention that later tokens pay to the position), "value" (through what they
            read there), "own" (through the position's own prediction), "remainder" and "total", with
            `value`, `low`, `high`. The parts are computed apart from the total: the remainder is
            what rounding leaves.
        heads: "key" and "value" of `paths` by `layer` and `head`.
    """

    kind: ClassVar[str] = "massive.gradient"
    citations: ClassVar[tuple[str, ...]] = (SUN, GU)

    slopes: pd.DataFrame
    documents: pd.DataFrame
    paths: pd.DataFrame
    heads: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Model, coordinate, and the derivative at the factor nearest 1, with its sign test."""
        own = self.slopes.loc[self.slopes["measure"] == "log_factor"]
        row = own.iloc[int(np.abs(own["factor"].to_numpy(float) - 1).argmin())]
        parts = self.paths[self.paths["factor"] == row["factor"]].set_index("component")["value"]
        facts = {
            **super().summary(),
            **named(self.provenance),
            "layer": int(self.provenance["layer"]),
            "documents": int(self.documents["document"].nunique()),
            "factor": float(row["factor"]),
            "slope": float(row["value"]),
            "share": float(row["share"]),
            "p_value": float(row["p_value"]),
            **{name: float(parts[name]) for name in ("key", "value", "own")},
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


def gradient_tables(
    answers: Mapping[int, Sequence[Slopes]],
    documents: Sequence[int],
    factors: Sequence[float],
    layer: int,
    *,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """The four tables, from the slopes of each finished sequence at each factor."""
    tally = _Tally(answers, documents, np.asarray(factors), seed)
    return {
        "slopes": tally.slopes(),
        "documents": tally.documents(),
        "paths": tally.paths(),
        "heads": tally.heads(layer),
    }


class _Tally:
    """Sequences summed by document, `[factor ... document]`."""

    def __init__(
        self,
        answers: Mapping[int, Sequence[Slopes]],
        documents: Sequence[int],
        factors: np.ndarray,
        seed: int,
    ) -> None:
        order = sorted(answers)
        self.names, self.place = np.unique([documents[i] for i in order], return_inverse=True)
        self.factors, self.seed = factors, seed
        read = {
            name: np.stack([[getattr(s, name) for s in answers[i]] for i in order], -1)
            for name in ("activation", "loss", "count", "total", "own", "key", "value")
        }
        self.count = self._summed(read["count"])[0]
        self.loss = self._summed(read["loss"])
        # The logarithm's derivative: the number at this factor times the derivative by it.
        at = read["activation"] * factors[:, None]
        self.by = {
            "log_factor": self._summed(read["total"] * at),
            "value": self._summed(read["total"]),
        }
        self.own = self._summed(read["own"] * at)
        self.key = self._summed(read["key"] * at[:, None, None])
        self.value = self._summed(read["value"] * at[:, None, None])
        pieces = self._summed(np.ones_like(read["activation"]))
        self.activation = self._summed(read["activation"]) / pieces

    def _summed(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.names), *values.shape[:-1]))
        np.add.at(total, self.place, np.moveaxis(values, -1, 0).astype(float))
        return np.moveaxis(total, 0, -1)

    def _ends(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        ends = interval(sums, self.count, seed=self.seed)
        return {name: part.reshape(-1) for name, part in zip(ENDS, ends, strict=True)}

    def slopes(self) -> pd.DataFrame:
        frames = []
        for measure, sums in self.by.items():
            falls, moves = (sums < 0).sum(-1), (sums != 0).sum(-1)
            tested = [
                float(binomtest(int(k), int(n)).pvalue) if n else np.nan
                for k, n in zip(falls, moves, strict=True)
            ]
            with np.errstate(invalid="ignore"):
                share = falls / moves
            frames.append(
                pd.DataFrame(
                    {
                        "factor": self.factors,
                        "measure": measure,
                        **self._ends(sums),
                        "share": share,
                        "count": moves,
                        "p_value": tested,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def documents(self) -> pd.DataFrame:
        frames = []
        run, place = (index.reshape(-1) for index in np.indices(self.loss.shape))
        for measure, sums in self.by.items():
            frames.append(
                pd.DataFrame(
                    {
                        "factor": self.factors[run],
                        "measure": measure,
                        "document": self.names[place],
                        "value": (sums / self.count).reshape(-1),
                        "loss": (self.loss / self.count).reshape(-1),
                        "activation": self.activation.reshape(-1),
                        "count": self.count[place].astype(int),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def paths(self) -> pd.DataFrame:
        parts = {"key": self.key.sum((1, 2)), "value": self.value.sum((1, 2)), "own": self.own}
        total = self.by["log_factor"]
        parts |= {"remainder": total - sum(parts.values()), "total": total}
        frames = [
            pd.DataFrame({"factor": self.factors, "component": name, **self._ends(sums)})
            for name, sums in parts.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def heads(self, layer: int) -> pd.DataFrame:
        """Layers above the number's own; no other reads it."""
        frames = []
        for component, sums in (("key", self.key), ("value", self.value)):
            above = sums[:, layer + 1 :]
            # The last layer's output is read by nothing but its own prediction.
            none: dict[str, np.ndarray] = {name: np.zeros(0) for name in ENDS}
            ends = self._ends(above) if above.size else none
            run, at, head = (index.reshape(-1) for index in np.indices(above.shape[:-1]))
            frames.append(
                pd.DataFrame(
                    {
                        "factor": self.factors[run],
                        "component": component,
                        "layer": at + layer + 1,
                        "head": head,
                        **ends,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)
