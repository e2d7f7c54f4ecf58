"""What is read off attention patterns. Pure functions, no model."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["attention_to"]


def attention_to(
    pattern: Float[Tensor, "batch head query key"],
    real: Bool[Tensor, "batch query"],
    keys: int,
) -> Float[Tensor, "batch head keys"]:
    """Mean over real queries t >= k of A[t, k], for each of the first `keys` keys.

    t = k is included (Gu et al. 2410.10781, eq. 2). NaN where a sequence has no token k.
    """
    width = min(keys, pattern.shape[-1])
    query = torch.arange(pattern.shape[2], device=pattern.device)
    counted = real[:, :, None] & (query[:, None] >= query[:width])
    # Rows of pads look like any other row; where, because a NaN among them times zero is NaN.
    first = pattern[..., :width].float()
    total = torch.where(counted[:, None], first, 0.0).sum(2)
    mean = total / counted.sum(1)[:, None]
    return torch.nn.functional.pad(mean, (0, keys - width), value=torch.nan)
