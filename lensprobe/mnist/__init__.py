"""Activation additions in a network small enough to understand."""

from __future__ import annotations

from .beside import Beside, beside
from .data import DigitsData, load_digits_data
from .leaving import Leaving, out_of_data
from .network import HookedMLP
from .study import study
from .study_result import Study
from .training import Training, train

__all__ = [
    "Beside",
    "DigitsData",
    "HookedMLP",
    "Leaving",
    "Study",
    "Training",
    "beside",
    "load_digits_data",
    "out_of_data",
    "study",
    "train",
]
