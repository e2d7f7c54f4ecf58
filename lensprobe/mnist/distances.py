"""How far an edited activation leaves the data, in units of the spread within the classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .adapter import MLPAdapter
from .data import CLASSES, DigitsData
from .vectors import reading

__all__ = ["Distances", "distances"]


@dataclass(frozen=True)
class Distances:
    """One layer. Lengths are in class spreads; index 0 of `variants` is the unedited network.

    Attributes:
        spread: root mean square distance of training activations from their class's mean, in the
            layer's own units.
        length: float64 `[variants]`, of what is added.
        norm: float64 `[variants images]`, of the edited activation.
        distance: float64 `[variants images]`, from it to the nearest training activation.
        nearest: int64 `[variants images]`, which training image that is.
    """

    spread: float
    length: np.ndarray
    norm: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray


@torch.no_grad()
def distances(
    adapter: MLPAdapter,
    data: DigitsData,
    steps: dict[int, Float[Tensor, "variants width"]],
    chosen: np.ndarray,
) -> tuple[dict[int, Distances], Float[np.ndarray, "images classes"]]:
    """Distances of some test images, edited by each step, from all training images.

    One pass over the training images: `|h + v - r|² = |h - r|² - 2 v·r + (2 v·h + |v|²)`, where only
    the middle term meets a training image and a vector.

    Args:
        adapter: of the network.
        data: whose training images are the data.
        steps: what is added behind each layer.
        chosen: indices of test images.

    Returns:
        `Distances` of each layer, and the logits of the training images.
    """
    layers = sorted(steps)
    images = data.test_images[chosen]
    found = list(reading(adapter, images, layers))
    held = {layer: torch.cat([_plain(part[layer]) for part, _, _ in found]) for layer in layers}
    searches = {layer: _Search(held[layer], steps[layer]) for layer in layers}
    logits = np.empty((len(data.images), adapter.d_vocab), np.float32)
    for activations, scores, part in reading(adapter, data.images, layers):
        logits[part] = scores.float().cpu()
        for layer, search in searches.items():
            search.add(_plain(activations[layer]), data.labels[part], part.start)
    return {layer: search.done() for layer, search in searches.items()}, logits


def _plain(activations: Tensor) -> Tensor:
    return activations.float().cpu()


class _Search:
    """The nearest training activation of each edited one so far."""

    def __init__(self, held: Tensor, steps: Tensor) -> None:
        # Squares are taken around the images themselves, where they are small.
        self.centre = held.mean(0)
        self.raw = held
        self.held = held - self.centre
        self.steps = torch.cat([torch.zeros_like(steps[:1]), steps]).float().cpu()
        self.best = torch.full((len(self.steps), len(held)), torch.inf)
        self.nearest = torch.zeros_like(self.best, dtype=torch.long)
        self.count = torch.zeros(CLASSES, dtype=torch.float64)
        self.sums = torch.zeros(CLASSES, held.shape[1], dtype=torch.float64)
        self.squares = 0.0

    def add(self, references: Tensor, labels: np.ndarray, begin: int) -> None:
        """Some more training activations."""
        moved = references - self.centre
        apart = moved.square().sum(1) - 2 * self.held @ moved.T
        along = 2 * self.steps @ moved.T
        for variant, shift in enumerate(along):
            low, where = (apart - shift).min(1)
            better = low < self.best[variant]
            self.best[variant][better] = low[better]
            self.nearest[variant][better] = where[better] + begin
        index, exact = torch.from_numpy(labels), moved.double()
        self.count += torch.bincount(index, minlength=CLASSES)
        self.sums.index_add_(0, index, exact)
        self.squares += float(exact.square().sum())

    def done(self) -> Distances:
        between = (self.sums.square().sum(1) / self.count.clamp(min=1)).sum()
        within = max(self.squares - float(between), 0.0)
        spread = float(np.sqrt(within / float(self.count.sum()))) or 1.0
        steps, held = self.steps.double(), self.held.double()
        own = held.square().sum(1) + 2 * steps @ held.T + steps.square().sum(1)[:, None]
        apart = (self.best.double() + own).clamp(min=0).sqrt()
        edited = torch.stack([(self.raw.double() + step).norm(dim=1) for step in steps])
        return Distances(
            spread,
            (steps.norm(dim=1) / spread).numpy(),
            (edited / spread).numpy(),
            (apart / spread).numpy(),
            self.nearest.numpy(),
        )
