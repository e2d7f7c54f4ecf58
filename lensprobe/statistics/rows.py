"""What single sequences left, kept as it is: for answers that need every number, not a sum."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["Rows"]


class Rows:
    """Named arrays for each key, a tuple of `width` whole numbers. It grows with what is observed."""

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self._rows: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, key: tuple[int, ...], **arrays: np.ndarray) -> None:
        """Add a row: arrays `[numbers]`, of the same names in every row.

        Raises:
            ValueError: a key that is there already or is not `width` long, or other names.
        """
        if len(key) != self.width or key in self._rows:
            raise ValueError(f"the key {key}: {self.width} numbers, and once only")
        if self._rows and set(arrays) != set(self.names):
            raise ValueError(f"a row of {sorted(arrays)} among rows of {self.names}")
        self._rows[key] = {name: np.asarray(array) for name, array in arrays.items()}

    @property
    def names(self) -> list[str]:
        """Of the arrays that each row has, in order."""
        return sorted(next(iter(self._rows.values()), {}))

    def check(self, other: Rows) -> None:
        """Refuse what cannot be merged: keys of another width.

        Raises:
            ValueError: it differs.
        """
        if other.width != self.width:
            raise ValueError(f"cannot merge keys of {other.width} numbers into {self.width}")

    def merge(self, other: Rows) -> None:
        """Add the rows of another value.

        Raises:
            ValueError: both have the same row, or their rows differ in kind.
        """
        self.check(other)
        for key, arrays in other._rows.items():
            self.update(key, **arrays)

    def state(self) -> dict[str, np.ndarray]:
        """`keys` int `[rows, width]` ascending, `lengths` int `[rows, names]`, and all rows of a name
        in one array, called `of ` and that name."""
        keys, names = sorted(self._rows), self.names
        lengths = [[len(self._rows[key][name]) for name in names] for key in keys]
        return {
            "keys": np.array(keys, np.int64).reshape(-1, self.width),
            "lengths": np.array(lengths, np.int64).reshape(len(keys), len(names)),
            **{f"of {name}": np.concatenate([self._rows[k][name] for k in keys]) for name in names},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        keys = whole(state, "keys", None, None, least=None)
        names = sorted(name[3:] for name in state if name.startswith("of "))
        lengths = whole(state, "lengths", len(keys), len(names))
        new = cls(keys.shape[1])
        parts = []
        for name, sizes in zip(names, lengths.T, strict=True):
            joined = floats(state, f"of {name}", sum(sizes.tolist()))
            parts.append(np.split(joined, np.cumsum(sizes)[:-1]))
        for row, key in enumerate(keys.tolist()):
            arrays = {name: part[row] for name, part in zip(names, parts, strict=True)}
            new.update(tuple(key), **arrays)
        return new

    def result(self) -> dict[tuple[int, ...], dict[str, np.ndarray]]:
        """Key to its arrays, keys ascending."""
        return {key: dict(self._rows[key]) for key in sorted(self._rows)}
