"""The same question asked of a network for digits and of a language model, in one figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..results import Result
from ..steering import Sweep
from .study_result import Study
from .study_tables import rows_where

__all__ = ["Beside", "beside"]


@dataclass(frozen=True, repr=False, eq=False)
class Beside(Result):
    """What one contrast vector costs elsewhere, layer by layer, in both kinds of network.

    Attributes:
        layers: one row a model and layer: model, layer, depth (0 the first layer, 1 the last), scale,
            value (rise of the log loss, nats a prediction), low, high, ratio (of perplexities, its
            exponential), count. Of the network for digits: images that are not of the negative digit,
            median over pairs, and low and high are the middle half of the pairs. Of the language model:
            text that has nothing to do with the vector, with the sweep's 95% interval over documents.
    """

    kind: ClassVar[str] = "mnist.beside"

    layers: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """The largest rise in each model."""
        facts: dict[str, Any] = dict(super().summary())
        for model, rows in self.layers.groupby("model", sort=False):
            top = rows.loc[rows["value"].idxmax()]
            facts[f"{model}: largest rise"] = float(top["value"])
            facts[f"{model}: at layer"] = int(top["layer"])
        return facts


def beside(study: Study, sweep: Sweep, *, scale: float = 1.0, group: str | None = None) -> Beside:
    """Put a study and a sweep of a language model over texts beside each other.

    Both report the log loss of predictions that the vector has nothing to do with, nats a prediction,
    so that the two curves share an axis. The sweep is `lp.steering.sweep(model, texts, vector=...)`.

    Args:
        study: from `lp.mnist.study`.
        sweep: from `lp.steering.sweep`, with texts among its groups.
        scale: the coefficient, which both must have.
        group: which group of the sweep's texts; None is its only one.

    Raises:
        ArgumentError: a scale or group that one of them has not, or a sweep over questions alone.

    Examples:
        >>> network = lp.mnist.HookedMLP((64, 16, 10))
        >>> study = lp.mnist.study(network, lp.mnist.load_digits_data(), pairs=[(3, 1)], n=0)
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> sweep = lp.steering.sweep(model, "The cat.", vector=vector, layers=[2, 3], scales=[1])
        >>> both = lp.mnist.beside(study, sweep)
        >>> both.to_frame()["model"].unique().tolist()
        ['64-16-10', 'planted']
    """
    if not isinstance(study, Study) or not isinstance(sweep, Sweep):
        raise ArgumentError(
            "study, sweep: a result of lp.mnist.study and one of lp.steering.sweep."
        )
    own = rows_where(study.effects, group="others", measure="loss", scale=scale)
    if own.empty:
        raise ArgumentError(f"scale={scale}: the study has {study.scales}.")
    texts = rows_where(sweep.effects, measure="loss")
    groups = list(dict.fromkeys(texts["group"]))
    chosen = groups[0] if group is None and len(groups) == 1 else group
    if chosen not in groups:
        raise ArgumentError(f"group={group!r}: the sweep has the losses of {groups or 'no texts'}.")
    other = rows_where(texts, group=chosen, scale=scale)
    if other.empty:
        raise ArgumentError(f"scale={scale}: the sweep has {sorted(set(texts['scale']))}.")
    frame = pd.concat([_digits(study, own), _texts(sweep, other)], ignore_index=True)
    frame.insert(3, "scale", scale)
    frame = frame.assign(ratio=np.exp(frame["value"]))
    facts = {
        "model": f"{_name(study)} and {_name(sweep)}",
        "group": chosen,
        "scale": scale,
        "digits": study.provenance,
        "texts": sweep.provenance,
        "complete": all(part.provenance.get("complete", True) for part in (study, sweep)),
        "notes": [*study.provenance.get("notes", []), *sweep.provenance.get("notes", [])],
    }
    return Beside(facts, frame)


def _name(result: Study | Sweep) -> str:
    return str(result.provenance.get("model", "model"))


def _digits(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    found = []
    for layer in study.layers:
        change = rows_where(rows, layer=layer)["change"].to_numpy()
        low, middle, high = np.quantile(change, [0.25, 0.5, 0.75])
        depth = layer / max(len(study.kinds) - 1, 1)
        found.append((_name(study), layer, depth, middle, low, high, len(change)))
    return _frame(found)


def _texts(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    deepest = max(int(sweep.provenance["n_layers"]) - 1, 1)
    names = ["layer", "change", "change_low", "change_high", "count"]
    found = [
        (_name(sweep), int(layer), int(layer) / deepest, *numbers)
        for layer, *numbers in rows.sort_values("layer")[names].itertuples(index=False)
    ]
    return _frame(found)


def _frame(rows: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["model", "layer", "depth", "value", "low", "high", "count"])
