"""Mergeable statistics: what is left of a corpus after it has gone by.

Every class has `update`, `merge`, `state`, `from_state` and `result`. However the data is cut into
parts, and in whatever order the parts are merged, the answer is that of a single pass: bit for bit
for counts, extremes and rankings, to rounding for means and variances. Sums are kept in float64 and
a state holds plain numpy arrays, so that it can be written to a file and merged by another process.
"""

from __future__ import annotations

from .bundle import Bundle, Earliest
from .counting import Counts, Histogram
from .covariance import Covariance
from .fields import inside
from .intervals import difference, ends, interval, resampled
from .moments import KeyedMoments, Moments
from .ranking import TopK
from .reservoir import Reservoir
from .rows import Rows

__all__ = [
    "Bundle",
    "Counts",
    "Covariance",
    "Earliest",
    "Histogram",
    "KeyedMoments",
    "Moments",
    "Reservoir",
    "Rows",
    "TopK",
    "difference",
    "ends",
    "inside",
    "interval",
    "resampled",
]
