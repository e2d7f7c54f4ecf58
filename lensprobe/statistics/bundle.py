"""Statistics that travel together: the whole state of one scan, or of one shard of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from typing_extensions import Self

from .counting import Counts, Histogram
from .covariance import Covariance
from .fields import floats, whole
from .moments import KeyedMoments, Moments
from .ranking import TopK
from .reservoir import Reservoir
from .rows import Rows

__all__ = ["Accumulator", "Bundle", "Earliest"]


class Accumulator(Protocol):
    """What every statistic can do; `update` differs by what is observed."""

    def check(self, other: Any) -> None:
        """Refuse another value of the same type that cannot be merged."""

    def merge(self, other: Any) -> None:
        """Add what another value of the same type has seen."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything, as plain arrays."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Any:
        """The value that `state()` was taken of."""


class Earliest:
    """The observation that comes first in the corpus, whichever batch it was met in."""

    def __init__(self) -> None:
        self.order: tuple[int, ...] | None = None
        self.arrays: dict[str, np.ndarray] = {}

    def update(self, order: tuple[int, ...], **arrays: np.ndarray) -> None:
        """Offer one observation; `order` is its place in the corpus, smallest first."""
        if self.order is None or order < self.order:
            self.order, self.arrays = order, arrays

    def check(self, other: Earliest) -> None:
        """Any other can be merged."""

    def merge(self, other: Earliest) -> None:
        """Take the other's observation if it comes earlier."""
        if other.order is not None:
            self.update(other.order, **other.arrays)

    def state(self) -> dict[str, np.ndarray]:
        """`order` (empty when nothing was seen) and the arrays."""
        return {"order": np.array(self.order or (), np.int64), **self.arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        new = cls()
        new.order = tuple(whole(state, "order", None, least=None).tolist()) or None
        new.arrays = {
            name: floats(state, name, *array.shape)
            for name, array in state.items()
            if name != "order"
        }
        return new

    def result(self) -> dict[str, np.ndarray]:
        """The arrays of the earliest observation, or nothing."""
        return self.arrays


PARTS = (Counts, Covariance, Earliest, Histogram, KeyedMoments, Moments, Reservoir, Rows, TopK)
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in PARTS}


class Bundle:
    """Named statistics that are updated apart and merged together."""

    def __init__(self, parts: Mapping[str, Accumulator]) -> None:
        self.parts = dict(parts)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    def check(self, other: Bundle) -> None:
        """Refuse what cannot be merged, before any of it is.

        Raises:
            ValueError: the names, the types or the shapes differ.
        """
        mine = {name: type(part) for name, part in self.parts.items()}
        theirs = {name: type(part) for name, part in other.parts.items()}
        if mine != theirs:
            raise ValueError(f"cannot merge {sorted(theirs)} into {sorted(mine)}")
        for name, part in self.parts.items():
            part.check(other.parts[name])

    def merge(self, other: Bundle) -> None:
        """Merge each statistic with the other's of the same name.

        Raises:
            ValueError: the names, the types or the shapes differ; nothing has been merged then.
        """
        self.check(other)
        for name, part in self.parts.items():
            part.merge(other.parts[name])

    def state(self) -> dict[str, np.ndarray]:
        """All states in one flat mapping, `name/field`; `name/type` names the class."""
        flat: dict[str, np.ndarray] = {}
        for name, part in self.parts.items():
            flat[f"{name}/type"] = np.array(type(part).__name__)
            flat.update({f"{name}/{field}": array for field, array in part.state().items()})
        return flat

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no bundle, or not all of it is there.
        """
        fields: dict[str, dict[str, np.ndarray]] = {}
        for path, array in state.items():
            name, _, field = path.rpartition("/")
            fields.setdefault(name, {})[field] = array
        return cls(
            {name: KINDS[str(part.pop("type"))].from_state(part) for name, part in fields.items()}
        )
