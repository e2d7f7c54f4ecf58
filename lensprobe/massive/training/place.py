"""One coordinate of the residual stream of one layer, and the tokens that decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models.adapter import Adapter
from ...tokens import Encoded

__all__ = ["Place", "Prefix"]


@dataclass(frozen=True)
class Place:
    """Dimension `dim` of `resid_post` after block `layer`, at `position`."""

    layer: int
    dim: int
    position: int

    def __str__(self) -> str:
        return f"dim {self.dim} at position {self.position} after layer {self.layer}"


class Prefix:
    """The tokens of some sequences up to one position: all that a causal model's value depends on.

    Equal beginnings are read once and count as often as they occur; with BOS, position 0 of any number
    of texts is one token.
    """

    def __init__(self, adapter: Adapter, rows: Sequence[Encoded], position: int) -> None:
        self.adapter = adapter
        self.position = position
        counts: dict[tuple[int, ...], int] = {}
        for row in rows:
            if len(row) > position:
                front = row.ids[: position + 1]
                counts[front] = counts.get(front, 0) + 1
        self.ids = torch.tensor(list(counts), device=adapter.device)
        self.share = torch.tensor([count / sum(counts.values()) for count in counts.values()])

    def run(self, stop: int) -> Tensor:
        """The residual `[prefix pos d_model]` after block `stop - 1`."""
        residual = self.adapter.run(self.ids, stop=stop)
        assert residual is not None
        return residual

    def average(self, values: Tensor) -> Tensor:
        """Mean over the sequences, of `[prefix *rest]`."""
        return torch.einsum("p...,p->...", values, self.share.to(values))

    def mean(self, values: Tensor) -> float:
        """Mean over the sequences, of `[prefix]`, in float64."""
        return float(self.average(values.detach().double()))

    @torch.no_grad()
    def value(self, place: Place) -> float:
        """The value at the place."""
        return self.mean(self.run(place.layer + 1)[:, place.position, place.dim])

    def gradient(
        self, place: Place, weights: Mapping[str, nn.Parameter]
    ) -> tuple[float, dict[str, Tensor]]:
        """The value, and its gradient with respect to each trainable weight that it depends on.

        Weights above the place have none. The weights' own `.grad` is left alone.
        """
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        with torch.enable_grad():
            values = self.run(place.layer + 1)[:, place.position, place.dim]
            total = self.average(values.float() if values.dtype.itemsize < 4 else values)
            found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        named = zip(trained, found, strict=True)
        return self.mean(values), {name: grad for name, grad in named if grad is not None}
