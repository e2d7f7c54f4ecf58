"""Covariance matrices that merge, with what Ledoit and Wolf's shrinkage needs beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["Covariance"]

FIELDS = ("mean", "scatter", "cubic", "quartic")


class Covariance:
    """Mean and scatter matrix of many observations of vectors, one set for each index of `shape`.

    Sums are about the mean and are moved when the mean moves (Pébay 2008), so that a large common
    offset costs no digits. An observation must be finite; leave others out before.

    Attributes:
        count: observations.
        mean: float64 `[*shape, width]`.
        scatter: float64 `[*shape, width, width]`, the sum of `y y^T` over observations, where y is an
            observation less the mean.
        cubic: float64 `[*shape, width]`, the sum of `|y|² y`.
        quartic: float64 `shape`, the sum of `|y|⁴`.
    """

    def __init__(self, width: int, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.mean = np.zeros((*shape, width))
        self.scatter = np.zeros((*shape, width, width))
        self.cubic = np.zeros((*shape, width))
        self.quartic = np.zeros(shape)

    def update(self, values: np.ndarray) -> None:
        """Add observations, float `[observations, *shape, width]`.

        Raises:
            ValueError: the observations have another shape, or are not finite.
        """
        values = np.asarray(values, np.float64)
        if values.shape[1:] != self.mean.shape or values.ndim != self.mean.ndim + 1:
            raise ValueError(f"observations of {values.shape[1:]}; expected {self.mean.shape}")
        if not np.isfinite(values).all():
            raise ValueError("observations that are not finite")
        if not len(values):
            return
        part = self._empty()
        part.count = len(values)
        part.mean = values.mean(0)
        # [*shape, observations, width], as matrix products want it.
        centred = np.moveaxis(values - part.mean, 0, -2)
        square = np.square(centred).sum(-1)
        part.scatter = centred.swapaxes(-1, -2) @ centred
        part.cubic = np.einsum("...n,...nd->...d", square, centred)
        part.quartic = np.square(square).sum(-1)
        self.merge(part)

    def _empty(self) -> Self:
        return type(self)(self.mean.shape[-1], self.mean.shape[:-1])

    def check(self, other: Covariance) -> None:
        """Refuse what cannot be merged: observations of another shape.

        Raises:
            ValueError: it differs.
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"cannot merge {other.mean.shape} into {self.mean.shape}")

    def merge(self, other: Covariance) -> None:
        """Add the observations behind another value of the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        self.check(other)
        total = self.count + other.count
        if not other.count:
            return
        mean = self.mean + (other.mean - self.mean) * (other.count / total)
        one, two = self._about(mean), other._about(mean)
        self.scatter, self.cubic, self.quartic = (a + b for a, b in zip(one, two, strict=True))
        self.count, self.mean = total, mean

    def _about(self, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scatter, cubic and quartic sums about another centre than the mean."""
        if not self.count:
            return self.scatter, self.cubic, self.quartic
        shift = self.mean - centre
        square = np.square(shift).sum(-1)
        trace = np.trace(self.scatter, axis1=-2, axis2=-1)
        turned = np.einsum("...ij,...j->...i", self.scatter, shift)
        scatter = self.scatter + self.count * shift[..., :, None] * shift[..., None, :]
        cubic = self.cubic + 2 * turned + (trace + self.count * square)[..., None] * shift
        quartic = (
            self.quartic
            + 4 * (shift * (turned + self.cubic)).sum(-1)
            + square * (2 * trace + self.count * square)
        )
        return scatter, cubic, quartic

    def state(self) -> dict[str, np.ndarray]:
        """`count` and the four sums."""
        return {"count": np.array(self.count), **{name: getattr(self, name) for name in FIELDS}}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        *shape, width = state["mean"].shape
        new = cls(width, tuple(shape))
        new.count = int(whole(state, "count"))
        for name in FIELDS:
            setattr(new, name, floats(state, name, *getattr(new, name).shape, finite=True))
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`count`, `mean`, `covariance` (population) and `second` (the mean of `x x^T`, uncentred)."""
        seen = max(self.count, 1)
        covariance = self.scatter / seen
        outer = self.mean[..., :, None] * self.mean[..., None, :]
        return {
            "count": np.array(self.count),
            "mean": np.array(self.mean),
            "covariance": covariance,
            "second": covariance + outer,
        }
