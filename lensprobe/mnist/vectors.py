"""The vectors of a study: what a network holds of one digit, minus what it holds of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError
from ..running import hooked
from .adapter import MLPAdapter
from .data import DigitsData

__all__ = ["chosen_images", "contrasts", "pictures", "reading"]

ROWS = 512
"""Images in one pass: activations of 512 numbers then fit in a core's cache."""
WAYS = ("first", "mean", "mean image")


def chosen_images(images: Any) -> str | int:
    """How a digit's vector is made, checked.

    Raises:
        ArgumentError: none of the ways.
    """
    if images in WAYS:
        return str(images)
    if isinstance(images, int | np.integer) and not isinstance(images, bool) and images >= 1:
        return int(images)
    raise ArgumentError(
        f'images={images!r}: "first", "mean", "mean image", or how many of the first ones.'
    )


def _selected(data: DigitsData, digit: int, images: str | int) -> np.ndarray:
    """The images that a digit's vector is read from, float32 `[images pixels]`."""
    rows = data.of(digit)
    if images == "mean image":
        return data.images[rows].mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
    count = {"first": 1, "mean": len(rows)}.get(str(images), images)
    return data.images[rows[: int(count)]]


def pictures(
    data: DigitsData, digits: Sequence[int], images: str | int
) -> Float[np.ndarray, "digits height width"]:
    """What each digit's vector is made of, averaged in pixels, to be looked at."""
    return np.stack([_selected(data, d, images).mean(0).reshape(data.shape) for d in digits])


def contrasts(
    adapter: MLPAdapter,
    data: DigitsData,
    pairs: Sequence[tuple[int, int]],
    layers: Sequence[int],
    images: str | int,
) -> dict[int, Float[Tensor, "pairs width"]]:
    """`a - b` at each layer for each pair: the difference of two (mean) activations."""
    digits = sorted({digit for pair in pairs for digit in pair})
    means = {d: _mean(adapter, _selected(data, d, images), layers) for d in digits}
    return {
        layer: torch.stack([means[a][layer] - means[b][layer] for a, b in pairs]).to(adapter.dtype)
        for layer in layers
    }


def _mean(adapter: MLPAdapter, images: np.ndarray, layers: Sequence[int]) -> dict[int, Tensor]:
    total: dict[int, Tensor] = {}
    for found, _, _ in reading(adapter, images, layers):
        for layer, activation in found.items():
            total[layer] = total.get(layer, 0) + activation.double().sum(0)
    return {layer: value / len(images) for layer, value in total.items()}


@torch.no_grad()
def reading(
    adapter: MLPAdapter, images: np.ndarray, layers: Sequence[int]
) -> Iterator[tuple[dict[int, Tensor], Tensor, slice]]:
    """Activations behind layers, logits, and which images, some images at a time."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda activation: found.__setitem__(layer, activation)

    probes = {adapter.hook_name("resid_post", layer): keep(layer) for layer in layers}
    for begin in range(0, len(images), ROWS):
        part = slice(begin, min(begin + ROWS, len(images)))
        with hooked(adapter, probes):
            logits = adapter.run(as_tensor(adapter, images[part]))
        assert logits is not None
        yield dict(found), logits, part


def as_tensor(adapter: MLPAdapter, images: np.ndarray) -> Tensor:
    """Images as the network reads them."""
    return torch.from_numpy(images).to(adapter.device, adapter.dtype)
