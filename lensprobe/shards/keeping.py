"""A scan that keeps what is finished in a folder, and goes on where an earlier one ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ArgumentError
from ..results import Result
from ..statistics import Bundle
from .folder import Folder
from .identity import identity
from .pieces import pieces

if TYPE_CHECKING:
    from ..corpus import Corpus
    from ..models.adapter import Adapter
    from ..scanning import Scan

__all__ = ["RESULT", "Keeper"]

R = TypeVar("R", bound=Result)

RESULT = "result.zip"
"""The finished result in the folder, which `lp.open(folder)` reads."""

PIECE_TOKENS = 65_536
"""Tokens between two states on the disk: at 1,000 tokens a second about a minute's work."""


@dataclass(frozen=True)
class Keeper:
    """Where a scan keeps its states, and what names it.

    Attributes:
        out: the folder; see `Folder`.
        analysis: the name of the scan, such as "massive.scan".
        options: those options that its statistics depend on.
    """

    out: str | os.PathLike[str]
    analysis: str
    options: Mapping[str, Any]

    def run(self, scan: Scan, show: Callable[[], None]) -> None:
        """Read what is not kept yet, piece by piece; `show` is called after each.

        Raises:
            OutputError: the texts have changed; see also `folder`.
        """
        with self.folder(scan.adapter, scan.corpus) as folder:
            for piece in pieces(scan.corpus, PIECE_TOKENS, folder.load):
                if piece.kept is None:
                    part = scan.part()
                    part.read(piece.windows)
                    assert part.total is not None  # a piece has windows
                    state, notes = part.total.state(), part.notes
                    folder.save(piece.number, {**piece.facts, "notes": notes}, state)
                else:
                    state, notes = piece.kept.state, piece.kept.facts["notes"]
                scan.take(Bundle.from_state(state), piece.tally, notes)
                show()

    def folder(self, adapter: Adapter, corpus: Corpus) -> Folder:
        """The folder, to be entered: nobody else works in it meanwhile, and no other run ever.

        Raises:
            OutputError: on entering, the folder is another run's or cannot be written.
            ArgumentError: hooks of the user's own, of which a later run would know nothing.
        """
        hooks = adapter.user_hooks()
        if hooks:
            raise ArgumentError(
                f"out={str(self.out)!r}: hooks of your own are attached ({', '.join(hooks)}); a run "
                "that goes on later could not know what they do."
            )
        named = identity(adapter, corpus, self.analysis, self.options, PIECE_TOKENS)
        return Folder(self.out, named)

    def within(self, name: str) -> Keeper:
        """The same for one part of the run, in a folder of its own inside."""
        place = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)
        return replace(self, out=Path(self.out) / place)

    def stored(self, result: R) -> R:
        """The finished result, once it is beside its states.

        Raises:
            OutputError: it cannot be written.
        """
        result.save(Path(self.out) / RESULT, overwrite=True)
        return result
