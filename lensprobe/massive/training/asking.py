"""Which coordinate is watched: named, found by a scan, or wherever the largest value is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import ArgumentError
from ...models.adapter import Adapter
from ...running.session import hooked
from ..result import Finding, MassiveScan
from ..target import Target, resolve
from .material import Material
from .place import Place, Prefix

__all__ = ["LARGEST", "Asked"]

LARGEST = "largest"


@dataclass(frozen=True)
class Asked:
    """The coordinate as the caller named it."""

    largest: bool
    at: Any
    dim: int | None
    position: int | None
    layer: int | None

    @classmethod
    def of(cls, watch: Any, at: Any, dim: Any, position: Any, layer: Any) -> Asked:
        """Read `watch=`, or `at=`, `dim=` and `position=`.

        Raises:
            ArgumentError: both, or a `watch` that is neither a pair nor "largest".
        """
        if watch is None:
            return cls(False, at, dim, position, layer)
        if any(value is not None for value in (at, dim, position)):
            raise ArgumentError("watch= and at=, dim= or position=: give one of them.")
        if isinstance(watch, str):
            if watch != LARGEST:
                raise ArgumentError(f'watch={watch!r}: "largest", or [dim, position].')
            if layer is not None:
                raise ArgumentError('layer=: watch="largest" looks at all layers.')
            return cls(True, None, None, None, None)
        if isinstance(watch, Finding | MassiveScan | Target):
            return cls(False, watch, None, None, layer)
        pair = list(watch) if isinstance(watch, Sequence) else []
        if len(pair) != 2:
            raise ArgumentError(f'watch={watch!r}: [dim, position], or "largest".')
        return cls(False, None, pair[0], pair[1], layer)

    def settle(
        self, adapter: Adapter, material: Material, batch_tokens: int | None
    ) -> tuple[Place | None, list[str]]:
        """The coordinate, checked, and what is worth knowing about how it was chosen."""
        if self.largest:
            return None, ["the coordinate is the largest magnitude in the stream at each look"]
        rows = material.rows
        try:
            targets = resolve(
                adapter,
                rows,
                at=self.at,
                dim=self.dim,
                position=self.position,
                batch_tokens=batch_tokens,
            )
        except ArgumentError as error:
            if "no massive activation was found" not in str(error):
                raise
            raise ArgumentError(
                f'{error} Or pass watch="largest" to follow whatever is largest.'
            ) from error
        target = targets.one
        if self.layer is None:
            layer = _largest_layer(adapter, Prefix(adapter, rows, target.position), target)
        else:
            layer = adapter.layer(self.layer)
        return Place(layer, target.dim, target.position), list(targets.notes)


@torch.no_grad()
def _largest_layer(adapter: Adapter, prefix: Prefix, target: Target) -> int:
    """After which layer the coordinate has its largest mean magnitude."""
    values: dict[int, float] = {}

    def reader(layer: int) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            values[layer] = abs(prefix.mean(activation[:, target.position, target.dim]))

        return read

    points = adapter.places(range(adapter.n_layers), ["resid_post"])
    with hooked(adapter, {name: reader(layer) for name, (layer, _) in points.items()}):
        prefix.run(adapter.n_layers)
    return max(values, key=lambda layer: np.nan_to_num(values[layer]))
