"""What a study of additions in a network for digits found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import softmax

from ..errors import ArgumentError
from ..results import Result
from .data import CLASSES
from .distances import Distances
from .published import CURVE, PAIR
from .study_run import LOGITS, Run
from .study_tables import Places, distances_of, effects_of, plain_of, rows_where

__all__ = ["Study", "study_result"]


@dataclass(frozen=True, repr=False, eq=False)
class Study(Result):
    """What adding `positive - negative` does to a network for digits, by pair, layer and coefficient.

    Groups of test images: "others" are all but those of the negative digit, "all" are all, "negative"
    are those of the negative digit alone.

    Attributes:
        effects: one row a pair, layer, scale, group and measure: positive, negative, layer, scale,
            group, measure, value, plain (unedited), change. Measures: "loss" (log loss, nats an
            image), "perplexity" (its exponential), "accuracy"; of group "negative" also
            "probability_positive" and "probability_negative", the mean probability of the two digits
            (NaN where no such image was read).
        plain: the unedited network, one row a left-out digit, group and measure: negative, group,
            measure, value.
        distances: one row a pair, layer, scale and measure, group "others" of the `n` test images that
            were measured: "length" (of what is added), "norm" and "distance" (of the edited
            activation: from zero, and to the nearest training activation), all in class spreads
            (root mean square distance of training activations from their class's mean);
            "nearest_accuracy", how many of those nearest training images show the same digit.
        logits: float64 `[layers pairs scales shown digits]`, mean logits over the images of each shown
            digit.
        plain_logits: float64 `[shown digits]`, unedited.
        pictures: float32 `[10 height width]`, what each digit's vector was made of; NaN where a digit
            is in no pair.
        pairs: the pairs, in the order of `logits`.
        layers: the layers.
        scales: the coefficients.
        kinds: what each layer of the network is.
    """

    kind: ClassVar[str] = "mnist.study"

    effects: pd.DataFrame
    plain: pd.DataFrame
    distances: pd.DataFrame
    logits: np.ndarray
    plain_logits: np.ndarray
    pictures: np.ndarray
    pairs: list[list[int]]
    layers: list[int]
    scales: list[float]
    kinds: list[str]

    def summary(self) -> dict[str, Any]:
        """The unedited loss, the median loss of each layer, and how often the claims hold."""
        scale = self.nearest_scale(1.0)
        rows = self._rows("loss", "others", scale=scale)
        facts: dict[str, Any] = {
            **super().summary(),
            "images": int(self.provenance["read"]),
            "pairs": len(self.pairs),
            "plain loss": float(rows["plain"].median()),
        }
        for layer in self.layers:
            facts[f"layer {layer} loss"] = float(rows_where(rows, layer=layer)["value"].median())
        for digit, sign, way in (("positive", 1, "up"), ("negative", -1, "down")):
            moved = self._rows(f"probability_{digit}", "negative", scale=scale)["change"] * sign
            facts[f"{digit} {way}"] = float((moved > 0).mean())
        return facts

    def nearest_scale(self, scale: float) -> float:
        """The coefficient of this study that is nearest to the given one."""
        return min(self.scales, key=lambda own: abs(own - scale))

    def square(
        self,
        measure: str = "loss",
        *,
        layer: int = 0,
        scale: float = 1.0,
        group: str = "others",
    ) -> pd.DataFrame:
        """One measure as a square: rows the positive digit, columns the negative one.

        The diagonal is the unedited network's, since `a - a` adds nothing; pairs that were not run are
        NaN.

        Raises:
            ArgumentError: this study has no such cells.
        """
        rows = self._rows(measure, group, layer=layer, scale=scale)
        if rows.empty:
            raise ArgumentError(
                f"measure={measure!r}, layer={layer}, scale={scale}, group={group!r}: this study has "
                f"layers {self.layers}, scales {self.scales} and "
                f"{_known(self.effects)}."
            )
        wide = rows.pivot(index="positive", columns="negative", values="value").astype(float)
        digits = sorted({digit for pair in self.pairs for digit in pair})
        wide = wide.reindex(index=digits, columns=digits)
        # Where a is b, the probability of a is that of b.
        same = measure.replace("_positive", "_negative")
        base = rows_where(self.plain, measure=same, group=group)
        for digit, value in zip(base["negative"], base["value"], strict=True):
            if digit in digits:
                wide.loc[digit, digit] = value
        return wide

    def distribution(
        self, positive: int, negative: int, *, layer: int = 0, scale: float = 1.0
    ) -> pd.DataFrame:
        """Mean logits over the images of each shown digit, and the probabilities they turn into.

        One row a shown digit and an answer: shown, digit, value (mean logit), probability (softmax of
        the mean logits), plain (that of the unedited network).

        Raises:
            ArgumentError: a pair, layer or scale that was not run.
        """
        pair = [positive, negative]
        if pair not in self.pairs or layer not in self.layers or scale not in self.scales:
            raise ArgumentError(
                f"positive={positive}, negative={negative}, layer={layer}, scale={scale}: not in "
                f"this study (layers {self.layers}, scales {self.scales}, {len(self.pairs)} pairs)."
            )
        where = self.layers.index(layer), self.pairs.index(pair), self.scales.index(scale)
        shown, digit = np.indices((CLASSES, CLASSES)).reshape(2, -1)
        return pd.DataFrame(
            {
                "shown": shown,
                "digit": digit,
                "value": self.logits[where].reshape(-1),
                "probability": softmax(self.logits[where], axis=-1).reshape(-1),
                "plain": softmax(self.plain_logits, axis=-1).reshape(-1),
            }
        )

    def against_published(self) -> pd.DataFrame:
        """The note's numbers beside this study's, cell by cell: layer, published, value, ratio.

        Only 3 − 1 at coefficient 1 is published at every layer, and only for 784-512-512-10.

        Raises:
            ArgumentError: this study did not run that pair at coefficient 1.
        """
        rows = self._rows("loss", "others", positive=PAIR[0], negative=PAIR[1], scale=1.0)
        found = dict(zip(rows["layer"], rows["value"], strict=True))
        if not found:
            raise ArgumentError("this study has no 3 − 1 at coefficient 1.")
        cells = [(at, CURVE[at], found[at], found[at] / CURVE[at]) for at in CURVE if at in found]
        return pd.DataFrame(cells, columns=["layer", "published", "value", "ratio"])

    def _rows(self, measure: str, group: str, **where: Any) -> pd.DataFrame:
        return rows_where(self.effects, measure=measure, group=group, **where)


def _known(effects: pd.DataFrame) -> str:
    found = effects[["group", "measure"]].drop_duplicates()
    return ", ".join(f"{group}: {measure}" for group, measure in found.itertuples(index=False))


def study_result(
    run: Run,
    pairs: Sequence[tuple[int, int]],
    scales: Sequence[float],
    pictures: Float[np.ndarray, "digits height width"],
    measured: tuple[dict[int, Distances], np.ndarray] | None,
    provenance: dict[str, Any],
) -> Study:
    """The tables of a run; `measured` are distances and the test images they were measured on."""
    layers = sorted(run.vectors)
    with np.errstate(invalid="ignore"):
        logits = run.cells[..., LOGITS] / run.counts[:, None]
        plain_logits = run.plain[:, LOGITS] / run.counts[:, None]
    places = Places(layers, pairs, scales)
    return Study(
        provenance=provenance,
        effects=places.frame(effects_of(run, pairs)),
        plain=plain_of(run),
        distances=places.frame(distances_of(run, pairs, layers, measured)),
        logits=logits,
        plain_logits=plain_logits,
        pictures=pictures,
        pairs=[list(pair) for pair in pairs],
        layers=layers,
        scales=list(scales),
        kinds=list(run.adapter.kinds),
    )
