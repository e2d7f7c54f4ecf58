"""Results of one kind side by side: a tidy table, paired intervals, and what was not kept equal.

`lp.compare` takes results that are there already, `lp.over` loads model after model and compares;
`lp.side_by_side` sets what several runs wrote beside each other.
"""

from __future__ import annotations

from .compare import compare
from .generations import Generations, side_by_side
from .over import over
from .result import Comparison

__all__ = ["Comparison", "Generations", "compare", "over", "side_by_side"]
