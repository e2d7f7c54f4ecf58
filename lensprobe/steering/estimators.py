"""From two sets of activations to a direction, on statistics that stream.

Every estimator sees blocks of activations once. `mean`'s vector is the mean difference itself. The
others find a direction, which has no length of its own: it is given the length of the mean
difference's projection on it, so that one scale means about the same for all of them.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self, override

from ..statistics import Bundle, Counts, Covariance, Moments, Reservoir
from .reading import Block

__all__ = ["ESTIMATORS", "Estimator", "shrunk"]

TEXTS = "texts"
"""Statistic that counts (side, whether its activations are finite)."""
SAMPLE_BYTES = 512 * 2**20
SAMPLE = 8192
"""Logistic regression keeps at most this many texts a side, and this many bytes on both."""
PENALTY = "L2, C=1, on activations of root mean square 1 about their mean"


class Estimator(ABC):
    """Statistics of both sides at several layers, and the vector they give at each."""

    paired: ClassVar[bool] = False
    """Whether it needs pairs."""
    fewest: ClassVar[int] = 1
    """Least number of texts on each side."""

    def __init__(self, layers: int, width: int, seed: int) -> None:
        self.shape = (layers, width)
        self.seed = seed
        self.total = Bundle({**self._parts(layers, width, seed), TEXTS: Counts(2)})

    @property
    def texts(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of each side: texts whose activations are in the statistics, and texts left out."""
        counts: Counts = self.total[TEXTS]
        one, two = ((counts[side, 1], counts[side, 0]) for side in (0, 1))
        return one, two

    def fresh(self) -> Self:
        """The same estimator without any statistics."""
        return type(self)(*self.shape, self.seed)

    def add(self, block: Block) -> None:
        """Add the pairs of a block in which no number is infinite or NaN, and count the others."""
        kept = block.finite()
        self.update(kept)
        for side, (own, whole) in enumerate(
            ((kept.positive, block.positive), (kept.negative, block.negative))
        ):
            keys = np.array([[side, 1], [side, 0]])
            self.total[TEXTS].update(keys, np.array([len(own), len(whole) - len(own)]))

    def update(self, block: Block) -> None:
        """Add one block of finite numbers."""
        self.total["positive"].update(block.positive)
        self.total["negative"].update(block.negative)

    def vector(self, layer: int) -> np.ndarray:
        """float64 `[width]`, at the layer of that place in the blocks."""
        difference = self._difference(layer)
        return _with_length(self._direction(layer, difference), difference)

    def facts(self, layer: int) -> dict[str, Any]:
        """What a reader of the vector must know of how it was estimated."""
        return {"norm": "projection of the mean difference on the direction"}

    def _difference(self, layer: int) -> np.ndarray:
        return self.total["positive"].mean[layer] - self.total["negative"].mean[layer]

    def _parts(self, layers: int, width: int, seed: int) -> dict[str, Any]:
        return {side: Moments((layers, width)) for side in ("positive", "negative")}

    @abstractmethod
    def _direction(self, layer: int, difference: np.ndarray) -> np.ndarray: ...


class Mean(Estimator):
    """The difference of the two means (CAA, Rimsky et al. 2312.06681)."""

    @override
    def vector(self, layer: int) -> np.ndarray:
        return self._difference(layer)

    @override
    def facts(self, layer: int) -> dict[str, Any]:
        return {"norm": "its own"}

    @override
    def _direction(self, layer: int, difference: np.ndarray) -> np.ndarray:
        return difference


class Pca(Estimator):
    """The first principal component of the pairs' differences, about zero.

    Not about their mean: what all pairs have in common is what is looked for. It equals the first
    component of differences of both signs, as Zou et al. (2310.01405) take it and repeng's
    `pca_center`; repeng's default takes the differences' mean out first.
    """

    paired = True

    @override
    def update(self, block: Block) -> None:
        super().update(block)
        self.total["difference"].update(
            block.positive.astype(np.float64) - block.negative.astype(np.float64)
        )

    @override
    def facts(self, layer: int) -> dict[str, Any]:
        return {**super().facts(layer), "centred": False, "sign": "along the mean difference"}

    @override
    def _parts(self, layers: int, width: int, seed: int) -> dict[str, Any]:
        both = super()._parts(layers, width, seed)
        return {**both, "difference": Covariance(width, (layers,))}

    @override
    def _direction(self, layer: int, difference: np.ndarray) -> np.ndarray:
        from scipy.linalg import eigh

        sums: Covariance = self.total["difference"]
        mean = sums.mean[layer]
        second = sums.scatter[layer] / sums.count + np.outer(mean, mean)
        width = len(second)
        _, vectors = eigh(second, subset_by_index=[width - 1, width - 1])
        first = vectors[:, 0]
        return first if first @ difference >= 0 else -first


class Lda(Estimator):
    """The mean difference, whitened by the pooled covariance within the sides (Fisher).

    The covariance is shrunk towards a multiple of the identity after Ledoit and Wolf (2004).
    """

    fewest = 2

    @override
    def facts(self, layer: int) -> dict[str, Any]:
        share, _ = self._shrunk(layer)
        return {**super().facts(layer), "covariance": "pooled, Ledoit-Wolf", "shrinkage": share}

    @override
    def _parts(self, layers: int, width: int, seed: int) -> dict[str, Any]:
        return {side: Covariance(width, (layers,)) for side in ("positive", "negative")}

    def _shrunk(self, layer: int) -> tuple[float, np.ndarray]:
        one, two = self.total["positive"], self.total["negative"]
        return shrunk(
            one.count + two.count,
            one.scatter[layer] + two.scatter[layer],
            float(one.quartic[layer] + two.quartic[layer]),
        )

    @override
    def _direction(self, layer: int, difference: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve

        return solve(self._shrunk(layer)[1], difference, assume_a="pos")


class Logistic(Estimator):
    """The normal of the plane by which logistic regression parts the sides (scikit-learn).

    L2 with C = 1 on activations divided by one number, the root mean square of their distance from
    their mean, so that the penalty means the same in every model. Fitted on all texts up to a bound,
    beyond it on a seeded sample.
    """

    @override
    def update(self, block: Block) -> None:
        super().update(block)
        self.total["positive sample"].update(block.positive_numbers, block.positive)
        self.total["negative sample"].update(block.negative_numbers, block.negative)

    @override
    def facts(self, layer: int) -> dict[str, Any]:
        kept = {
            side: len(self.total[f"{side} sample"].numbers) for side in ("positive", "negative")
        }
        return {**super().facts(layer), "penalty": PENALTY, "fitted": kept}

    @override
    def _parts(self, layers: int, width: int, seed: int) -> dict[str, Any]:
        room = max(1, min(SAMPLE, SAMPLE_BYTES // (2 * 4 * layers * width)))
        samples = {
            f"{side} sample": Reservoir(room, (layers, width), seed)
            for side in ("positive", "negative")
        }
        return {**super()._parts(layers, width, seed), **samples}

    @override
    def _direction(self, layer: int, difference: np.ndarray) -> np.ndarray:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        sides = [self.total[f"{side} sample"].values[:, layer] for side in ("positive", "negative")]
        rows = np.concatenate(sides).astype(np.float64)
        labels = np.repeat([1, 0], [len(side) for side in sides])
        centred = rows - rows.mean(0)
        size = np.sqrt(np.square(centred).sum(1).mean())
        if not size:
            return difference
        with warnings.catch_warnings():
            # The direction has long settled when the last digits of the loss have not.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=1.0, max_iter=1000).fit(centred / size, labels)
        return fitted.coef_[0]


ESTIMATORS: dict[str, type[Estimator]] = {
    "mean": Mean,
    "pca": Pca,
    "logistic": Logistic,
    "lda": Lda,
}


def shrunk(count: int, scatter: np.ndarray, quartic: float) -> tuple[float, np.ndarray]:
    """A covariance shrunk towards a multiple of the identity (Ledoit and Wolf 2004), and by how much.

    Args:
        count: observations, each less its mean.
        scatter: `[width width]`, the sum of their outer products.
        quartic: the sum of the fourth powers of their norms.

    Returns:
        The share that the identity has, and the covariance. Without any spread that is the identity.
    """
    width = len(scatter)
    covariance = scatter / count
    average = np.trace(covariance) / width
    if not average:
        return 1.0, np.eye(width)
    square = np.square(covariance).sum()
    distance = (square - width * average**2) / width
    noise = (quartic / count - square) / (width * count)
    share = float(min(max(noise, 0.0), distance) / distance) if distance > 0 else 1.0
    return share, (1 - share) * covariance + share * average * np.eye(width)


def _with_length(direction: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The direction, as long as the projection of the mean difference on it."""
    norm = np.linalg.norm(direction)
    if not norm:
        return np.zeros_like(difference)
    unit = direction / norm
    return unit * abs(unit @ difference)
