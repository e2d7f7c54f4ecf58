"""Every pair of digits, layer and coefficient: what an activation addition does to the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, Interrupted
from ..settings import checked_seed
from .adapter import network_adapter
from .data import CLASSES, DigitsData
from .distances import Distances, distances
from .fitting import checked_fit, checked_pairs, checked_scales
from .study_result import Study, study_result
from .study_run import Run
from .vectors import chosen_images, contrasts, pictures

__all__ = ["study"]


def study(
    model: Any,
    data: DigitsData,
    *,
    pairs: Sequence[tuple[int, int]] | Literal["all"] = "all",
    layers: int | Sequence[int] | Literal["all"] = "all",
    scales: Sequence[float] = (1.0,),
    images: Literal["first", "mean", "mean image"] | int = "first",
    n: int = 64,
    seed: int | None = None,
    progress: bool | None = None,
) -> Study:
    """Add `a - b` behind a layer for every test image, for each pair of digits (a, b).

    The public note on activation additions in MNIST takes the first training image of each digit and
    coefficient 1. Layers are those of `HookedMLP`: 0 the first linear map, 1 its ReLU, and so on.

    Args:
        model: a `HookedMLP`.
        data: from `load_digits_data`.
        pairs: ordered pairs of digits; `"all"` is every pair of different ones.
        layers: where the vector is added, each layer alone.
        scales: coefficients.
        images: what a digit's vector is read from: its `"first"` training image, the mean over how many
            of the first ones, `"mean"` over all (the class-mean direction), or `"mean image"`, the
            activation of the average image, which is not an average activation behind a ReLU.
        n: test images whose distance from the training data is measured; 0 leaves it out.
        seed: which ones; None is 0.

    Raises:
        ArgumentError: a digit that does not occur in the data, a layer out of range, images that do
            not fit the network, a coefficient that is not finite.
        ModelError: the model is no `HookedMLP`.
        Interrupted: Ctrl-C; `.partial` is the study of the test images that were read.

    Examples:
        >>> data = lp.mnist.load_digits_data()
        >>> network = lp.mnist.HookedMLP((64, 32, 32, 10))
        >>> lp.mnist.study(network, data, pairs=[(3, 1)], layers=0, n=0).square("loss").shape
        (2, 2)
    """
    adapter = network_adapter(model, "lp.mnist.study")
    checked_fit(adapter, data)
    chosen, places = checked_pairs(pairs, data), adapter.layers(layers)
    strengths, way = checked_scales(scales), chosen_images(images)
    picked = sample(data, n, seed)
    vectors = contrasts(adapter, data, chosen, places, way)
    run = Run(adapter, data, vectors, strengths)
    complete = run.all(progress)
    if not run.read:
        raise Interrupted("interrupted before the first images were read.")
    measured = measure_distances(run, picked) if complete and len(picked) else None
    digits = sorted({digit for pair in chosen for digit in pair})
    shown = np.full((CLASSES, *data.shape), np.nan, np.float32)
    shown[digits] = pictures(data, digits, way)
    facts = {
        **adapter.provenance(),
        **data.facts(),
        "layers": list(places),
        "scales": list(strengths),
        "vectors": way if isinstance(way, str) else f"mean of the first {way}",
        "read": run.read,
        "measured": len(picked) if measured else 0,
        "seed": checked_seed(seed) or 0,
        "complete": complete,
        "notes": run.notes,
    }
    result = study_result(run, chosen, strengths, shown, measured, facts)
    if not complete:
        raise Interrupted(
            f"interrupted after {run.read} of {len(data.test_images)} images.", partial=result
        )
    return result


def sample(data: DigitsData, n: int, seed: int | None, *, least: int = 0) -> np.ndarray:
    """Indices of `n` test images, or of all where there are fewer.

    Raises:
        ArgumentError: no whole number from `least` on.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        raise ArgumentError(f"n={n!r}: a whole number from {least} on.")
    order = np.random.default_rng(checked_seed(seed) or 0).permutation(len(data.test_images))
    return np.sort(order[:n])


def measure_distances(run: Run, picked: np.ndarray) -> tuple[dict[int, Distances], np.ndarray]:
    """Distances under every vector and coefficient of a run, on these test images."""
    steps = {layer: _steps(run, vectors) for layer, vectors in run.vectors.items()}
    return distances(run.adapter, run.data, steps, picked)[0], picked


def _steps(run: Run, vectors: Float[Tensor, "pairs width"]) -> Float[Tensor, "variants width"]:
    return (vectors[:, None] * run.scales[:, None]).flatten(0, 1)
