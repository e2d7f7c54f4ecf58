"""Late layers that see the token that really came next, in place of the guess they made."""

from __future__ import annotations

from .generate import generate
from .generate_result import Interpolation

__all__ = ["Interpolation", "generate"]
