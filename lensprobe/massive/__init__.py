"""Massive activations: few, enormous and nearly constant numbers in the residual stream."""

from __future__ import annotations

from .ablate import ablate
from .ablate_result import Ablate
from .anatomy import anatomy
from .anatomy_result import Anatomy
from .bos_pull import BosPull, bos_pull
from .gradient import gradient
from .gradient_result import Gradient
from .rescale import Rescale, rescale
from .result import Finding, MassiveScan
from .scan import scan
from .tokens import tokens
from .tokens_result import TokenStudy
from .training import (
    CheckpointSeries,
    FreezeMoment,
    Recipe,
    ScaleMoment,
    TrainingWatch,
    WarmStart,
    ZeroMoment,
    over_checkpoints,
    train_and_watch,
    untrained,
)
from .trajectory import Trajectory, trajectory

__all__ = [
    "Ablate",
    "Anatomy",
    "BosPull",
    "CheckpointSeries",
    "Finding",
    "FreezeMoment",
    "Gradient",
    "MassiveScan",
    "Recipe",
    "Rescale",
    "ScaleMoment",
    "TokenStudy",
    "TrainingWatch",
    "Trajectory",
    "WarmStart",
    "ZeroMoment",
    "ablate",
    "anatomy",
    "bos_pull",
    "gradient",
    "over_checkpoints",
    "rescale",
    "scan",
    "tokens",
    "train_and_watch",
    "trajectory",
    "untrained",
]
