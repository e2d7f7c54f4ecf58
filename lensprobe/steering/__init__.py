"""Activation additions: vectors, where they are added, and what adding them does."""

from __future__ import annotations

from .calibration import Calibration, calibrate
from .contrast import contrast
from .depth import DepthComparison, compare_depth
from .difference import difference
from .layered import SteeringVectors
from .making import from_tensor
from .mixing import mixing
from .persistence import PersistenceComparison, compare_persistence
from .placement import PositionsComparison, compare_positions
from .questions import Question, Questions, questions
from .sites import SitesComparison, compare_sites
from .stability import stability
from .stability_result import Stability
from .stacks import StackComparison, compare_stacks
from .sweep import sweep
from .sweep_result import Sweep
from .vector import SteeringVector

__all__ = [
    "Calibration",
    "DepthComparison",
    "PersistenceComparison",
    "PositionsComparison",
    "Question",
    "Questions",
    "SitesComparison",
    "Stability",
    "StackComparison",
    "SteeringVector",
    "SteeringVectors",
    "Sweep",
    "calibrate",
    "compare_depth",
    "compare_persistence",
    "compare_positions",
    "compare_sites",
    "compare_stacks",
    "contrast",
    "difference",
    "from_tensor",
    "mixing",
    "questions",
    "stability",
    "sweep",
]
