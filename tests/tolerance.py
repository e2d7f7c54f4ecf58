"""The one tolerance of the test suite: how equal two ways of computing the same thing must be.

Logits and log-probabilities agree to 1e-4. Residuals agree to 1e-5 of the largest magnitude, because
beside a massive activation an absolute tolerance means nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

__all__ = ["LOGITS", "RESIDUAL", "close"]

LOGITS = 1e-4
RESIDUAL = 1e-5


def close(got: Any, expected: Any, kind: Literal["logits", "residual"] = "logits") -> None:
    """Assert that two arrays (or tensors, or frame columns) are equal in the sense of this project."""
    got, expected = _array(got), _array(expected)
    assert got.shape == expected.shape, f"shapes differ: {got.shape} and {expected.shape}"
    if not got.size:
        return
    allowed = LOGITS
    if kind == "residual":
        allowed = RESIDUAL * max(float(np.nanmax(np.abs(expected))), 1e-12)
    np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
