"""How a vector settles as it is made of more pairs: the result and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..results import Result
from .citations import CAA
from .resampling import predicted_cosine

__all__ = ["Found", "Stability", "curve_table", "draws_table"]

Found = list[tuple[str, int, np.ndarray]]
"""Measure, number of pairs, and a value for each repeat."""


@dataclass(frozen=True, repr=False, eq=False)
class Stability(Result):
    """How a mean-difference vector settles as it is made of more pairs.

    Attributes:
        curve: one row a measure and number of pairs: measure ("cosine" of two vectors from disjoint
            halves of n pairs each; "log_odds", the change in log-odds of the matching answer on
            held-out questions, or "kl" from plain on texts, of a vector from n pairs), n, value
            (mean over repeats), std, low and high (2.5th and 97.5th percentile over repeats: the
            spread itself, not the error of its mean), predicted (of the cosine;
            NaN for an effect), count (repeats).
        draws: one row a measure, n and repeat: measure, n, repeat, value.
        signal: squared norm of the true mean difference, as estimated without bias.
        noise: total variance of a single pair's difference about it.
        dimensions: over how many directions that variance is spread. Where it is few, as when pairs
            differ mostly in which letter is the answer, cosines of few pairs are near 1 or -1 rather
            than near their mean, and the prediction, which takes norms as settled, is too low for many.
        pairs: how many pairs the vectors were drawn from.
    """

    kind: ClassVar[str] = "steering.stability"
    citations: ClassVar[tuple[str, ...]] = (CAA,)

    curve: pd.DataFrame
    draws: pd.DataFrame
    signal: float
    noise: float
    dimensions: float
    pairs: int

    def needed(self, cosine: float = 0.95) -> float:
        """Pairs at which two vectors are expected to have this cosine: from signal and noise.

        Raises:
            ArgumentError: a cosine outside (0, 1).
        """
        if not 0 < cosine < 1:
            raise ArgumentError(f"cosine={cosine!r}: between 0 and 1.")
        if not self.signal:
            return float("inf")
        return cosine / (1 - cosine) * self.noise / self.signal

    def summary(self) -> dict[str, Any]:
        """Pairs, noise over signal, pairs needed for 0.95, cosine and spread at the ends."""
        found: dict[str, Any] = {
            **super().summary(),
            "layer": self.provenance["layer"],
            "pairs": self.pairs,
            "noise_over_signal": self.noise / self.signal if self.signal else float("inf"),
            "noise_dimensions": self.dimensions,
            "needed_95": self.needed(),
        }
        for measure, part in self.curve.groupby("measure", sort=False):
            name = "value" if measure == "cosine" else "std"
            for n, value in zip(part["n"].iloc[[0, -1]], part[name].iloc[[0, -1]], strict=True):
                found[f"{measure}_{name}_{n}"] = float(value)
        return found


def curve_table(found: Found, signal: float, noise: float) -> pd.DataFrame:
    """See `Stability.curve`."""
    rows = []
    for name, n, values in found:
        # A set whose differences cancel gives a vector of zero, which has no cosine.
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        expected = predicted_cosine(signal, noise, n) if name == "cosine" else np.nan
        rows.append(
            {
                "measure": name,
                "n": n,
                "value": float(known.mean()) if len(known) else np.nan,
                "std": float(known.std(ddof=1)) if len(known) > 1 else np.nan,
                "low": float(low),
                "high": float(high),
                "predicted": float(expected),
                "count": len(known),
            }
        )
    return pd.DataFrame(rows)


def draws_table(found: Found) -> pd.DataFrame:
    """See `Stability.draws`."""
    parts = [
        pd.DataFrame({"measure": name, "n": n, "repeat": np.arange(len(values)), "value": values})
        for name, n, values in found
    ]
    return pd.concat(parts, ignore_index=True)
