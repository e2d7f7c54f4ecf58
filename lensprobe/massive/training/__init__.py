"""What training does to a massive activation."""

from __future__ import annotations

from .moments import FreezeMoment, ScaleMoment, WarmStart, ZeroMoment
from .recipes import Recipe
from .result import TrainingWatch
from .train import train_and_watch

__all__ = [
    "FreezeMoment",
    "Recipe",
    "ScaleMoment",
    "TrainingWatch",
    "WarmStart",
    "ZeroMoment",
    "train_and_watch",
]
