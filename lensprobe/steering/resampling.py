"""How noisy a mean of many differences is: halves, bootstrap draws, what theory says."""

from __future__ import annotations

import numpy as np

__all__ = [
    "draws",
    "noise_dimensions",
    "predicted_cosine",
    "signal_and_noise",
    "split_half_cosines",
]


def split_half_cosines(
    differences: np.ndarray, n: int, repeats: int, generator: np.random.Generator
) -> np.ndarray:
    """Cosines between the means of two disjoint random halves of `n` pairs each, `[repeats]`.

    Args:
        differences: float `[pairs width]`, at least `2 n` pairs.
    """
    found = np.empty(repeats)
    for index in range(repeats):
        chosen = generator.permutation(len(differences))[: 2 * n]
        one, two = differences[chosen[:n]].mean(0), differences[chosen[n:]].mean(0)
        length = np.linalg.norm(one) * np.linalg.norm(two)
        found[index] = one @ two / length if length else np.nan
    return found


def draws(
    differences: np.ndarray, n: int, repeats: int, generator: np.random.Generator
) -> np.ndarray:
    """Means of `n` pairs drawn with replacement, `[repeats width]`.

    With replacement, because a mean of all pairs would otherwise seem to have no spread at all: that
    of the data set it was drawn from is what is asked about.
    """
    chosen = generator.integers(len(differences), size=(repeats, n))
    return np.stack([differences[row].mean(0) for row in chosen])


def signal_and_noise(differences: np.ndarray) -> tuple[float, float]:
    """The squared norm of the true mean difference, and the total variance of one pair about it.

    Both without bias: the squared norm of the observed mean is too large by the variance over the
    number of pairs. A signal that comes out below zero is 0.
    """
    count = len(differences)
    noise = float(differences.var(0, ddof=1).sum())
    return max(0.0, float(np.square(differences.mean(0)).sum()) - noise / count), noise


def noise_dimensions(differences: np.ndarray) -> float:
    """Over how many directions the pairs' variance is spread: (Σ λ)² / Σ λ² of its eigenvalues λ.

    The participation ratio; 1 where all of it lies along one direction, NaN where there is none.
    """
    centred = differences - differences.mean(0)
    # The pairs' Gram matrix has the same eigenvalues as the covariance, and is often the smaller.
    gram = centred @ centred.T
    square = float(np.square(gram).sum())
    return float(np.trace(gram) ** 2 / square) if square else float("nan")


def predicted_cosine(signal: float, noise: float, n: int | np.ndarray) -> np.ndarray:
    """The cosine expected between two independent means of `n` pairs: signal / (signal + noise / n).

    The numerator is the expected product of the two means, the denominator the expected square of
    each; exact where the variance is spread over many directions, so that norms hardly vary.

    >>> predicted_cosine(1.0, 4.0, 4).item()
    0.5
    """
    total = signal + noise / np.asarray(n, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(signal / total)
