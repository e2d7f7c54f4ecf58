"""Activation additions: vectors, where they are added, and what adding them does."""

from __future__ import annotations

from .layered import SteeringVectors
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
    "questions",
    "sweep",
]
