"""Results of one kind side by side: a tidy table, paired intervals, and what was not kept equal.

`lp.compare` takes results that are there already, `lp.over` loads model after model and compares.
"""

from __future__ import annotations

from .compare import compare
from .over import over
from .result import Comparison

__all__ = ["Comparison", "compare", "over"]
