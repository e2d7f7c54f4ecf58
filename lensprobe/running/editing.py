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
from ..interrupts import undoing, uninterrupted
from ..models.adapter import adapter_for
from ..models.stacks import StackName
from ..positions import Step
from .session import Session

__all__ = ["editing"]


@contextmanager
def editing(model: Any, edits: Edit | Iterable[Edit]) -> Iterator[Any]:
    """Within this block every call of the model is edited: `model(ids)`, `run_with_cache`, `generate`.

    A pass over an empty cache begins a new prompt, and all its tokens belong to it; a pass over a
    filled cache reads generated tokens. Gradients flow through the edits. `last()` needs
    `lp.generate`, which can read a token twice. In an encoder-decoder the encoder's tokens are all
    prompt, and the decoder's prompt is its start token.

    Raises:
        ArgumentError: an edit that does not fit the model, or moves while a cache is in use.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.

    Examples:
        >>> off = lp.Scale(factor=0.0, layers=1, dim=447, positions=lp.positions.front(1))
        >>> with lp.editing(model, off):
        ...     scan = lp.massive.scan(model, "The cat sat on the mat.")
        >>> len(scan.findings)
        0
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.editing")
    # The user's own edits: passes are not shortened under them, and results name their hook points.
    session = Session(adapter, edits, ours=False)
    tokenizer = getattr(model, "tokenizer", None)
    # Of each stack: prompt lengths, and how many tokens of each row have been read.
    prompts: dict[StackName, np.ndarray] = {}
    read: dict[StackName, np.ndarray] = {}

    def announced(ids: Tensor, mask: Tensor | None, past: int, stack: StackName) -> None:
        tokens = ids.detach().cpu().numpy()
        real = _real(mask, tokens.shape)
        if past and session.moves:
            raise ArgumentError("positions=last() over a cache needs lp.generate; see lp.editing.")
        if past and len(read.get(stack, ())) != len(tokens):
            raise ArgumentError("a cache filled outside lp.editing: read the prompt inside it too.")
        fresh = past == 0
        before = np.zeros(len(tokens), dtype=int) if fresh else read[stack]
        lengths = before + real.sum(1)
        if fresh:
            prompts[stack] = np.ones_like(lengths) if stack == "decoder" else lengths
        positions = np.where(real, before[:, None] + real.cumsum(1) - 1, -1)
        step = Step(
            positions=positions,
            tokens=tokens,
            prompts=prompts[stack],
            newest=positions == lengths[:, None] - 1,
            rows=np.arange(len(tokens)),
            tokenizer=tokenizer,
            reach=np.full_like(lengths, adapter.context) if stack == "decoder" else None,
        )
        if fresh:
            session.check_texts(len(tokens))
            session.check(step, stack=stack)
            session.begin(stack)
        session.step, read[stack] = step, lengths

    removers = []

    def leave() -> None:
        for remove in removers:
            remove()

    with undoing(leave):
        with uninterrupted():
            removers.append(adapter.watch(announced))
        with session:
            yield model


def _real(mask: Tensor | None, shape: tuple[int, ...]) -> np.ndarray:
    """Which of the new tokens are real, from a mask over past and new ones (2-D) or none at all."""
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return np.ones(shape, dtype=bool)
    return mask[:, -shape[1] :].bool().cpu().numpy()
