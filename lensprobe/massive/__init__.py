"""Massive activations: few, enormous and nearly constant numbers in the residual stream."""

from __future__ import annotations

from .result import Finding, MassiveScan
from .scan import scan
from .trajectory import Trajectory, trajectory

__all__ = ["Finding", "MassiveScan", "Trajectory", "scan", "trajectory"]
