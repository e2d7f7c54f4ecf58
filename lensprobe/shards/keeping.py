"""A scan in pieces: what is finished is kept in a folder, and pieces may be read by others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ArgumentError, OutputError
from ..results import Result
from ..statistics import Bundle
from .crew import Crew, Engine, Part, checked_part, crew, here
from .folder import Folder, Kept
from .identity import identity
from .line import Done
from .pieces import Piece, pieces

if TYPE_CHECKING:
    from ..models.adapter import Adapter
    from ..scanning import Ranges, Reading
    from .run import Run, Show, Source

__all__ = ["RESULT", "VECTORS", "Keeper", "keeper"]

R = TypeVar("R", bound=Result)

RESULT = "result.zip"
"""The finished result in the folder, which `lp.open(folder)` reads."""
VECTORS = "result.safetensors"
"""The same where the result is steering vectors."""

PIECE_TOKENS = 65_536
"""Tokens between two states on the disk: at 1,000 tokens a second about a minute's work."""


@dataclass(frozen=True)
class Keeper:
    """Where a scan keeps its states, what names it, and who reads.

    Attributes:
        out: the folder, see `Folder`; None keeps nothing.
        analysis: the name of the scan, such as "massive.scan".
        options: those options that its statistics depend on.
        crew: other processes that read; None is this one.
        part: the share of the pieces that is read; None is all of them.
    """

    out: str | os.PathLike[str] | None
    analysis: str
    options: Mapping[str, Any]
    crew: Crew | None = None
    part: Part | None = None

    def run(self, scan: Run, show: Show) -> None:
        """Read what is not kept yet, piece by piece; `show` is called after each, and where this
        process reads after each batch.

        Raises:
            OutputError: the texts have changed, or a piece is not of this run; see also `folder`.
            ArgumentError: others cannot read this; see `Crew.read`.
        """
        with self.folder(scan.adapter, scan.corpus) as folder:
            found = self._mine(pieces(scan.corpus, PIECE_TOKENS, folder.load))

            def keep(done: Done) -> None:
                folder.save(done.piece.number, done.facts, done.state)

            read = partial(here, show=show) if self.crew is None else self.crew.read
            # Closed, so that nobody reads on when this ends early.
            with closing(read(scan, found, keep)) as finished:
                for done in finished:
                    _take(scan, done)
                    show()

    def _mine(self, found: Iterator[Piece]) -> Iterator[Piece]:
        if self.part is None:
            return found
        index, count = self.part
        return (piece for piece in found if piece.number % count == index)

    def folder(
        self, adapter: Adapter, corpus: Source
    ) -> AbstractContextManager[Folder] | AbstractContextManager[_Nowhere]:
        """The folder, to be entered: nobody else works in it meanwhile, and no other run ever.

        Raises:
            OutputError: on entering, the folder is another run's or cannot be written.
            ArgumentError: hooks of the user's own, of which a later run would know nothing.
        """
        if self.out is None:
            return nullcontext(_Nowhere())
        hooks = adapter.user_hooks()
        if hooks:
            raise ArgumentError(
                f"out={str(self.out)!r}: hooks of your own are attached ({', '.join(hooks)}); a run "
                "that goes on later could not know what they do."
            )
        named = identity(adapter, corpus, self.analysis, self.options, PIECE_TOKENS)
        return Folder(self.out, named, self.part)

    def within(self, name: str) -> Keeper:
        """The same for one part of the run, in a folder of its own inside."""
        if self.out is None:
            return self
        place = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)
        return replace(self, out=Path(self.out) / place)

    def stored(self, result: R | None) -> R | None:
        """The finished result, once it is beside its states; a share has none.

        Raises:
            OutputError: it cannot be written.
        """
        if result is not None and self.out is not None:
            result.save(Path(self.out) / RESULT, overwrite=True)
        return result


def _take(scan: Run, done: Done) -> None:
    try:
        part = Bundle.from_state(done.state)
        scan.check(part)
    except (KeyError, ValueError) as error:
        # A file may be whole and yet hold what no run of this kind has written.
        raise OutputError(
            f"piece {done.piece.number} is damaged: it holds other statistics than this run's "
            f"({error}). Delete its file, and it is read again."
        ) from error
    scan.take(part, done.piece.tally, done.notes)


class _Nowhere:
    """What a folder is to a run that keeps nothing."""

    def load(self, number: int) -> Kept | None:
        """Nothing."""

    def save(self, *given: Any) -> None:
        """Nothing is kept."""


def keeper(
    analysis: str,
    options: Mapping[str, Any],
    reading: Callable[[Adapter], Reading],
    ranges: Callable[[Adapter], Ranges] | None = None,
    *,
    out: str | os.PathLike[str] | None,
    workers: int | None,
    engine: Engine | None,
    part: Part | None,
) -> Keeper | None:
    """What runs a scan in pieces; None where nothing asks for that.

    Raises:
        ArgumentError: see `crew` and `checked_part`.
    """
    share = checked_part(part, out)
    others = crew(workers, engine, reading, ranges)
    if out is None and others is None:
        return None
    return Keeper(out, analysis, options, others, share)
