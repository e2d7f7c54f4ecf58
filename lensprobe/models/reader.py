"""Reading token ids: one forward pass, left early or not, the same for every class of model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ModelError
from .cache import Cache
from .hooks import attached

__all__ = ["Reader"]


class _Stopped(Exception):
    """Carries the residual out of a forward pass that has read enough."""


class Reader(ABC):
    """What predicts tokens: a decoder-only model, or a decoder with what its encoder has read."""

    @abstractmethod
    def new_cache(self, batch: int) -> Cache:
        """An empty key-value cache for `batch` rows."""

    @abstractmethod
    def exit_point(self, stop: int | None) -> Any:
        """The `HookPoint` at which the first `stop` blocks are done; None is all of them."""

    @abstractmethod
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor: ...

    def run(
        self,
        inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        *,
        mask: Bool[Tensor, "batch pos"] | None = None,
        positions: Int[Tensor, "batch pos"] | None = None,
        start: int = 0,
        stop: int | None = None,
        cache: Cache | None = None,
        logits: Literal["all", "last"] | None = "all",
    ) -> Tensor | None:
        """One forward pass from block `start` up to, not including, block `stop`.

        Args:
            inputs: token ids, or with `start` the residual that enters that block.
            mask: which of these tokens are real; None means all. Earlier tokens' mask is the cache's.
            positions: absolute positions; None counts real tokens from the cache's length on.
            start: first block that runs. Blocks below are not executed.
            stop: None runs everything and returns logits. Otherwise the residual after block
                `stop - 1` is returned, and `stop=n_layers` is the one before the final norm.
            cache: extended by these tokens.
            logits: `"last"` computes them for the newest column only; None returns None.

        Returns:
            Logits `[batch, pos or 1, d_vocab]`, a residual `[batch, pos, d_model]`, or None.
        """
        if logits is None and stop is None:
            self._stopping(inputs, mask, positions, start, None, cache)
            return None
        if stop is not None:
            return self._stopping(inputs, mask, positions, start, stop, cache)
        return self._forward(inputs, mask, positions, start, cache, logits or "all")

    def _stopping(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        stop: int | None,
        cache: Cache | None,
    ) -> Tensor:
        return self.left_at(
            stop, lambda: self._forward(inputs, mask, positions, start, cache, "last")
        )

    def left_at(
        self, stop: int | None, run: Callable[[], object]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual after block `stop - 1` in a pass that is left there; None is the last block.

        Raises:
            ModelError: the pass never came there.
        """

        # One mechanism for all classes: a hook that leaves the pass with what it saw. The bridge's
        # own flag returns logits for stop=n_layers.
        def leave(residual: Tensor, hook: Any) -> None:
            raise _Stopped(residual)

        point = self.exit_point(stop)
        try:
            with attached([(point, leave)]):
                run()
        except _Stopped as stopped:
            return stopped.args[0]
        raise ModelError(f"hook point {point.name!r} did not fire during the forward pass.")
