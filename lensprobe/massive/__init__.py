"""Massive activations: few, enormous and nearly constant numbers in the residual stream."""

from __future__ import annotations

from .result import Finding, MassiveScan
from .scan import scan

__all__ = ["Finding", "MassiveScan", "scan"]
