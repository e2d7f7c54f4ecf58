"""Whole numbers: how often each key occurred, and how many values fell into each bin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["Counts", "Histogram"]


class Counts:
    """How often each key occurred; a key is a tuple of `width` whole numbers. Always exact."""

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self._counts: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, key: tuple[int, ...]) -> int:
        return self._counts.get(key, 0)

    def update(self, keys: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Add occurrences: keys int `[observations, width]`, each once or `counts` times.

        Raises:
            ValueError: the keys are not `[observations, width]`.
        """
        keys = np.asarray(keys, np.int64)
        if keys.ndim != 2 or keys.shape[1] != self.width:
            raise ValueError(f"keys of shape {keys.shape}; expected [observations, {self.width}]")
        if not len(keys):
            return
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        # Not bincount with weights: that sums in float64 and loses counts beyond 2**53.
        sums = np.zeros(len(unique), np.int64)
        np.add.at(sums, inverse.reshape(-1), 1 if counts is None else np.asarray(counts, np.int64))
        for key, count in zip(map(tuple, unique.tolist()), sums.tolist(), strict=True):
            self._counts[key] = self._counts.get(key, 0) + count

    def check(self, other: Counts) -> None:
        """Refuse what cannot be merged: keys of another width.

        Raises:
            ValueError: it differs.
        """
        if other.width != self.width:
            raise ValueError(f"cannot merge keys of {other.width} numbers into {self.width}")

    def merge(self, other: Counts) -> None:
        """Add the occurrences behind another value.

        Raises:
            ValueError: its keys have another width.
        """
        self.check(other)
        for key, count in other._counts.items():
            self._counts[key] = self._counts.get(key, 0) + count

    def state(self) -> dict[str, np.ndarray]:
        """`keys` int `[keys, width]` in ascending order and `counts` int `[keys]`."""
        keys = sorted(self._counts)
        return {
            "keys": np.array(keys, np.int64).reshape(-1, self.width),
            "counts": np.array([self._counts[key] for key in keys], np.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        keys = whole(state, "keys", None, None, least=None)
        new = cls(keys.shape[1])
        new.update(keys, whole(state, "counts", len(keys)))
        return new

    def result(self) -> dict[tuple[int, ...], int]:
        """Key to count, keys ascending."""
        return {key: self._counts[key] for key in sorted(self._counts)}

    def common(self) -> dict[tuple[int, ...], int]:
        """For each key less its last number, the commonest last number (ties: smallest)."""
        best: dict[tuple[int, ...], tuple[int, int]] = {}
        for key, count in self._counts.items():
            rank = (-count, key[-1])
            best[key[:-1]] = min(best.get(key[:-1], rank), rank)
        return {key: last for key, (_, last) in best.items()}


class Histogram:
    """Counts of values between fixed edges; a value on an edge is in the bin that starts there.

    Values below, at or above the last edge, and NaN, are counted apart and never lost.
    """

    def __init__(self, edges: np.ndarray) -> None:
        self.edges = np.asarray(edges, np.float64)
        if self.edges.ndim != 1 or len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError("edges must be at least two ascending numbers")
        self.counts = np.zeros(len(self.edges) - 1, np.int64)
        self.outside = np.zeros(3, np.int64)
        """Below the first edge, at or above the last, NaN."""

    def update(self, values: np.ndarray) -> None:
        """Add values, float of any shape."""
        values = np.asarray(values, np.float64).reshape(-1)
        nan = np.isnan(values)
        places = np.searchsorted(self.edges, values[~nan], side="right")
        found = np.bincount(places, minlength=len(self.edges) + 1)
        self.counts = self.counts + found[1:-1]
        self.outside = self.outside + np.array([found[0], found[-1], nan.sum()])

    def check(self, other: Histogram) -> None:
        """Refuse what cannot be merged: other edges.

        Raises:
            ValueError: it differs.
        """
        if not np.array_equal(self.edges, other.edges):
            raise ValueError("cannot merge histograms with different edges")

    def merge(self, other: Histogram) -> None:
        """Add the values behind another histogram.

        Raises:
            ValueError: its edges differ.
        """
        self.check(other)
        self.counts = self.counts + other.counts
        self.outside = self.outside + other.outside

    def state(self) -> dict[str, np.ndarray]:
        """`edges` `[bins + 1]`, `counts` `[bins]` and `outside` `[3]`."""
        return {"edges": self.edges, "counts": self.counts, "outside": self.outside}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        new = cls(floats(state, "edges", None))
        new.counts = whole(state, "counts", *new.counts.shape)
        new.outside = whole(state, "outside", *new.outside.shape)
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`edges`, `counts`, and without a shape `below`, `above` and `nan`."""
        below, above, nan = self.outside
        return {
            "edges": self.edges,
            "counts": self.counts,
            "below": np.array(below),
            "above": np.array(above),
            "nan": np.array(nan),
        }
