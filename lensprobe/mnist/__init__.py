"""Activation additions in a network small enough to understand."""

from __future__ import annotations

from .data import DigitsData, load_digits_data
from .network import HookedMLP
from .training import Training, train

__all__ = ["DigitsData", "HookedMLP", "Training", "load_digits_data", "train"]
