"""The k largest values, and where they stood."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Self

from .fields import floats, whole

__all__ = ["TopK"]

PLACES = ("document", "position", "dim")


class TopK:
    """The `k` largest values with their document, position and dimension.

    Equal values are ranked by document, then position, then dimension, ascending. With this total
    order the answer does not depend on the order in which the values came. NaN is not a value and
    is left out; negative zero becomes zero.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"k={k}: at least 1")
        self.k = k
        self.values = np.zeros(0)
        self.places = np.zeros((0, len(PLACES)), np.int64)

    def update(
        self, values: np.ndarray, document: np.ndarray, position: np.ndarray, dim: np.ndarray
    ) -> None:
        """Add values, float `[observations]`; the places are int and broadcast against them."""
        values = np.asarray(values, np.float64).reshape(-1) + 0.0
        places = np.stack(
            [
                np.broadcast_to(np.asarray(place, np.int64), values.shape)
                for place in (document, position, dim)
            ],
            axis=1,
        )
        use = ~np.isnan(values)
        values, places = values[use], places[use]
        if len(values) > 16 * self.k:
            # Only what can be among the k largest is worth sorting; ties at the border stay in.
            border = np.partition(values, len(values) - self.k)[len(values) - self.k]
            values, places = values[values >= border], places[values >= border]
        self._keep(values, places)

    def _keep(self, values: np.ndarray, places: np.ndarray) -> None:
        values = np.concatenate([self.values, values])
        places = np.concatenate([self.places, places])
        # lexsort sorts by its last key first.
        order = np.lexsort((places[:, 2], places[:, 1], places[:, 0], -values))[: self.k]
        self.values, self.places = values[order], places[order]

    def check(self, other: TopK) -> None:
        """Refuse what cannot be merged: another number of values.

        Raises:
            ValueError: it differs.
        """
        if other.k != self.k:
            raise ValueError(f"cannot merge the largest {other.k} into the largest {self.k}")

    def merge(self, other: TopK) -> None:
        """Add the values behind another ranking.

        Raises:
            ValueError: it keeps another number of values.
        """
        self.check(other)
        self._keep(other.values, other.places)

    def state(self) -> dict[str, np.ndarray]:
        """`k`, `values` `[found]` in rank order, and `places` `[found, 3]`."""
        return {"k": np.array(self.k), "values": self.values, "places": self.places}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """The value that `state()` was taken of.

        Raises:
            KeyError, ValueError: it was taken of no such value.
        """
        new = cls(int(whole(state, "k")))
        new.values = floats(state, "values", None)
        new.places = whole(state, "places", len(new.values), len(PLACES), least=None)
        return new

    def result(self) -> dict[str, np.ndarray]:
        """`value`, `document`, `position`, `dim`, each `[found]`, largest value first."""
        places = {name: self.places[:, index] for index, name in enumerate(PLACES)}
        return {"value": self.values, **places}
