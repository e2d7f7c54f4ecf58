"""Reading one token after another over a key-value cache, edits and all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.adapter import Adapter
from ..models.cache import Cache
from ..positions import Step
from ..tokens import TokenBatch
from .batching import chunks
from .session import Session, part, prompt_step

__all__ = ["Decoder"]


class Decoder:
    """A batch of left-padded rows that grows by one column at a time.

    `start` reads the prompts, `advance` one more token each; both return the logits that predict the
    next token, float32 `[batch d_vocab]`. With `cached=False` every step reads everything again: the
    definition that the cached way must equal.
    """

    def __init__(
        self,
        session: Session,
        batch: TokenBatch,
        *,
        cached: bool,
        chunk: int | None,
        prompts: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.session = session
        self.adapter: Adapter = session.adapter
        self.step = prompt_step(batch, prompts=prompts, rows=rows)
        self.ids = batch.ids
        self.cached = cached
        self.chunk = chunk
        self.cache: Cache | None = session.new_cache(len(batch.ids)) if cached else None

    def start(self) -> Tensor:
        """Read the prompts, in chunks where one pass would take too much memory."""
        self.session.begin()
        rows, length = self.ids.shape
        ranges = chunks(self.adapter, rows, length, self.chunk, False) if self.cached else []
        for begin, end in ranges[:-1]:
            self._read(part(self.step, begin, end), self.ids[:, begin:end], None)
        begin = ranges[-1][0] if ranges else 0
        return self._read(part(self.step, begin, length), self.ids[:, begin:], "last")

    def advance(self, tokens: Tensor) -> Tensor:
        """Read one more token of every row, `tokens` Long `[batch]`."""
        self._grow(tokens)
        width = self.ids.shape[1]
        if self.cache is None:
            self.session.begin()
            return self._read(self.step, self.ids, "last")
        # A moving edit wrote into the older token's keys and values; read it again, plain.
        again = 1 if self.session.moves else 0
        self.cache.drop(again)
        begin = width - 1 - again
        step = part(self.step, begin, width, reread=again)
        return self._read(step, self.ids[:, begin:], "last")

    def _read(self, step: Step, ids: Tensor, logits: Any) -> Tensor:
        out = self.session.read(step, ids, cache=self.cache, logits=logits)
        return out[:, -1].float() if out is not None else torch.empty(0)

    def _grow(self, tokens: Tensor) -> None:
        step = self.step
        column = tokens.reshape(-1, 1)
        self.ids = torch.cat([self.ids, column.to(self.ids)], dim=1)
        place = step.positions.max(1, keepdims=True) + 1
        newest = np.zeros_like(step.newest)
        self.step = replace(
            step,
            positions=np.concatenate([step.positions, place], axis=1),
            tokens=np.concatenate([step.tokens, column.cpu().numpy()], axis=1),
            newest=np.concatenate([newest, np.ones_like(place, dtype=bool)], axis=1),
        )
