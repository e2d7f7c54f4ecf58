"""Keys and values of earlier tokens, the same for both model classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["Cache"]


class Cache(ABC):
    """Keys and values of the tokens read so far, and which of those tokens are real.

    `mask` is Bool `[batch, past]`, or None while every token fed was real.
    """

    length: int = 0
    mask: Bool[Tensor, "batch past"] | None = None

    @abstractmethod
    def drop(self, count: int) -> None:
        """Forget the newest `count` tokens of every row."""

    @abstractmethod
    def repeated(self, times: int, start: int = 0) -> Cache:
        """A copy with every row `times` times in a row, for passes from block `start` on.

        This one stays as it is. Blocks below `start` will not be read, and are not copied.
        """

    @abstractmethod
    def held(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each block, `[batch past kv_head d_head]`.

        Keys are as the class keeps them: in a rotary model a bridge's are turned already, the other
        class's are not. At position 0 the turn is none, and both are the same.
        """

    @abstractmethod
    def hold(self, entries: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Begin with keys and values that no token was read for; the cache is empty before."""

    def expect(self, tokens: int) -> None:  # noqa: B027 - a hint, which a class may ignore
        """Make room, once, for rows of this many tokens; said before the first pass."""

    def _like(self, other: Cache, times: int) -> Cache:
        other.length = self.length
        other.mask = None if self.mask is None else self.mask.repeat_interleave(times, dim=0)
        return other

    def extend_mask(
        self, mask: Bool[Tensor, "batch pos"] | None, batch: int, new: int, device: torch.device
    ) -> Bool[Tensor, "batch total"] | None:
        """The mask over past and new tokens, or None when all of them are real."""
        if mask is None and self.mask is None:
            return None
        past = self.mask
        if past is None:
            past = torch.ones(batch, self.length, dtype=torch.bool, device=device)
        if mask is None:
            mask = torch.ones(batch, new, dtype=torch.bool, device=device)
        return torch.cat([past, mask.to(device)], dim=1)
