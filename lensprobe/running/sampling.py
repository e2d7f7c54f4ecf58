"""Choosing the next token: transformers' own filters, one random generator a row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..errors import ArgumentError

__all__ = ["Sampler"]


class Sampler:
    """Turns logits into tokens. See `generate` for the options.

    Raises:
        ArgumentError: an option out of range.
    """

    def __init__(
        self,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        repetition_penalty: float,
        seed: int | None,
    ) -> None:
        _check(temperature, top_k, top_p, repetition_penalty)
        self.options = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
        }
        self.greedy = temperature == 0
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.penalty = LogitsProcessorList()
        self.filters = LogitsProcessorList()
        if repetition_penalty != 1.0:
            self.penalty.append(RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
        if not self.greedy:
            self.filters.append(TemperatureLogitsWarper(float(temperature)))
            if top_k is not None:
                self.filters.append(TopKLogitsWarper(top_k))
            if top_p is not None and top_p < 1:
                self.filters.append(TopPLogitsWarper(float(top_p)))
        self.generators: list[torch.Generator] = []

    def for_rows(self, rows: Sequence[int]) -> Sampler:
        """The same options at the beginning of these rows' random numbers."""
        twin = copy.copy(self)
        twin.generators = [self._generator(row) for row in rows]
        return twin

    def facts(self) -> dict[str, Any]:
        """The options and the seed, for a result's provenance."""
        return {**self.options, "seed": None if self.greedy else self.seed}

    def choose(self, scores: Any, ids: Any, mask: Tensor) -> Tensor:
        """The next token of each row, Long `[batch]`.

        Args:
            scores: float32 `[batch d_vocab]`.
            ids: Long `[batch pos]`, left-padded; `mask` Bool over the prompts' columns.
        """
        if len(self.penalty):
            # A pad repeats the row's first real token, which is penalised anyway: the pad token
            # itself must not be.
            first = mask.long().argmax(1)
            width = mask.shape[1]
            own = ids.gather(1, first[:, None].to(ids.device))
            prompt = torch.where(mask.to(ids.device), ids[:, :width], own)
            seen: Any = torch.cat([prompt, ids[:, width:]], dim=1)
            scores = self.penalty(seen, scores)
        if self.greedy:
            return scores.argmax(-1)
        odds = self.filters(ids, scores).softmax(-1).cpu()
        pairs = zip(odds, self.generators, strict=True)
        drawn = [torch.multinomial(row, 1, generator=generator) for row, generator in pairs]
        return torch.cat(drawn).to(ids.device)

    def _generator(self, row: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, row]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _check(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
) -> None:
    for name, value in (("temperature", temperature), ("repetition_penalty", repetition_penalty)):
        if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(value):
            raise ArgumentError(f"{name}={value!r}: a finite number.")
    if top_p is not None and not isinstance(top_p, Real):
        raise ArgumentError(f"top_p={top_p!r}: a number, or None.")
    if temperature < 0:
        raise ArgumentError(f"temperature={temperature!r}: 0 (greedy) or a positive number.")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise ArgumentError(f"top_k={top_k!r}: a positive whole number, or None.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ArgumentError(f"top_p={top_p!r}: above 0 and at most 1, or None.")
    if repetition_penalty <= 0:
        raise ArgumentError(f"repetition_penalty={repetition_penalty!r}: a positive number.")
