"""Count, mean, variance and extremes, merged after Chan, Golub & LeVeque (1983)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["KeyedMoments", "Moments"]

FIELDS = ("count", "mean", "m2", "low", "high")
"""`m2` is the sum of squared deviations from the mean."""


class Moments:
    """Moments of many observations of an array of one shape, elementwise.

    Observations that are not finite are left out of their element and only lower its count, so one
    overflow never poisons a mean. Extremes are exact; means and variances agree with a single pass
    to rounding, whatever the order of merging.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = np.zeros(shape, np.int64)
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self.low = np.full(shape, np.inf)
        self.high = np.full(shape, -np.inf)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.count.shape

    def update(self, values: np.ndarray) -> None:
        """Add observations, float `[observations, *shape]`.

        Raises:
            ValueError: the observations have another shape.
        """
        values = np.asarray(values, np.float64)
        if values.shape[1:] != self.shape or values.ndim != len(self.shape) + 1:
            raise ValueError(f"observations of shape {values.shape[1:]}; expected {self.shape}")
        if not len(values):
            return
        self.merge(self._observed(values))

    def _observed(self, values: np.ndarray) -> Moments:
        use = np.isfinite(values)
        part = Moments(self.shape)
        if use.all():
            part.count = np.full(self.shape, len(values))
            part.mean = values.mean(0)
            part.m2 = np.square(values - part.mean).sum(0)
            part.low, part.high = values.min(0), values.max(0)
            return part
        part.count = use.sum(0)
        seen = np.maximum(part.count, 1)
        part.mean = np.where(use, values, 0.0).sum(0) / seen
        part.m2 = np.square(np.where(use, values - part.mean, 0.0)).sum(0)
        part.low = np.where(use, values, np.inf).min(0)
        part.high = np.where(use, values, -np.inf).max(0)
        return part

    def check(self, other: Moments) -> None:
        """Refuse what cannot be merged: observations of another shape.

        Raises:
            ValueError: it differs.
        """
        if other.shape != self.shape:
            raise ValueError(f"cannot merge moments of shape {other.shape} into {self.shape}")

    def merge(self, other: Moments) -> None:
        """Add the observations behind another value of the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        self.check(other)
        total = self.count + other.count
        # An element that nothing was seen of would divide by zero; any divisor does.
        share = other.count / np.maximum(total, 1)
        apart = other.mean - self.mean
        self.m2 = self.m2 + other.m2 + np.square(apart) * share * self.count
        self.mean = self.mean + apart * share
        self.count = total
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)

    @classmethod
    def stack(cls, parts: Sequence[Moments]) -> Self:
        """Moments of equal shape, one above the other along a new first axis."""
        states = [part.state() for part in parts]
        return cls.from_state({name: np.stack([s[name] for s in states]) for name in FIELDS})

    def state(self) -> dict[str, np.ndarray]:
        """Five arrays of the observations' shape."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        new = cls(state["count"].shape)
        new.count = whole(state, "count", *new.shape)
        for name in FIELDS[1:]:
            setattr(new, name, floats(state, name, *new.shape))
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`count`, `mean`, `std` (population), `min`, `max`; NaN where nothing was seen."""
        return _result(self.count, self.mean, self.m2, self.low, self.high)


class KeyedMoments:
    """`Moments` of single numbers, one for each key; a key is a tuple of `width` whole numbers.

    Memory grows with the number of different keys, not with the observations.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows: dict[tuple[int, ...], list[float]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add observations: keys int `[observations, width]`, values float `[observations]`.

        Raises:
            ValueError: the keys are not `[observations, width]`.
        """
        keys, values = np.asarray(keys, np.int64), np.asarray(values, np.float64)
        if keys.shape != (len(values), self.width):
            raise ValueError(f"keys of shape {keys.shape}; expected {(len(values), self.width)}")
        use = np.isfinite(values)
        keys, values = keys[use], values[use]
        if not len(values):
            return
        unique, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        inverse = inverse.reshape(-1)
        means = np.bincount(inverse, values) / counts
        m2 = np.bincount(inverse, np.square(values - means[inverse]))
        low, high = np.full(len(unique), np.inf), np.full(len(unique), -np.inf)
        np.minimum.at(low, inverse, values)
        np.maximum.at(high, inverse, values)
        self._add(unique, counts, means, m2, low, high)

    def _add(self, keys: np.ndarray, *columns: np.ndarray) -> None:
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for key, row in zip(map(tuple, keys.tolist()), rows, strict=True):
            old = self._rows.get(key)
            self._rows[key] = list(row) if old is None else _merged(old, row)

    def check(self, other: KeyedMoments) -> None:
        """Refuse what cannot be merged: keys of another width.

        Raises:
            ValueError: it differs.
        """
        if other.width != self.width:
            raise ValueError(f"cannot merge keys of {other.width} numbers into {self.width}")

    def merge(self, other: KeyedMoments) -> None:
        """Add the observations behind another value.

        Raises:
            ValueError: its keys have another width.
        """
        self.check(other)
        for key, row in other._rows.items():
            old = self._rows.get(key)
            self._rows[key] = list(row) if old is None else _merged(old, row)

    def state(self) -> dict[str, np.ndarray]:
        """`keys` int `[keys, width]` in ascending order and five columns `[keys]`."""
        keys = sorted(self._rows)
        table = np.array([self._rows[key] for key in keys], np.float64).reshape(-1, len(FIELDS))
        state = {name: table[:, index] for index, name in enumerate(FIELDS)}
        return {
            "keys": np.array(keys, np.int64).reshape(-1, self.width),
            **state,
            "count": state["count"].astype(np.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        keys = whole(state, "keys", None, None, least=None)
        count = whole(state, "count", len(keys), least=1)
        rest = (floats(state, name, len(keys), finite=True) for name in FIELDS[1:])
        new = cls(keys.shape[1])
        new._add(keys, count, *rest)
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`keys` int `[keys, width]`, ascending, and the columns of `Moments.result` `[keys]`."""
        state = self.state()
        return {"keys": state["keys"], **_result(*(state[name] for name in FIELDS))}


def _merged(one: list[float], two: tuple[float, ...] | list[float]) -> list[float]:
    total = one[0] + two[0]
    share, apart = two[0] / total, two[1] - one[1]
    return [
        total,
        one[1] + apart * share,
        one[2] + two[2] + apart * apart * share * one[0],
        min(one[3], two[3]),
        max(one[4], two[4]),
    ]


def _result(
    count: np.ndarray, mean: np.ndarray, m2: np.ndarray, low: np.ndarray, high: np.ndarray
) -> dict[str, np.ndarray]:
    seen = count > 0
    return {
        "count": np.array(count),
        "mean": np.where(seen, mean, np.nan),
        "std": np.where(seen, np.sqrt(m2 / np.maximum(count, 1)), np.nan),
        "min": np.where(seen, low, np.nan),
        "max": np.where(seen, high, np.nan),
    }
