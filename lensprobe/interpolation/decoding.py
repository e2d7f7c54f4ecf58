"""Reading token after token with blended residuals, two tokens a step over a cache cropped by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ..models.adapter import Adapter
from ..running.batching import chunks
from ..running.decoding import Decoder
from ..running.session import Session, part
from ..tokens import TokenBatch
from .content import Content

__all__ = ["BlendDecoder", "PlainDecoder"]


class PlainDecoder(Decoder):
    """The plain model, which keeps how likely it found each token that came.

    Attributes:
        probability: float32 `[batch pos]`, of the token after each; nothing known at the newest.
    """

    def __init__(
        self,
        adapter: Adapter,
        batch: TokenBatch,
        *,
        cached: bool,
        chunk: int | None,
        rows: Sequence[int],
    ) -> None:
        super().__init__(Session(adapter), batch, cached=cached, chunk=chunk, rows=np.asarray(rows))
        self.probability = torch.zeros(batch.ids.shape, device=batch.ids.device)
        self._scores = torch.empty(0)

    @override
    def start(self) -> Tensor:
        rows, width = self.ids.shape
        ranges = (
            chunks(self.adapter, rows, width, self.chunk, True) if self.cached else [(0, width)]
        )
        for begin, end in ranges:
            step = part(self.step, begin, end)
            out = self.session.read(step, self.ids[:, begin:end], cache=self.cache)
            assert out is not None
            following = self.ids[:, begin + 1 : end + 1]
            self._scores = out[:, -1].float()
            self.probability[:, begin : begin + following.shape[1]] = _of(out, following)
        return self._scores

    @override
    def advance(self, tokens: Tensor) -> Tensor:
        self.probability[:, -1] = _of(self._scores[:, None], tokens[:, None])[:, 0]
        self.probability = torch.nn.functional.pad(self.probability, (0, 1))
        self._scores = super().advance(tokens)
        return self._scores


class BlendDecoder(Decoder):
    """A `Decoder` whose older tokens are blended from some layers up, and whose newest never is.

    The cache holds what later tokens see of every token but the newest, and the newest token as it
    predicts. When the next one comes, the newest is dropped and read again, blended, together with
    it. With `cached=False` everything is read anew each step: the definition.

    Args:
        session: has `content`'s hooks, and is entered by the caller.
        plain: with `below`, the plain model on the same rows.
    """

    def __init__(
        self,
        session: Session,
        batch: TokenBatch,
        content: Content,
        *,
        cached: bool,
        chunk: int | None,
        rows: Sequence[int],
        plain: PlainDecoder | None = None,
    ) -> None:
        super().__init__(session, batch, cached=cached, chunk=chunk, rows=np.asarray(rows))
        self.content = content
        self.plain = plain

    @override
    def start(self) -> Tensor:
        if self.plain is not None:
            self.plain.start()
        rows, width = self.ids.shape
        ranges = chunks(self.adapter, rows, width, self.chunk, False) if self.cached else []
        for begin, end in ranges[:-1]:
            self._pass(begin, end, None)
        return self._pass(ranges[-1][0] if ranges else 0, width, "last")

    @override
    def advance(self, tokens: Tensor) -> Tensor:
        if self.plain is not None:
            self.plain.advance(tokens)
        self._grow(tokens)
        width = self.ids.shape[1]
        return self._pass(width - 1 if self.cached else 0, width, "last")

    def _pass(self, begin: int, end: int, logits: Any) -> Tensor:
        """Read columns, and before them the newest of those already read."""
        again = 1 if begin else 0
        if self.cache is not None:
            self.cache.drop(again)
        begin -= again
        step, ids = part(self.step, begin, end, reread=again), self.ids[:, begin:end]
        known = None if self.plain is None else self.plain.probability[:, begin:end]
        self.content.announce(step, ids, known)
        try:
            return self._read(step, ids, logits)
        finally:
            self.content.rest()


def _of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Probability of each token, float32 `[batch pos]`, row by row so that no copy of all is made."""
    found = torch.zeros(tokens.shape, device=logits.device)
    for row in range(len(tokens)):
        scores = logits[row, : tokens.shape[1]].float()
        picked = scores.gather(-1, tokens[row][:, None].to(scores.device))[:, 0]
        found[row] = (picked - scores.logsumexp(-1)).exp()
    return found
