"""A bounded random sample of a stream, the same however the stream was cut."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["Reservoir"]


class Reservoir:
    """At most `size` observations, each as likely as any other; all of them while there is room.

    An observation's number and the seed decide its rank, and the lowest ranks stay: the sample does
    not depend on the order in which observations came or on who saw them.
    """

    def __init__(self, size: int, shape: tuple[int, ...], seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"size={size}: at least 1")
        self.size, self.seed, self.count = size, seed % 2**63, 0
        self.numbers = np.zeros(0, np.int64)
        self.values = np.zeros((0, *shape), np.float32)

    def update(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Add observations: their numbers int `[observations]`, never twice the same; float32 values.

        Raises:
            ValueError: the observations have another shape.
        """
        values = np.asarray(values, np.float32)
        if values.shape != (len(numbers), *self.values.shape[1:]):
            raise ValueError(f"observations of shape {values.shape}; {len(numbers)} numbers")
        self.count += len(numbers)
        self._keep(np.asarray(numbers, np.int64), values)

    def _keep(self, numbers: np.ndarray, values: np.ndarray) -> None:
        numbers = np.concatenate([self.numbers, numbers])
        values = np.concatenate([self.values, values])
        # Two numbers never have one rank, because the mixing is a bijection.
        chosen = np.argsort(_ranks(numbers, self.seed))[: self.size]
        chosen = chosen[np.argsort(numbers[chosen])]
        self.numbers, self.values = numbers[chosen], values[chosen]

    def check(self, other: Reservoir) -> None:
        """Refuse what cannot be merged: another size, seed or shape.

        Raises:
            ValueError: it differs.
        """
        mine, theirs = ((r.size, r.seed, r.values.shape[1:]) for r in (self, other))
        if mine != theirs:
            raise ValueError(f"cannot merge a sample {theirs} into {mine}")

    def merge(self, other: Reservoir) -> None:
        """Add the observations behind another sample.

        Raises:
            ValueError: its size, seed or shape differs.
        """
        self.check(other)
        self.count += other.count
        self._keep(other.numbers, other.values)

    def state(self) -> dict[str, np.ndarray]:
        """`size`, `seed`, `count`, `numbers` `[kept]` and `values` `[kept, *shape]`."""
        return {
            "size": np.array(self.size),
            "seed": np.array(self.seed),
            "count": np.array(self.count),
            "numbers": self.numbers,
            "values": self.values,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        size, seed, count = (int(whole(state, name)) for name in ("size", "seed", "count"))
        numbers = whole(state, "numbers", None, least=None)
        new = cls(size, state["values"].shape[1:], seed)
        new.count, new.numbers = count, numbers
        new.values = floats(state, "values", len(numbers), *new.values.shape[1:])
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`count` (of observations seen), `numbers` ascending and `values`."""
        return {
            "count": np.array(self.count),
            "numbers": self.numbers,
            "values": self.values,
        }


def _ranks(numbers: np.ndarray, seed: int) -> np.ndarray:
    """One pseudo-random uint64 for each number (the finaliser of SplitMix64)."""
    # Through Python's integers, so that any seed is taken; array arithmetic wraps silently.
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
