"""Activation additions: vectors, where they are added, and what adding them does."""

from __future__ import annotations

from .contrast import contrast
from .difference import difference
from .layered import SteeringVectors
from .making import from_tensor
from .mixing import mixing
from .questions import Question, Questions, questions
from .sweep import sweep
from .sweep_result import Sweep
from .vector import SteeringVector

__all__ = [
    "Question",
    "Questions",
    "SteeringVector",
    "SteeringVectors",
    "Sweep",
    "contrast",
    "difference",
    "from_tensor",
    "mixing",
    "questions",
    "sweep",
]
