"""What training does to a massive activation."""

from __future__ import annotations

from .checkpoints import CheckpointSeries, over_checkpoints
from .moments import FreezeMoment, ScaleMoment, WarmStart, ZeroMoment
from .recipes import Recipe
from .result import TrainingWatch
from .scratch import untrained
from .train import train_and_watch

__all__ = [
    "CheckpointSeries",
    "FreezeMoment",
    "Recipe",
    "ScaleMoment",
    "TrainingWatch",
    "WarmStart",
    "ZeroMoment",
    "over_checkpoints",
    "train_and_watch",
    "untrained",
]
