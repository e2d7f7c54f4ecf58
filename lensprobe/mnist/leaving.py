"""Is it leaving the data that does the damage? The study's vectors against equally long ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.special import log_softmax
from scipy.stats import spearmanr
from torch import Tensor

from ..errors import Interrupted
from ..results import Result
from ..settings import checked_seed
from .adapter import network_adapter
from .data import DigitsData
from .distances import Distances, distances
from .fitting import checked_fit, checked_pairs, checked_scales
from .study import sample
from .study_result import study_result
from .study_run import Run
from .study_tables import rows_where
from .vectors import chosen_images, contrasts

__all__ = ["Leaving", "out_of_data"]

CELL = ["condition", "positive", "negative", "layer", "scale"]
CONDITIONS = ("pair", "shuffled", "random", "class means")


@dataclass(frozen=True, repr=False, eq=False)
class Leaving(Result):
    """Damage and distance from the data, under a pair's vector and under others of the same length.

    Conditions: "pair" is `a - b` from images, as in the study; "shuffled" the same numbers in another
    order; "random" a direction drawn evenly; "class means" the difference of the digits' mean
    activations, which is the direction in which the data itself goes from b to a. All have the pair's
    length.

    Attributes:
        effects: one row a condition, pair, layer and scale, over test images but those of b:
            condition, positive, negative, layer, scale, loss, plain (unedited loss), change, accuracy,
            length, norm and distance (class spreads; see `Study`), nearest_loss (of what the network
            says when the edited activation is put back to the nearest training activation) and
            nearest_accuracy (how often that training image shows the same digit).
        layers: one row a condition, layer and scale, medians over pairs: condition, layer, scale, loss,
            change, length, norm, distance, nearest_loss, nearest_accuracy, and correlation (Spearman,
            over pairs, of change with distance), count.
        verdicts: one row a layer and scale: layer, scale, ratio (median loss change under the pair over
            that under random directions of the same length) and share (of pairs in which the random
            direction leaves the data further and does less damage): were leaving the data enough, the
            ratio would be at most 1 and the share 0.
    """

    kind: ClassVar[str] = "mnist.out_of_data"

    effects: pd.DataFrame
    layers: pd.DataFrame
    verdicts: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """The verdict of each layer, at the largest coefficient."""
        scale = self.verdicts["scale"].max()
        facts: dict[str, Any] = {**super().summary(), "scale": float(scale)}
        for row in rows_where(self.verdicts, scale=scale).to_dict("records"):
            facts[f"layer {row['layer']}: pair / random"] = float(row["ratio"])
            facts[f"layer {row['layer']}: random further, less damage"] = float(row["share"])
        return facts


def out_of_data(
    model: Any,
    data: DigitsData,
    *,
    pairs: Sequence[tuple[int, int]] | Literal["all"] = "all",
    layers: int | Sequence[int] | Literal["all"] = "all",
    scales: Sequence[float] = (1.0,),
    images: Literal["first", "mean", "mean image"] | int = "first",
    n: int = 64,
    seed: int | None = None,
    progress: bool | None = None,
) -> Leaving:
    """Test whether additions do damage because the edited activations lie outside the data.

    If distance from the data is the reason, vectors of equal length that lead at least as far away
    should do as much damage, and putting the edited activation back to the nearest training activation
    should repair it.

    Args:
        model: a `HookedMLP`.
        data: from `load_digits_data`.
        pairs: as in `study`.
        layers: as in `study`.
        scales: as in `study`.
        images: as in `study`; what the vectors of "pair" are read from.
        n: test images whose distances are measured (losses are over all of them).
        seed: of the random directions and of which images are measured; None is 0.

    Raises:
        ArgumentError: as `study`; also `n` below 1.
        ModelError: the model is no `HookedMLP`.
        Interrupted: Ctrl-C; there is no partial result, since conditions are compared with each other.

    Examples:
        >>> network = lp.mnist.HookedMLP((64, 16, 10))
        >>> data = lp.mnist.load_digits_data()
        >>> found = lp.mnist.out_of_data(network, data, pairs=[(3, 1)], layers=0, n=4)
        >>> found.effects["condition"].tolist()
        ['pair', 'shuffled', 'random', 'class means']
    """
    adapter = network_adapter(model, "lp.mnist.out_of_data")
    checked_fit(adapter, data)
    chosen, places = checked_pairs(pairs, data), adapter.layers(layers)
    strengths, way = checked_scales(scales), chosen_images(images)
    picked = sample(data, n, seed, least=1)
    own = contrasts(adapter, data, chosen, places, way)
    vectors = _conditions(own, contrasts(adapter, data, chosen, places, "mean"), seed)
    joined = {layer: torch.cat([vectors[c][layer] for c in CONDITIONS]) for layer in places}
    repeated = chosen * len(CONDITIONS)
    run = Run(adapter, data, joined, strengths)
    if not run.all(progress):
        raise Interrupted("interrupted before the conditions could be compared.")
    steps = {layer: (v[:, None] * run.scales[:, None]).flatten(0, 1) for layer, v in joined.items()}
    found, logits = distances(adapter, data, steps, picked)
    nothing = np.zeros((10, *data.shape), np.float32)
    table = study_result(run, repeated, strengths, nothing, (found, picked), {})
    back = _put_back(found, logits, data, picked, repeated, len(strengths))
    effects = _wide(table.effects, table.distances, back, len(chosen), len(strengths))
    facts = {
        **adapter.provenance(),
        **data.facts(),
        "scales": list(strengths),
        "vectors": way if isinstance(way, str) else f"mean of the first {way}",
        "measured": len(picked),
        "seed": checked_seed(seed) or 0,
        "complete": True,
        "notes": run.notes,
    }
    return Leaving(facts, effects, _by_layer(effects), _verdicts(effects))


def _conditions(
    own: dict[int, Float[Tensor, "pairs width"]],
    means: dict[int, Float[Tensor, "pairs width"]],
    seed: int | None,
) -> dict[str, dict[int, Float[Tensor, "pairs width"]]]:
    """Vectors of each condition, each as long as the pair's own."""
    generator = torch.Generator().manual_seed(checked_seed(seed) or 0)
    found: dict[str, dict[int, Tensor]] = {name: {} for name in CONDITIONS}
    for layer, vectors in own.items():
        order = torch.rand(vectors.shape, generator=generator).argsort(1)
        drawn = torch.randn(vectors.shape, generator=generator)
        others = {
            "shuffled": vectors.gather(1, order.to(vectors.device)),
            "random": drawn.to(vectors),
            "class means": means[layer],
        }
        found["pair"][layer] = vectors
        length = vectors.norm(dim=1, keepdim=True)
        for name, other in others.items():
            size = other.norm(dim=1, keepdim=True).clamp(min=torch.finfo(other.dtype).tiny)
            found[name][layer] = other * (length / size)
    return found


def _put_back(
    found: dict[int, Distances],
    logits: Float[np.ndarray, "images classes"],
    data: DigitsData,
    picked: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    scales: int,
) -> np.ndarray:
    """Mean log loss `[layers variants]` of what the network says at the nearest training image."""
    log_p = log_softmax(logits.astype(np.float64), axis=-1)
    labels = data.test_labels[picked]
    negative = np.repeat([b for _, b in pairs], scales)
    weights = (labels != negative[:, None]).astype(float)
    rows = [
        (-log_p[found[layer].nearest[1:], labels] * weights).sum(1) / weights.sum(1)
        for layer in sorted(found)
    ]
    return np.stack(rows)


def _wide(
    effects: pd.DataFrame, apart: pd.DataFrame, back: np.ndarray, pairs: int, scales: int
) -> pd.DataFrame:
    """One row a condition and cell; the frames' rows are in the order of `[layers pairs scales]`."""
    loss = rows_where(effects, group="others", measure="loss").reset_index(drop=True)
    table = loss[["positive", "negative", "layer", "scale"]].copy()
    condition = np.repeat(np.array(CONDITIONS), pairs * scales)
    table.insert(0, "condition", np.tile(condition, len(back)))
    table = table.assign(loss=loss["value"], plain=loss["plain"], change=loss["change"])
    table["accuracy"] = rows_where(effects, group="others", measure="accuracy")["value"].to_numpy()
    for name in ("length", "norm", "distance"):
        table[name] = rows_where(apart, measure=name)["value"].to_numpy()
    table["nearest_loss"] = back.reshape(-1)
    table["nearest_accuracy"] = rows_where(apart, measure="nearest_accuracy")["value"].to_numpy()
    return table


def _by_layer(effects: pd.DataFrame) -> pd.DataFrame:
    numbers = ["loss", "change", "length", "norm", "distance", "nearest_loss", "nearest_accuracy"]
    rows = []
    for _, cells in effects.groupby(["condition", "layer", "scale"], sort=False):
        key = cells.iloc[0][["condition", "layer", "scale"]].to_dict()
        enough = len(cells) > 2 and min(cells["distance"].nunique(), cells["change"].nunique()) > 1
        ranks: Any = spearmanr(cells["distance"], cells["change"]) if enough else None
        correlation = float("nan") if ranks is None else float(ranks.statistic)
        medians = cells[numbers].median().to_dict()
        rows.append({**key, **medians, "correlation": correlation, "count": len(cells)})
    return pd.DataFrame(rows)


def _verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    # Rows of both conditions come in the same order of cells.
    own = rows_where(effects, condition="pair").reset_index(drop=True)
    random = rows_where(effects, condition="random").reset_index(drop=True)
    compared = own[["layer", "scale"]].assign(
        own=own["change"],
        random=random["change"],
        share=(random["distance"] > own["distance"]) & (random["change"] < own["change"]),
    )
    rows = []
    for _, cells in compared.groupby(["layer", "scale"]):
        middle = float(cells["random"].median())
        ratio = float(cells["own"].median()) / middle if middle else float("nan")
        key = cells.iloc[0][["layer", "scale"]].to_dict()
        rows.append({**key, "ratio": ratio, "share": float(cells["share"].mean())})
    return pd.DataFrame(rows).astype({"layer": int})
