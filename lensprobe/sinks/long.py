"""Long contexts: in which columns a batch is read, and whether reading it whole would fit."""

from __future__ import annotations

from ..corpus import Batch
from ..costs import free_memory
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..running.batching import chunks

__all__ = ["Columns", "pattern_bytes"]

COPIES = 4
"""Tensors of the size of a layer's pattern that are alive at once: scores, their masked copy, the
float32 softmax, and what a reading makes of it."""


def pattern_bytes(adapter: Adapter, rows: int, queries: int, keys: int) -> int:
    """Bytes that attention takes at its peak when so many queries are read in one pass."""
    return 4 * COPIES * rows * adapter.n_heads * queries * keys


class Columns:
    """Column ranges of each batch: as many tokens at a time as `chunk` says, or as fit.

    A pattern in memory is then chunk x T and never T x T. Under the user's own hooks, which must
    see whole passes, and with a chunk as long as the text, batches are read whole.
    """

    def __init__(self, adapter: Adapter, chunk: int | None) -> None:
        self.adapter = adapter
        self.chunk = chunk
        # Told now, before a text is read, if it is no number of tokens.
        chunks(adapter, 1, 1, chunk, False)

    def __call__(self, batch: Batch) -> list[tuple[int, int]]:
        """The ranges of one batch.

        Raises:
            MemoryError: a batch of several rows that would not fit; it is split.
            ArgumentError: a single text that would not fit when read in this way.
        """
        rows, length = batch.tokens.ids.shape
        found = chunks(self.adapter, rows, length, self.chunk, False)
        longest = max(end - begin for begin, end in found)
        self._require(rows, longest, length)
        return found

    def _require(self, rows: int, queries: int, keys: int) -> None:
        needed = pattern_bytes(self.adapter, rows, queries, keys)
        free = free_memory(self.adapter.device)
        if free is None or needed < free:
            return
        if rows > 1:
            raise MemoryError
        advice = (
            "hooks of your own need whole passes; pass a smaller length, or remove them"
            if self.adapter.user_hooks()
            else "leave chunk out, or pass a smaller one"
        )
        raise ArgumentError(
            f"chunk={self.chunk!r}: reading {queries:,} of {keys:,} tokens at once takes about "
            f"{needed / 1e9:.1f} GB for attention; {free / 1e9:.1f} GB are free: {advice}."
        )
