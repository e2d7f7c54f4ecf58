"""What steering does, the slow way: every text read anew for every token, nothing kept or shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

import lensprobe as lp
from lensprobe import positions as where
from lensprobe.steering import SteeringVector

__all__ = ["kl_of", "recomputed"]


def recomputed(
    model: Any,
    vector: SteeringVector,
    cases: Sequence[tuple[list[int], Iterable[int]]],
    scale: float = 1.0,
) -> torch.Tensor:
    """The logits after each `(ids, chosen)`: whole texts, with the vector at `chosen` positions.

    Every case is a row with a mask of its own; float64 `[cases d_vocab]`.
    """
    longest = max(len(ids) for ids, _ in cases)
    mask = np.zeros((len(cases), longest), dtype=bool)
    for row, (ids, chosen) in enumerate(cases):
        mask[row, [int(place) for place in chosen if place < len(ids)]] = True
    edits = vector.add(scale, where.where(mask)) if mask.any() else ()
    found = lp.forward(model, [ids for ids, _ in cases], edits=edits, logits="last")
    return torch.from_numpy(found.logits).double()


def kl_of(steered: torch.Tensor, plain: torch.Tensor) -> np.ndarray:
    """KL(steered ‖ plain) of each row, written out."""
    p, q = steered.double().log_softmax(-1), plain.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).numpy()
