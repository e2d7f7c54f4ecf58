"""The loop of every scan: batches → one forward pass each, read by hooks → merged statistics.

A `Reading` says which hooks read a batch and what is left of it. The statistics of a batch are
merged only when its pass has succeeded, so that an interrupt or a lack of memory never leaves half
a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from .corpus import Batch, Corpus, Tally, Window
from .costs import release_freed
from .errors import ArgumentError, Interrupted
from .interrupts import uninterrupted
from .models.adapter import Adapter
from .running import hooked
from .running.batching import out_of_memory, progress_bar
from .settings import Progress
from .shards.keeping import Keeper
from .shards.run import Seen, unseen
from .statistics import Bundle

__all__ = ["Reading", "Scan", "forward", "real_rows"]

R = TypeVar("R")
Hooks = Mapping[str, Callable[[Tensor], None]]
Ranges = Callable[[Batch], Sequence[tuple[int, int]]]

LARGE = 2**20
"""Bytes of a tensor worth asking the allocator to clean up after, which takes some milliseconds."""


class Reading(Protocol):
    """What a scan reads: made once, asked for fresh hooks for every batch."""

    last: int
    """The last layer that is read; none above it runs."""

    def open(self, batch: Batch) -> tuple[Hooks, Callable[[], Bundle]]:
        """Hooks for one pass over this batch, and the call that gives its statistics afterwards."""
        ...

    def check(self, part: Bundle) -> None:
        """Refuse statistics that no batches leave.

        Raises:
            ValueError: other statistics, other shapes, or keys that do not fit together.
        """


class Scan:
    """One scan as it runs.

    `ranges` says in which columns a batch is read, one after the other over a cache; without it each
    batch is one pass. The reading's hooks then meet the columns in order, new ones only.

    Attributes:
        total: statistics of the finished batches; None before the first.
        done: how much text they hold.
        notes: what a reader of the result should know.
    """

    def __init__(
        self, adapter: Adapter, corpus: Corpus, reading: Reading, ranges: Ranges | None = None
    ) -> None:
        self.adapter = adapter
        self.corpus = corpus
        self.reading = reading
        self.ranges = ranges
        self.total: Bundle | None = None
        self.done = Tally()
        self.notes: list[str] = []
        if adapter.user_hooks():
            self.notes.append("hooks of the user's own are attached: whole forward passes were run")
        if adapter.model.training:
            self.notes.append("the model is in training mode: dropout, if any, was active")

    def run(
        self,
        finish: Callable[[Scan, bool], R],
        *,
        progress: Progress | None = None,
        keeper: Keeper | None = None,
    ) -> R:
        """Read the whole corpus. `finish(scan, complete)` makes the result of what was read.

        Args:
            finish: makes the result.
            progress: see `lp.options`.
            keeper: keeps finished pieces in a folder; without one nothing touches the disk.

        Raises:
            ArgumentError: an empty or unreadable corpus, or a window that does not fit in memory.
            OutputError: the keeper's folder cannot be used, or is another run's.
            Interrupted: Ctrl-C; `.partial` is the result over what was finished.
        """
        with progress_bar("tok", progress, unit_scale=True) as bar:

            def show(piece: Tally | None = None, share: float = 0.0) -> None:
                bar.total = self.corpus.expected_tokens()
                reading = 0 if piece is None else int(piece.tokens * share)
                bar.update(self.done.tokens + reading - bar.n)

            try:
                if keeper is None:
                    self.read(show=show)
                else:
                    keeper.run(self, show)
            except KeyboardInterrupt as interrupt:
                partial = None if self.total is None else finish(self, False)
                raise Interrupted(
                    f"interrupted after {self.done.sequences} sequences "
                    f"({self.done.tokens} tokens).",
                    partial=partial,
                ) from interrupt
        return finish(self, True)

    def read(
        self, windows: Sequence[Window] | None = None, show: Callable[[], None] = lambda: None
    ) -> None:
        """Read these windows, or all there are; `show` is called after each batch."""
        for batch in self.corpus.batches(windows):
            self._read(batch)
            show()

    def part(self) -> Scan:
        """An empty scan of the same kind, whose statistics `take` adds."""
        other = Scan(self.adapter, self.corpus, self.reading, self.ranges)
        other.notes = []
        return other

    def alone(
        self, windows: Sequence[Window], seen: Seen = unseen
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """See `shards.run.Run`."""
        part = self.part()
        part.read(windows, lambda: seen(part.done.sequences / len(windows)))
        assert part.total is not None  # there are windows
        return part.total.state(), part.notes

    def check(self, part: Bundle) -> None:
        """See `Reading.check`."""
        self.reading.check(part)

    def take(self, part: Bundle, tally: Tally, notes: Sequence[str]) -> None:
        """Add what was read elsewhere: its statistics, how much text they hold, what was noted."""
        with uninterrupted():
            if self.total is None:
                self.total = part
            else:
                self.total.merge(part)
            self.done.merge(tally)
            self.notes += notes

    def _read(self, batch: Batch) -> None:
        """One batch, cut in two for as long as memory runs out."""
        waiting = [batch]
        while waiting:
            batch = waiting.pop()
            try:
                part = self.forward(batch)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                halves = self._halved(batch, error)
            else:
                self._commit(batch, part)
                continue
            # Outside the handler, whose traceback holds the tensors of the failed pass.
            waiting += [Batch.of(self.adapter, rows) for rows in halves]

    def forward(self, batch: Batch) -> Bundle:
        """The statistics of one batch; hooks are always removed."""
        ranges = [(0, batch.tokens.ids.shape[1])] if self.ranges is None else self.ranges(batch)
        return forward(self.adapter, self.reading, batch, ranges)

    def _commit(self, batch: Batch, part: Bundle) -> None:
        tally = Tally()
        tally.add(batch.windows, self.corpus.length)
        self.take(part, tally, ())

    def _halved(self, batch: Batch, error: Exception) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        rows = len(batch.windows)
        if rows == 1:
            raise ArgumentError(
                f"memory ran out on a single sequence of {batch.size} tokens; "
                "pass a smaller length, or fewer layers."
            ) from error
        self.corpus.batch_tokens = max(1, batch.size // 2)
        self.notes.append(
            f"memory ran out at {batch.size} tokens in a batch: "
            f"batches of at most {self.corpus.batch_tokens} from there on"
        )
        return batch.windows[rows // 2 :], batch.windows[: rows // 2]

    def provenance(self, complete: bool) -> dict[str, Any]:
        """What every scan's result says of its texts and its run."""
        return {
            **self.adapter.provenance(),
            "bos": self.corpus.bos,
            "length": self.corpus.length,
            "documents": self.done.documents,
            "sequences": self.done.sequences,
            "tokens": self.done.tokens,
            "short": self.done.short,
            "skipped": self.corpus.read.skipped,
            "complete": complete,
            "notes": [*self.corpus.notes(self.done), *self.notes],
        }


@torch.no_grad()
def forward(
    adapter: Adapter, reading: Reading, batch: Batch, ranges: Sequence[tuple[int, int]]
) -> Bundle:
    """A batch read in these columns, as far as it is read; hooks are always removed."""
    tokens = batch.tokens
    mask = tokens.mask if tokens.ragged else None
    # A user's hook at a later layer, or on the logits, must still see the pass.
    stop = None if adapter.user_hooks() else reading.last + 1
    hooks, collect = reading.open(batch)
    cache = adapter.new_cache(len(tokens.ids)) if len(ranges) > 1 else None
    if cache is not None:
        cache.expect(tokens.ids.shape[1])
        hooks = {name: _sparing(hook) for name, hook in hooks.items()}
    with hooked(adapter, hooks), adapter.fused() if cache is None else nullcontext():
        for begin, end in ranges:
            part = None if mask is None else mask[:, begin:end]
            adapter.run(tokens.ids[:, begin:end], mask=part, stop=stop, cache=cache)
    return collect()


def _sparing(hook: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """A hook after which memory that large tensors left goes back to the system.

    Each chunk's scores are wider than the last one's and fit in no hole it left, and what a hook keeps
    of one layer lies in the hole that the next layer's scores would have fitted: what is resident would
    grow to several times what is in use.
    """

    def read(value: Tensor) -> None:
        hook(value)
        if value.nbytes >= LARGE:
            release_freed()

    return read


def real_rows(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Row and position of every real token of a batch, each int `[tokens]`."""
    rows, positions = np.nonzero(np.arange(batch.tokens.ids.shape[1]) < batch.lengths[:, None])
    return rows, positions
