"""Texts → windows → batches of nearly equal length, read once and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any

import numpy as np

from .documents import Broken, Documents, documents
from .errors import ArgumentError
from .models.adapter import Adapter
from .settings import OnError, current, skips
from .tokens import Bos, Encoded, TokenBatch, encode

__all__ = ["Batch", "Corpus", "Tally", "Window", "positive_whole"]

LOOKAHEAD = 16
"""Batches' worth of tokens that wait to be sorted by length: bounded memory, little padding."""
SHOWN = 5
"""Records that could not be read and are named; the others are counted."""


@dataclass(frozen=True)
class Window:
    """Tokens that are read as one sequence: a document, or a piece of one that is too long.

    `again` is how many of its first tokens are there for context only: BOS put in front once more,
    and what the window before has too. `begin` is the place in the document of the token after them.
    """

    document: int
    index: int
    ids: tuple[int, ...]
    again: int = 0
    begin: int = 0


@dataclass(frozen=True)
class Batch:
    """One forward pass: windows of nearly equal length, padded on the right.

    Attributes:
        tokens: ids, mask and positions `[batch pos]`.
        windows: which pieces of which documents the rows are.
    """

    tokens: TokenBatch
    windows: tuple[Window, ...]

    @classmethod
    def of(cls, adapter: Adapter, windows: tuple[Window, ...]) -> Batch:
        """Pad the windows to the longest."""
        return cls(TokenBatch.pad(adapter, [Encoded(window.ids) for window in windows]), windows)

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens in each row, int `[batch]`."""
        return np.array([len(window.ids) for window in self.windows])

    @property
    def size(self) -> int:
        """Tokens that the pass computes, pads included."""
        return self.tokens.ids.numel()


@dataclass
class Tally:
    """What has been read so far."""

    documents: int = 0
    split: int = 0
    """Documents that were longer than one window."""
    sequences: int = 0
    tokens: int = 0
    short: int = 0
    """Sequences shorter than a full window."""
    skipped: int = 0
    """Records that could not be read."""
    reasons: list[str] = field(default_factory=list)
    """Where the first of those were, and what was wrong."""

    def add(self, windows: tuple[Window, ...], length: int) -> None:
        """Count windows. A document counts with its first window, and as split with its second."""
        self.documents += sum(window.index == 0 for window in windows)
        self.split += sum(window.index == 1 for window in windows)
        self.sequences += len(windows)
        self.tokens += sum(len(window.ids) for window in windows)
        self.short += sum(len(window.ids) < length for window in windows)

    def skip(self, reason: str) -> None:
        """Count a record that could not be read."""
        self.skipped += 1
        self.reasons = [*self.reasons, reason][:SHOWN]

    @property
    def complaint(self) -> str:
        """How many records could not be read, and where the first of them were."""
        more = self.skipped - len(self.reasons)
        noun = "record" if self.skipped == 1 else "records"
        named = "; ".join(reason.rstrip(".") for reason in self.reasons)
        return f"{self.skipped} {noun} skipped: {named}" + (f"; and {more} more" if more else "")

    def merge(self, other: Tally) -> None:
        """Add what was read elsewhere, later in the corpus."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.reasons = self.reasons[:SHOWN]


class Corpus:
    """Texts as batches. Each window of a long document begins with BOS again where BOS is on.

    Args:
        adapter: the model whose tokenizer and context apply.
        texts: see `documents`.
        length: most tokens of a window, BOS included; None is what `options` says, or `longest`.
        longest: the default of the analysis; the model's context is never passed.
        batch_tokens: most tokens of a batch, pads included. It may be lowered while batches are
            being read, when memory turns out to be short.
        overlap: share of a window that repeats the one before it, from 0 up to and without 1.
        least: fewest tokens of a document.
        on_error: "raise" or "skip" at a record that cannot be read; None is what `options` says.
            Documents keep the numbers that they have in `texts`.

    Raises:
        ArgumentError: an argument out of range, or no texts at all.
    """

    def __init__(
        self,
        adapter: Adapter,
        texts: Any,
        *,
        bos: Bos = "auto",
        length: int | None = None,
        longest: int = 1024,
        limit: int | None = None,
        column: str | None = None,
        batch_tokens: int | None = None,
        overlap: float = 0.0,
        least: int = 1,
        on_error: OnError | None = None,
    ) -> None:
        self.adapter = adapter
        self.bos = adapter.bos(bos)
        self.length = _length(adapter, current("length", length), longest, self.bos)
        # BOS and one token that is new must fit beside what is repeated.
        self.overlap = max(0, min(int(overlap * self.length), self.length - 1 - self.bos))
        self.batch_tokens = positive_whole("batch_tokens", current("batch_tokens", batch_tokens))
        self.least = least
        self.skips = skips(on_error)
        self.source: Documents = documents(texts, column=column, limit=limit)
        self.read = Tally()
        self.exhausted = False

    def expected_tokens(self) -> int | None:
        """Tokens of the whole corpus: exact once it has been read, before that an estimate."""
        if self.exhausted:
            return self.read.tokens
        seen = self.read.documents + self.read.skipped
        count = self.source.expected(seen)
        return int(self.read.tokens * count / seen) if count is not None and seen else None

    def windows(self) -> Iterator[Window]:
        """Windows in the order of the documents.

        Raises:
            ArgumentError: an empty text, named by its place; or no texts at all.
        """
        for number, (place, text) in enumerate(self.source.stream):
            yield from self.cut(number, place, text, self.read)
        self.end()

    def cut(self, number: int, place: str, text: Any, tally: Tally) -> Iterator[Window]:
        """The windows of document `number`, counted in `tally`; none of one that is skipped.

        Raises:
            ArgumentError: a text that cannot be read, named by its place, where none is skipped.
        """
        try:
            ids = self._encoded(place, text)
        except ArgumentError as error:
            if not self.skips:
                raise
            tally.skip(str(error))
            return
        for window in self._cut(number, ids):
            tally.add((window,), self.length)
            yield window

    def _encoded(self, place: str, text: Any) -> list[int]:
        if isinstance(text, Broken):
            raise ArgumentError(text.reason)
        try:
            ids = encode(self.adapter, text, self.bos)
        except ArgumentError as error:
            raise ArgumentError(f"{place}: {error}") from error
        if len(ids) < self.least:
            raise ArgumentError(f"{place} is shorter than {self.least} tokens.")
        return ids

    def end(self) -> None:
        """The stream has ended.

        Raises:
            ArgumentError: there was no text in it, or none that could be read.
        """
        if not self.read.documents:
            if self.read.skipped:
                raise ArgumentError(f"texts holds no text that can be read: {self.read.complaint}.")
            raise ArgumentError("texts holds no text at all; give at least one.")
        self.exhausted = True

    def _cut(self, document: int, ids: list[int]) -> Iterator[Window]:
        yield Window(document, 0, tuple(ids[: self.length]))
        if len(ids) <= self.length:
            return
        # Token ids are taken as they are: where they come without BOS, no window has it.
        front = ids[:1] if self.bos and ids[0] == self.adapter.tokenizer.bos_token_id else []
        again = len(front) + self.overlap
        step = self.length - again
        for index, begin in enumerate(range(self.length, len(ids), step), 1):
            piece = (*front, *ids[begin - self.overlap : begin + step])
            yield Window(document, index, piece, again, begin)

    def batches(self, windows: Iterable[Window] | None = None) -> Iterator[Batch]:
        """Batches of nearly equal length, longest first within the lookahead.

        Args:
            windows: which; None is all there are.
        """
        waiting: list[Window] = []
        held = 0
        # The end of the corpus is one more turn of the same loop.
        for window in chain(self.windows() if windows is None else windows, [None]):
            if window is not None:
                waiting.append(window)
                held += len(window.ids)
                if held < LOOKAHEAD * self.batch_tokens:
                    continue
            waiting.sort(key=lambda w: (-len(w.ids), w.document, w.index))
            while waiting:
                rows = max(1, self.batch_tokens // len(waiting[0].ids))
                if window is not None and rows > len(waiting):
                    # Too few left for a full batch; they join the next lookahead.
                    break
                part, waiting = tuple(waiting[:rows]), waiting[rows:]
                yield Batch.of(self.adapter, part)
            held = sum(len(window.ids) for window in waiting)

    def notes(self, done: Tally) -> list[str]:
        """What happened on the way to the texts that were `done`, for the provenance."""
        notes = [self.read.complaint] if self.read.skipped else []
        if not done.split:
            return notes
        again = ", each beginning with BOS again" if self.bos else ""
        again += f", {self.overlap} tokens of the one before read again" if self.overlap else ""
        return [
            *notes,
            f"{done.split} of {done.documents} documents were longer than {self.length} tokens "
            f"and were split into windows{again}",
        ]


def positive_whole(name: str, value: Any) -> int:
    """The value of an argument that counts something.

    Raises:
        ArgumentError: anything but a whole number from 1 on.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise ArgumentError(f"{name}={value!r}: a positive whole number.")
    return value.__index__()


def _length(adapter: Adapter, length: Any, longest: int, bos: bool) -> int:
    if length is None:
        return min(adapter.context, longest)
    value = positive_whole("length", length)
    if value > adapter.context:
        raise ArgumentError(f"length={value}: this model's context is {adapter.context} tokens.")
    if value <= bos:
        raise ArgumentError(f"length={value}: BOS alone takes one token; give at least 2.")
    return value
