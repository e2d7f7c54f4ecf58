"""The weights that write the watched value: one number for each neuron of the layer that adds most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.adapter import Adapter
from ...models.weights import weights_of
from ...running.session import hooked
from .place import Place, Prefix

__all__ = ["View", "Writer", "find_writer"]

STRONGEST = 8
"""Neurons whose weights are followed one by one."""
SOURCES = {"attn": "attn_out", "mlp": "mlp_out"}
INPUTS = {"attn": "attn.z", "mlp": "mlp.post"}


@dataclass(frozen=True)
class View:
    """Where some numbers of one parameter lie, so that they are found again in its gradient.

    Attributes:
        tensor: name of the parameter.
        size: how many numbers.
        stride: from one to the next, in numbers.
        offset: of the first, from the parameter's own first.
    """

    tensor: str
    size: int
    stride: int
    offset: int

    def of(self, like: Tensor) -> Tensor:
        """The same numbers of a tensor laid out as the parameter is, `[size]`, sharing its memory."""
        return like.as_strided((self.size,), (self.stride,), like.storage_offset() + self.offset)

    def index(self, device: torch.device) -> Tensor:
        """Where they are in the parameter's memory, counted in numbers, `[size]`."""
        return self.offset + self.stride * torch.arange(self.size, device=device)


@dataclass(frozen=True)
class Writer:
    """The component that adds most to a coordinate, and its weights into that dimension.

    Attributes:
        component: `"mlp"` (`W_out[:, dim]`, one weight a neuron) or `"attn"` (`W_O[:, dim]`, one for
            each channel of each head).
        layer: its layer.
        share: what it adds, as a share of the value.
        view: where those weights lie.
        strongest: the inputs (neurons) that add most, strongest first.
    """

    component: str
    layer: int
    share: float
    view: View
    strongest: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON, for provenance."""
        return {
            "component": self.component,
            "layer": self.layer,
            "share": self.share,
            "tensor": self.view.tensor,
            "neurons": list(self.strongest),
        }


@torch.no_grad()
def find_writer(
    adapter: Adapter, place: Place, prefix: Prefix, weights: Mapping[str, nn.Parameter]
) -> Writer | None:
    """The attention layer or MLP, up to the place's layer, that adds most with the value's sign.

    None where nothing before the place adds as much as the embedding does, where the model does not
    show what its layers add, or where its output matrix is no view of one parameter.
    """
    layers = range(place.layer + 1)
    places = adapter.places(layers, SOURCES.values())
    added: dict[tuple[int, str], float] = {}

    def read(key: tuple[int, str], activation: Tensor) -> None:
        added[key] = prefix.mean(activation[:, place.position, place.dim])

    hooks: dict[str, Any] = {name: _bind(read, key) for name, key in places.items()}
    before: list[float] = []
    hooks[adapter.hook_name("resid_pre", 0)] = lambda x: before.append(
        prefix.mean(x[:, place.position, place.dim])
    )
    with hooked(adapter, hooks):
        residual = prefix.run(place.layer + 1)
    value = prefix.mean(residual[:, place.position, place.dim])
    along = {key: amount * np.sign(value) for key, amount in added.items()}
    if not along or max(along.values()) <= max(0.0, before[0] * np.sign(value)):
        return None
    layer, site = max(along, key=lambda key: along[key])
    component = next(name for name, source in SOURCES.items() if source == site)
    return _writer(adapter, place, prefix, weights, component, layer, along[layer, site], value)


def _bind(read: Any, key: tuple[int, str]) -> Any:
    return lambda activation: read(key, activation)


def _writer(
    adapter: Adapter,
    place: Place,
    prefix: Prefix,
    weights: Mapping[str, nn.Parameter],
    component: str,
    layer: int,
    amount: float,
    value: float,
) -> Writer | None:
    reader = weights_of(adapter)
    if component == "mlp" and not reader.has_neurons(layer):
        return None
    projection = reader.mlp(layer) if component == "mlp" else reader.attention(layer)
    view = _view(projection.matrix.detach()[:, place.dim], weights)
    if view is None:
        return None
    strengths: list[Tensor] = []

    def inputs(activation: Tensor) -> None:
        at = activation[:, place.position].flatten(1).double()
        strengths.append(prefix.average(at) * projection.column(place.dim).to(at.device))

    with hooked(adapter, {adapter.hook_name(INPUTS[component], layer): inputs}):
        prefix.run(layer + 1)
    # A norm after the layer rescales all inputs alike and may turn none around.
    order = torch.argsort(strengths[0] * float(np.sign(value)), descending=True)
    few = tuple(int(index) for index in order[:STRONGEST] if strengths[0][index])
    return Writer(component, layer, float(amount / abs(value)), view, few)


def _view(column: Tensor, weights: Mapping[str, nn.Parameter]) -> View | None:
    storage = column.untyped_storage().data_ptr()
    for name, weight in weights.items():
        dense = torch.empty_like(weight).stride() == weight.stride()
        if dense and weight.untyped_storage().data_ptr() == storage:
            offset = int(column.storage_offset()) - int(weight.storage_offset())
            return View(name, len(column), column.stride(0), offset)
    return None
