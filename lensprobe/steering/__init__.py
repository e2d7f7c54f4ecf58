"""Activation additions: vectors, where they are added, and what adding them does."""

from __future__ import annotations

from .layered import SteeringVectors
from .vector import SteeringVector

__all__ = ["SteeringVector", "SteeringVectors"]
