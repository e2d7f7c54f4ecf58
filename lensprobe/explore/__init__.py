"""Widgets for a notebook: move a slider, and see what the model does and writes then.

They need `pip install "lensprobe[explore]"`.
"""

from .interpolation import interpolation
from .rescale import rescale
from .rescaled import Rescaled
from .steered import Steered
from .steering import steering

__all__ = ["Rescaled", "Steered", "interpolation", "rescale", "steering"]
