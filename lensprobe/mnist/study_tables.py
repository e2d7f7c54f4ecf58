"""From sums over images to the tidy tables of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from .data import CLASSES
from .distances import Distances
from .study_run import LOSS, PROBABILITIES, RIGHT, Run

__all__ = ["Places", "distances_of", "effects_of", "plain_of", "rows_where"]

CELL = ["positive", "negative", "layer", "scale"]
COLUMNS = [*CELL, "group", "measure", "value", "plain", "change"]


def rows_where(frame: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows whose columns equal the given values."""
    keep = np.ones(len(frame), dtype=bool)
    for column, value in where.items():
        keep &= (frame[column] == value).to_numpy()
    return frame.loc[keep]


class Places:
    """The cells of a study as columns."""

    def __init__(
        self, layers: Sequence[int], pairs: Sequence[tuple[int, int]], scales: Sequence[float]
    ) -> None:
        layer, pair, scale = np.indices((len(layers), len(pairs), len(scales))).reshape(3, -1)
        self.columns = {
            "positive": np.array([a for a, _ in pairs])[pair],
            "negative": np.array([b for _, b in pairs])[pair],
            "layer": np.array(layers)[layer],
            "scale": np.array(scales)[scale],
        }

    def frame(self, parts: Iterator[tuple[str, str, np.ndarray, np.ndarray]]) -> pd.DataFrame:
        """Rows of measures whose values and plain values broadcast to `[layers pairs scales]`."""
        frames = [
            pd.DataFrame(
                {
                    **self.columns,
                    "group": group,
                    "measure": measure,
                    "value": value.reshape(-1),
                    "plain": np.broadcast_to(plain, value.shape).reshape(-1),
                }
            )
            for group, measure, value, plain in parts
        ]
        if not frames:
            return pd.DataFrame(columns=COLUMNS)
        joined = pd.concat(frames, ignore_index=True)
        return joined.assign(change=joined["value"] - joined["plain"])


def _weights() -> dict[str, Float[np.ndarray, "digit shown"]]:
    """Which shown digits are in each group, by the negative digit."""
    own = np.eye(CLASSES)
    return {"others": 1 - own, "all": np.ones_like(own), "negative": own}


def _means(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`[... shown]` → mean over the images of a group, `[... digit]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums @ weights.T) / (weights @ counts)


def effects_of(
    run: Run, pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Group, measure, values `[layers pairs scales]` and what they are unedited."""
    positive, negative = np.array(pairs).T
    each = np.arange(len(pairs))
    for group, weights in _weights().items():
        for measure, column in (("loss", LOSS), ("accuracy", RIGHT)):
            # [layers pairs scales digit], of which each pair looks at its own negative digit.
            found = _means(run.cells[..., column], run.counts, weights)[:, each, :, negative]
            value = np.moveaxis(found, 0, 1)
            plain = _means(run.plain[..., column], run.counts, weights)[negative][None, :, None]
            yield group, measure, value, plain
            if measure == "loss":
                yield group, "perplexity", np.exp(value), np.exp(plain)
    with np.errstate(invalid="ignore"):
        shown = run.cells[:, each, :, negative] / run.counts[negative][:, None, None, None]
        base = run.plain[negative] / run.counts[negative][:, None]
    for name, digit in (("positive", positive), ("negative", negative)):
        value = shown[..., PROBABILITIES][each, ..., digit]
        plain = base[..., PROBABILITIES][each, digit]
        yield "negative", f"probability_{name}", np.moveaxis(value, 0, 1), plain[None, :, None]


def plain_of(run: Run) -> pd.DataFrame:
    """The unedited network: negative, group, measure, value."""
    rows = []
    for group, weights in _weights().items():
        for measure, column in (("loss", LOSS), ("accuracy", RIGHT)):
            means = _means(run.plain[:, column], run.counts, weights)
            for digit, value in enumerate(means):
                rows.append((digit, group, measure, value))
                if measure == "loss":
                    rows.append((digit, group, "perplexity", np.exp(value)))
    own = np.diag(run.plain[:, PROBABILITIES]) / np.where(run.counts, run.counts, np.nan)
    rows += [(digit, "negative", "probability_negative", p) for digit, p in enumerate(own)]
    return pd.DataFrame(rows, columns=["negative", "group", "measure", "value"])


def distances_of(
    run: Run,
    pairs: Sequence[tuple[int, int]],
    layers: Sequence[int],
    measured: tuple[dict[int, Distances], np.ndarray] | None,
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """As `effects_of`, for how far edited activations lie from the training data."""
    if measured is None:
        return
    found, chosen = measured
    labels = run.data.test_labels[chosen]
    # [pairs images]: an image of the negative digit is in no mean of that pair.
    others = labels != np.array([negative for _, negative in pairs])[:, None]
    length = np.stack([found[layer].length[1:] for layer in layers])
    length = length.reshape(len(layers), len(pairs), -1)
    yield "others", "length", length, np.zeros(1)
    for name in ("norm", "distance", "nearest_accuracy"):
        values = np.stack([_of(found[layer], name, run.data.labels, labels) for layer in layers])
        cells = values[:, 1:].reshape(*length.shape, len(chosen))
        weights = others / others.sum(1, keepdims=True)
        yield (
            "others",
            name,
            np.einsum("lpsi,pi->lps", cells, weights),
            np.einsum("li,pi->lp", values[:, 0], weights)[..., None],
        )


def _of(found: Distances, name: str, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`[variants images]` of one measure."""
    if name == "nearest_accuracy":
        return (train[found.nearest] == labels).astype(float)
    return getattr(found, name)
