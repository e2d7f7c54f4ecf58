"""Which queries' scores for one key rise, fall, and are positive. Pure functions, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Counted", "counted"]

STILL = 8
"""Rounding steps of a score within which it has not moved."""


@dataclass(frozen=True)
class Counted:
    """One sequence in one layer, or stacked, in all of them.

    Attributes:
        rises, falls: `[change head]`, queries whose score for the position goes up or down.
        moved: `[change head]`, change in attention to it, summed over queries.
        queries: `[head]`, how many queries see the position.
        positive, next_positive: `[head]`, share of them with a positive score for it, and for the key
            behind it; NaN without queries.
    """

    rises: np.ndarray
    falls: np.ndarray
    moved: np.ndarray
    queries: np.ndarray
    positive: np.ndarray
    next_positive: np.ndarray

    @classmethod
    def stack(cls, layers: Sequence[Counted]) -> Counted:
        """A new first axis for layers."""
        return cls(*(np.stack([getattr(n, field.name) for n in layers]) for field in fields(cls)))


def counted(
    scores: Float[Tensor, "batch head query key"],
    pattern: Float[Tensor, "batch head query key"],
    real: Bool[Tensor, "row key"],
    position: int,
    times: int,
) -> list[Counted]:
    """Each sequence's counts. Of its `times` rows in the batch the first is plain.

    Args:
        scores: before the softmax; masked pairs are -inf or the dtype's lowest number.
        pattern: after it. Queries are the last ones of the keys.
        real: which tokens are real.
    """
    rows, width = real.shape
    behind = width - scores.shape[2]
    place = torch.arange(behind, width, device=scores.device)
    lowest = torch.finfo(scores.dtype).min / 2

    def of_key(key: int) -> tuple[Tensor, Tensor]:
        """Scores `[row time head query]` for one key, and which of the plain ones count."""
        own = scores[..., key].float().unflatten(0, (rows, times))
        asked = (real.to(scores.device)[:, behind:] & (place > key))[:, None]
        return own, asked & (own[:, 0] > lowest)

    own, seen = of_key(position)
    change = own[:, 1:] - own[:, :1]
    still = STILL * torch.finfo(torch.float32).eps * own[:, :1].abs()
    paid = pattern[..., position].float().unflatten(0, (rows, times))
    found = {
        "rises": (change > still) & seen[:, None],
        "falls": (change < -still) & seen[:, None],
        "moved": torch.where(seen[:, None], paid[:, 1:] - paid[:, :1], 0.0),
        "queries": seen,
    }
    numbers = {name: part.double().sum(-1).cpu().numpy() for name, part in found.items()}
    numbers["positive"] = _positive(own, seen)
    end = torch.full(seen.shape[:2], torch.nan).numpy()
    numbers["next_positive"] = _positive(*of_key(position + 1)) if position + 1 < width else end
    return [Counted(**{k: v[row] for k, v in numbers.items()}) for row in range(rows)]


def _positive(own: Tensor, seen: Tensor) -> np.ndarray:
    """`[row head]`, NaN without queries."""
    above = ((own[:, 0] > 0) & seen).double().sum(-1)
    return (above / seen.double().sum(-1)).cpu().numpy()
