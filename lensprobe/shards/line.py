"""Pieces that several readers read at once, given back in the order of the corpus."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .pieces import Piece

__all__ = ["Done", "Keep", "Line"]

Keep = Callable[["Done"], None]


@dataclass(frozen=True)
class Done:
    """A piece that was read.

    Attributes:
        piece: which.
        state: its statistics, `Bundle.state()`.
        notes: what a reader of the result should know.
    """

    piece: Piece
    state: Mapping[str, np.ndarray]
    notes: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored beside the state."""
        return {**self.piece.facts, "notes": self.notes}


class Line:
    """Pieces on their way. What is read is kept at once, whatever is still missing before it.

    Args:
        found: the pieces of the corpus, in order; no more of them than needed are cut.
        keep: called with each piece that was read now, not with those of an earlier run.
        ahead: most pieces that are cut and not given back yet, which bounds the memory.
    """

    def __init__(self, found: Iterator[Piece], keep: Keep, ahead: int) -> None:
        self._found = found
        self._keep = keep
        self._ahead = ahead
        self._order: deque[Piece] = deque()
        self._read: dict[int, Done] = {}
        self._again: list[Piece] = []
        self._ended = False

    @property
    def over(self) -> bool:
        """Whether every piece has been given back."""
        return self._ended and not self._order

    def next(self) -> Piece | None:
        """A piece that is to be read; None where there is none now."""
        if self._again:
            return self._again.pop()
        while not self._ended and len(self._order) < self._ahead:
            piece = next(self._found, None)
            if piece is None:
                self._ended = True
                break
            self._order.append(piece)
            if piece.kept is None:
                return piece
            self._read[piece.number] = Done(
                piece, piece.kept.state, piece.kept.facts.get("notes", [])
            )
        return None

    def back(self, piece: Piece) -> None:
        """It could not be read; it is the next one again."""
        self._again.append(piece)

    def done(self, done: Done) -> None:
        """It has been read; a piece that was read twice counts once."""
        if done.piece.number not in self._read:
            self._keep(done)
            self._read[done.piece.number] = done

    def ready(self) -> Iterator[Done]:
        """Those whose turn it is."""
        while self._order and self._order[0].number in self._read:
            yield self._read.pop(self._order.popleft().number)
