"""What an analysis of this room is about: texts as sequences, and the coordinates read in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..corpus import Corpus
from ..models.adapter import Adapter
from ..tokens import Bos, Encoded
from .scan import LONGEST
from .target import Target, Targets, resolve

__all__ = ["Subject", "subject"]


@dataclass(frozen=True)
class Subject:
    """Sequences that all have the positions of all targets.

    Attributes:
        rows: the sequences, in the order of the texts.
        documents: which document each of them is a piece of; documents count from 0.
        targets: what is read in them.
        facts: what a result's provenance says of both.
    """

    rows: list[Encoded]
    documents: list[int]
    targets: Targets
    facts: dict[str, Any]

    @property
    def each(self) -> tuple[Target, ...]:
        """The coordinates, at least one."""
        return self.targets.each


def subject(
    adapter: Adapter,
    texts: Any,
    *,
    at: Any = None,
    dim: int | None = None,
    position: int | None = None,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
) -> Subject:
    """Read the texts into sequences and settle the coordinates; see `resolve` and `Corpus`.

    A document longer than `length` is split. A later piece of one that lacks a position is left out
    and counted; a document that lacks it is refused.

    Raises:
        ArgumentError: see `resolve` and `Corpus`.
    """
    corpus = Corpus(
        adapter,
        texts,
        bos=bos,
        length=length,
        longest=LONGEST,
        limit=limit,
        column=column,
        batch_tokens=batch_tokens,
    )
    windows = list(corpus.windows())
    begins = [Encoded(window.ids) for window in windows if window.index == 0]
    targets = resolve(adapter, begins, at=at, dim=dim, position=position, batch_tokens=batch_tokens)
    last = max(target.position for target in targets.each)
    kept = [window for window in windows if len(window.ids) > last]
    rows = [Encoded(window.ids) for window in kept]
    notes = [*targets.notes, *corpus.notes(corpus.read)]
    if len(rows) < len(windows):
        notes.append(f"{len(windows) - len(rows)} last pieces were too short for position {last}")
    return Subject(
        rows,
        [window.document for window in kept],
        targets,
        {
            **targets.provenance(),
            "bos": corpus.bos,
            "length": corpus.length,
            "documents": corpus.read.documents,
            "sequences": len(rows),
            "tokens": sum(map(len, rows)),
            "notes": notes,
        },
    )
