"""What a run must be to go in pieces: a source of items that can be cut, and statistics that merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from ..corpus import Tally
    from ..documents import Documents
    from ..models.adapter import Adapter
    from ..statistics import Bundle

__all__ = ["Run", "Seen", "Show", "Source", "unseen"]

Seen = Callable[[float], None]


def unseen(share: float) -> None:
    """Nobody asks how far the reading is."""


class Show(Protocol):
    """Draws how far a run is."""

    def __call__(self, piece: Tally | None = None, share: float = ...) -> None:
        """What is finished is read, and this share of the piece that is under way."""


class Source(Protocol):
    """Items in order, such as a `Corpus`: what is cut of one is read together."""

    bos: bool
    length: int
    overlap: int
    batch_tokens: int
    skips: bool
    source: Documents
    read: Tally

    def cut(self, number: int, place: Any, text: Any, tally: Tally) -> Iterator[Any]:
        """What item `number` is read as, counted in `tally`."""
        ...

    def end(self) -> None:
        """There are no more items."""


class Run(Protocol):
    """One analysis as it runs, such as a `Scan`."""

    @property
    def adapter(self) -> Adapter:
        """The model's."""
        ...

    @property
    def corpus(self) -> Source:
        """What is read."""
        ...

    def alone(
        self, windows: Sequence[Any], seen: Seen = unseen
    ) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """The state of the statistics of these and no others, and what was noted of them.

        `seen(share)` is called after each batch: how much of them has been read.
        """
        ...

    def check(self, part: Bundle) -> None:
        """Refuse statistics that this run cannot have left.

        Raises:
            ValueError: other statistics than `take` adds.
        """

    def take(self, part: Bundle, tally: Tally, notes: Sequence[str]) -> None:
        """Add what was read elsewhere."""
