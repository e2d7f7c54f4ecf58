"""Texts of any length, read window by window: what a window leaves is kept, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from ..corpus import Batch, Corpus, Tally, Window
from ..costs import Plan, measured
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter
from ..running.batching import out_of_memory, progress_bar
from ..running.fanning import tokens_that_fit
from ..settings import OnError, Progress
from ..shards.keeping import Keeper
from ..shards.run import Seen, unseen
from ..statistics import Bundle, Rows, inside
from ..tokens import Bos
from .blended import plain_path

__all__ = ["Texts"]

LONGEST = 1024
OVERLAP = 0.25
"""Share of a window that repeats the end of the one before, so that no token lacks a context."""

ROWS = "windows"
"""Statistic that holds what was kept of each window."""

T = TypeVar("T")
Work = Callable[[Batch], Sequence[T]]
Left = Callable[[Window], Mapping[str, int]]
"""What a window leaves: how many numbers of each name."""


@dataclass
class Texts(Generic[T]):
    """A corpus as it is read.

    Attributes:
        windows: the finished windows, in the order of the texts once `read` has returned.
        answers: what each of them left.
        facts: of the run, for provenance.
    """

    corpus: Corpus
    windows: list[Window] = field(default_factory=list)
    answers: list[T] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = True
    work: Work[T] | None = None
    left: Left | None = None

    @classmethod
    def of(
        cls,
        adapter: Adapter,
        texts: Any,
        *,
        bos: Bos,
        length: int | None,
        limit: int | None,
        column: str | None,
        batch_tokens: int | None,
        on_error: OnError | None = None,
    ) -> Texts[T]:
        """Texts as windows of at most 1,024 tokens, which overlap by a quarter; see `Corpus`."""
        corpus = Corpus(
            adapter,
            texts,
            bos=bos,
            length=length,
            longest=LONGEST,
            limit=limit,
            column=column,
            batch_tokens=tokens_that_fit(adapter, batch_tokens),
            overlap=OVERLAP,
            on_error=on_error,
            least=2,
        )
        if corpus.length < 2:
            raise ArgumentError(f"length={corpus.length}: one token predicts nothing; at least 2.")
        return cls(corpus)

    @property
    def adapter(self) -> Adapter:
        """The model's."""
        return self.corpus.adapter

    def read(
        self,
        work: Work[T],
        *,
        progress: Progress | None,
        keeper: Keeper | None = None,
        left: Left | None = None,
    ) -> None:
        """Fill `answers` with what `work` makes of each batch; Ctrl-C leaves what is finished.

        Args:
            work: gives an answer for each window of a batch; for a keeper, arrays by name.
            progress: see `lp.options`.
            keeper: keeps finished pieces in a folder; without one nothing touches the disk.
            left: what a keeper's pieces must hold of each window.

        Raises:
            ArgumentError: a text of one token, ids that the model does not have, no memory for a
                single window.
            OutputError: the keeper's folder cannot be used, or is another run's.
            Interrupted: Ctrl-C before anything was finished.
        """
        with progress_bar("tok", progress, unit_scale=True) as bar:

            def show(piece: Tally | None = None, share: float = 1.0) -> None:
                bar.total = self.corpus.expected_tokens()
                # A piece counts as read from when it is cut.
                waiting = 0 if piece is None else int(piece.tokens * (1 - share))
                bar.update(self.corpus.read.tokens - waiting - bar.n)

            self.work, self.left = work, left
            try:
                if keeper is None:
                    self._read(None, show)
                else:
                    keeper.run(self, show)
            except KeyboardInterrupt:
                self.complete = False
        if not self.windows:
            raise Interrupted("interrupted before the first text was finished.")
        order = sorted(
            range(len(self.windows)),
            key=lambda i: (self.windows[i].document, self.windows[i].index),
        )
        self.windows = [self.windows[i] for i in order]
        self.answers = [self.answers[i] for i in order]

    def _read(
        self, windows: Sequence[Window] | None, show: Callable[[], None] = lambda: None
    ) -> None:
        assert self.work is not None  # reading has begun
        for batch in self.corpus.batches(windows):
            self._check(batch)
            self._do(batch, self.work)
            show()

    def alone(
        self, windows: Sequence[Window], seen: Seen = unseen
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """See `shards.run.Run`."""
        part = Texts(self.corpus, work=self.work)
        part._read(windows, lambda: seen(len(part.windows) / len(windows)))
        rows = Rows(2)
        for window, answer in zip(part.windows, part.answers, strict=True):
            assert isinstance(answer, dict)  # what a keeper can keep
            place = {"ids": np.array(window.ids), "place": np.array([window.again, window.begin])}
            rows.update((window.document, window.index), **place, **answer)
        return Bundle({ROWS: rows}).state(), part.notes

    def check(self, part: Bundle) -> None:
        """See `shards.run.Run`."""
        Bundle({ROWS: Rows(2)}).check(part)
        for (document, index), arrays in part[ROWS].result().items():
            ids, place = arrays.pop("ids"), arrays.pop("place")
            if place.shape != (2,) or {ids.dtype.kind, place.dtype.kind} != {"i"}:
                raise ValueError(f"a window of text {document} without tokens or a place")
            again, begin = place.tolist()
            inside(ids[:, None], (0, self.adapter.d_vocab))
            inside(np.array([[document, index, begin, again]]), *[(0, None)] * 3, (0, len(ids)))
            window = Window(document, index, tuple(ids.tolist()), again, begin)
            found = {name: len(array) for name, array in arrays.items()}
            if self.left is None or found != self.left(window):
                raise ValueError(f"a window of {len(ids)} tokens left {found}")

    def take(self, part: Bundle, tally: Tally, notes: Sequence[str]) -> None:
        """Add what was read alone."""
        for (document, index), arrays in part[ROWS].result().items():
            ids, place = arrays.pop("ids"), arrays.pop("place").tolist()
            self.windows.append(Window(document, index, tuple(ids.tolist()), *place))
            self.answers.append(arrays)
        self.notes += notes

    def plan(self, work: Work[T], provenance: dict[str, Any]) -> Plan:
        """What `read` would cost, from counting the texts and timing the largest batch."""
        batches = list(self.corpus.batches())
        for batch in batches:
            self._check(batch)
        largest = max(batches, key=lambda batch: batch.size)
        smallest = Batch.of(self.corpus.adapter, largest.windows[:1])
        seconds, memory = measured(
            lambda: work(smallest), lambda: work(largest), self.corpus.adapter.device
        )
        read = self.corpus.read
        costs = {
            "documents": read.documents,
            "sequences": read.sequences,
            "tokens": read.tokens,
            "passes": len(batches),
            "seconds": seconds * sum(batch.size for batch in batches) / largest.size,
            "memory": memory,
        }
        return Plan(provenance={**provenance, "complete": False}, costs=pd.DataFrame([costs]))

    def provenance(self) -> dict[str, Any]:
        """What was read, and how."""
        done = Tally()
        for window in self.windows:
            done.add((window,), self.corpus.length)
        notes = [*self.corpus.notes(done), *self.notes]
        why = plain_path(self.corpus.adapter, max(len(window.ids) for window in self.windows))
        return {
            **self.corpus.adapter.provenance(),
            "bos": self.corpus.bos,
            "length": self.corpus.length,
            "documents": done.documents,
            "sequences": done.sequences,
            "tokens": done.tokens,
            "complete": self.complete,
            "notes": [*notes, *([why] if why else [])],
        }

    @property
    def documents(self) -> np.ndarray:
        """Which text each window is of, int `[window]`."""
        return np.array([window.document for window in self.windows])

    def _do(self, batch: Batch, work: Work[T]) -> None:
        """One batch, cut in two for as long as memory runs out."""
        waiting = [batch.windows]
        while waiting:
            windows = waiting.pop()
            try:
                answers = work(Batch.of(self.corpus.adapter, windows))
            except Exception as error:
                if not out_of_memory(error) or len(windows) == 1:
                    raise
            else:
                self.windows += windows
                self.answers += answers
                continue
            # Outside the handler, whose traceback holds the tensors of the failed pass.
            half = len(windows) // 2
            self.notes.append(f"memory ran out at {len(windows)} texts in a batch; halved")
            waiting += [windows[half:], windows[:half]]

    def _check(self, batch: Batch) -> None:
        size = self.corpus.adapter.d_vocab
        for window in batch.windows:
            if max(window.ids) >= size:
                raise ArgumentError(
                    f"texts[{window.document}] has the token id {max(window.ids)}, and this model's "
                    f"vocabulary ends at {size - 1}: is the tokenizer the model's own?"
                )
