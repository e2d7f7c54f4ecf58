"""Coordinates read at every position of a batch, from passes that end where reading does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.adapter import Adapter
from ..running.session import Hook, hooked
from ..tokens import Encoded, TokenBatch
from .target import Target

__all__ = ["Readout", "peak_layers"]


class Readout:
    """Dimensions of the residual after one layer each, float64 `[row pos target]`; NaN at pads.

    Args:
        adapter: the model's.
        targets: which dimensions; their positions are not looked at.
        layers: after which layer each of them is read.
    """

    def __init__(self, adapter: Adapter, targets: Sequence[Target], layers: Sequence[int]) -> None:
        self.adapter = adapter
        self.targets = targets
        self.layers = layers
        names = adapter.places(sorted(set(layers)), ["resid_post"])
        self.points = {layer: name for name, (layer, _) in names.items()}
        # A user's hook at a later layer, or on the logits, must still see the pass.
        self.stop = None if adapter.user_hooks() else max(layers) + 1

    @torch.no_grad()
    def read(
        self,
        rows: Sequence[Encoded],
        *,
        hooks: Mapping[str, Hook] | None = None,
        shift: int = 0,
    ) -> np.ndarray:
        """One pass over some rows, under further hooks, all positions moved on by `shift`.

        Raises:
            ArgumentError: a shift on a class that counts positions itself.
        """
        batch = TokenBatch.pad(self.adapter, rows)
        found: dict[int, Tensor] = {}

        def reader(layer: int) -> Hook:
            dims = [t.dim for t, at in zip(self.targets, self.layers, strict=True) if at == layer]

            def read(residual: Tensor) -> None:
                found[layer] = residual.detach()[:, :, dims].double().cpu()

            return read

        positions = batch.positions + shift if shift else None
        mask = batch.mask if batch.ragged else None
        with (
            hooked(self.adapter, hooks or {}),
            hooked(self.adapter, {name: reader(layer) for layer, name in self.points.items()}),
        ):
            self.adapter.run(batch.ids, mask=mask, positions=positions, stop=self.stop)
        values = [found[layer][:, :, self._place(index)] for index, layer in enumerate(self.layers)]
        out = torch.stack(values, -1).numpy()
        out[~batch.mask.cpu().numpy()] = np.nan
        return out

    def _place(self, index: int) -> int:
        """Which of the dimensions read after its layer a target is."""
        return list(self.layers[:index]).count(self.layers[index])


@torch.no_grad()
def peak_layers(adapter: Adapter, targets: Sequence[Target], rows: Sequence[Encoded]) -> list[int]:
    """After which layer each target's mean over rows is largest, from one pass."""
    batch = TokenBatch.pad(adapter, rows)
    points = adapter.places(range(adapter.n_layers), ["resid_post"])
    found: dict[str, np.ndarray] = {}

    def reader(name: str) -> Hook:
        def read(residual: Tensor) -> None:
            values = [residual[:, t.position, t.dim].detach().double().mean() for t in targets]
            found[name] = torch.stack(values).cpu().numpy()

        return read

    with hooked(adapter, {name: reader(name) for name in points}):
        mask = batch.mask if batch.ragged else None
        adapter.run(batch.ids, mask=mask, stop=None if adapter.user_hooks() else adapter.n_layers)
    sizes = np.abs(np.stack([found[name] for name in points]))
    return [int(layer) for layer in sizes.argmax(0)]
