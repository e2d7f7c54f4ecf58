"""Edits around the user's own calls of the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..edits import Edit
from ..errors import ArgumentError
from ..interrupts import uninterrupted
from ..models.adapter import adapter_for
from ..positions import Step
from .session import Session

__all__ = ["editing"]


@contextmanager
def editing(model: Any, edits: Edit | Iterable[Edit]) -> Iterator[Any]:
    """Within this block every call of the model is edited: `model(ids)`, `run_with_cache`, `generate`.

    A pass over an empty cache begins a new prompt, and all its tokens belong to it; a pass over a
    filled cache reads generated tokens. Gradients flow through the edits. `last()` needs
    `lp.generate`, which can read a token twice.

    >>> quiet = lp.Scale(layers=2, dim=447, factor=0.0, positions=lp.positions.front(1))
    >>> with lp.editing(model, quiet):                                        # doctest: +SKIP
    ...     logits = model(tokens)

    Raises:
        ArgumentError: an edit that does not fit the model, or moves while a cache is in use.
        ModelError: an encoder-decoder model.
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.editing")
    # The user's own edits: passes are not shortened under them, and results name their hook points.
    session = Session(adapter, edits, ours=False)
    tokenizer = getattr(model, "tokenizer", None)
    prompts = np.zeros(0, dtype=int)
    read = np.zeros(0, dtype=int)

    def before(ids: Tensor, mask: Tensor | None, past: int) -> None:
        nonlocal prompts, read
        tokens = ids.detach().cpu().numpy()
        real = _real(mask, tokens.shape)
        if past and session.moves:
            raise ArgumentError("positions=last() over a cache needs lp.generate; see lp.editing.")
        if past and len(read) != len(tokens):
            raise ArgumentError("a cache filled outside lp.editing: read the prompt inside it too.")
        if past == 0:
            read = np.zeros(len(tokens), dtype=int)
        lengths = read + real.sum(1)
        fresh = past == 0
        if fresh:
            prompts = lengths
        positions = np.where(real, read[:, None] + real.cumsum(1) - 1, -1)
        step = Step(
            positions=positions,
            tokens=tokens,
            prompts=prompts,
            newest=positions == lengths[:, None] - 1,
            rows=np.arange(len(tokens)),
            tokenizer=tokenizer,
        )
        if fresh:
            session.check_texts(len(tokens))
            session.check(step)
            session.begin()
        session.step, read = step, lengths

    removers = []
    try:
        with uninterrupted():
            removers.append(adapter.watch(before))
        with session:
            yield model
    finally:
        with uninterrupted():
            for remove in removers:
                remove()


def _real(mask: Tensor | None, shape: tuple[int, ...]) -> np.ndarray:
    """Which of the new tokens are real, from a mask over past and new ones (2-D) or none at all."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return np.ones(shape, dtype=bool)
    return mask[:, -shape[1] :].bool().cpu().numpy()
