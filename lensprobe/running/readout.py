"""Next-token logits of many tokens, unembedded a few at a time.

The logits of a batch are the largest thing a model computes, and most of what is read off them is one
number a token. Here only the last residuals are kept, and a few tokens' logits live at a time: memory
stays flat, and every pass over them finds them in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.adapter import Adapter

__all__ = ["Outputs"]

TOKENS = 64
"""Tokens whose logits are in memory at once: as few as still use a matrix product well."""


class Outputs:
    """What a pass ends in: residuals before the final norm, or logits where those exist already.

    Args:
        adapter: of the model that was read.
        ends: float `[row pos d_model]`, or with `logits` `[row pos d_vocab]`.
        logits: whether `ends` are logits.
    """

    def __init__(self, adapter: Adapter, ends: Tensor, *, logits: bool = False) -> None:
        self.adapter = adapter
        self.ends = ends
        self.logits = logits

    def __len__(self) -> int:
        return len(self.ends)

    def of(
        self, chosen: Bool[Tensor, "row pos"], run: int = 0, times: int = 1
    ) -> Iterator[tuple[slice, Float[Tensor, "tokens d_vocab"]]]:
        """Logits of the chosen tokens, piece after piece, with which of the chosen each piece is.

        Args:
            chosen: which tokens; columns that `ends` has and `chosen` lacks are left out.
            run, times: where every text is there `times` times in a row, which of them.
        """
        own = self.ends.unflatten(0, (-1, times))[:, run, : chosen.shape[1]][chosen]
        for begin in range(0, len(own), TOKENS):
            piece = own[begin : begin + TOKENS]
            yield slice(begin, begin + len(piece)), self._unembedded(piece)

    def _unembedded(self, piece: Tensor) -> Tensor:
        if self.logits:
            return piece
        found = self.adapter.run(piece[None], start=self.adapter.n_layers)
        assert found is not None
        return found[0]


def by_row(values: Float[Tensor, " tokens"], rows: Int[Tensor, " tokens"], count: int) -> Tensor:
    """Sums over each row's tokens, float64 `[count]`."""
    sums = values.new_zeros(count, dtype=values.double().dtype)
    return sums.index_add_(0, rows, values.double())
