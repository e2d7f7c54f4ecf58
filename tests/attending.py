"""Made-up attention patterns, so that figures and pages are tested without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from synthetic import provenance

from lensprobe.running import Attention


def attention(
    tokens: Sequence[str], layers: int = 2, heads: int = 3, *, causal: bool = True, seed: int = 0
) -> Attention:
    """Random patterns with a sink; `layers` are 0, 2, 4, ... so that an index is not a layer."""
    rng = np.random.default_rng(seed)
    size = len(tokens)
    scores = rng.normal(0, 2, (layers, heads, size, size))
    scores[..., 0] += 2
    weights = np.exp(scores) * (np.tri(size) if causal else 1.0)
    weights /= weights.sum(-1, keepdims=True)
    names = [2 * index for index in range(layers)]
    previous = np.diagonal(weights, -1, 2, 3)
    table = {
        "layer": np.repeat(names, heads),
        "head": np.tile(np.arange(heads), layers),
        "entropy": (-weights * np.log(np.where(weights, weights, 1))).sum(-1).mean(-1).ravel(),
        "value": weights[..., 0].mean(-1).ravel(),
        "previous": previous.mean(-1).ravel() if size > 1 else np.nan,
        "own": np.diagonal(weights, 0, 2, 3).mean(-1).ravel(),
    }
    given = weights.sum((0, 1, 2)) / (layers * heads * (size - np.arange(size)))
    return Attention(
        provenance=provenance(site="attn.pattern", length=size, step=1 / 255, nonfinite=0),
        heads=pd.DataFrame(table),
        tokens=pd.DataFrame(
            {"position": range(size), "token": list(tokens), "id": range(size), "value": given}
        ),
        patterns=np.round(255 * weights).astype(np.uint8),
        layers=names,
    )
