"""Activation additions in a network small enough to understand."""

from __future__ import annotations

from .data import DigitsData, load_digits_data
from .network import HookedMLP
from .study import study
from .study_result import Study
from .training import Training, train

__all__ = [
    "DigitsData",
    "HookedMLP",
    "Study",
    "Training",
    "load_digits_data",
    "study",
    "train",
]
