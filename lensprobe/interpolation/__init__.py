"""Late layers that see the token that really came next, in place of the guess they made."""

from __future__ import annotations

from .generate import generate
from .generate_result import Interpolation
from .learn import LearnedWeights, learn
from .loss import loss
from .score import score
from .score_result import InterpolatedScore
from .surprise import Surprise, surprise
from .sweep import InterpolationSweep, sweep
from .trace import trace
from .trace_result import Trace

__all__ = [
    "InterpolatedScore",
    "Interpolation",
    "InterpolationSweep",
    "LearnedWeights",
    "Surprise",
    "Trace",
    "generate",
    "learn",
    "loss",
    "score",
    "surprise",
    "sweep",
    "trace",
]
