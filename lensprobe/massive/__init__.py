"""Massive activations: few, enormous and nearly constant numbers in the residual stream."""

from __future__ import annotations

from .anatomy import anatomy
from .anatomy_result import Anatomy
from .result import Finding, MassiveScan
from .scan import scan
from .trajectory import Trajectory, trajectory

__all__ = [
    "Anatomy",
    "Finding",
    "MassiveScan",
    "Trajectory",
    "anatomy",
    "scan",
    "trajectory",
]
