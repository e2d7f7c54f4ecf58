"""Neurons and single weights set to zero, as hooks: what a pass computes with edited weights.

Nothing is written to a tensor of the user's. A neuron is silenced by setting its activation to zero,
which equals zeroing its row of `W_out`. A single weight `W_out[neuron, dim]` is silenced by taking
what flows through it back from the MLP's output, before the norm that some blocks put after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import ArgumentError
from ..models.weights import Projection, Weights
from .session import Hook

__all__ = ["other_neurons", "silence_neurons", "silence_weights"]


def silence_neurons(weights: Weights, neurons: Iterable[tuple[int, int]]) -> dict[str, Hook]:
    """Hooks for `running.hooked` under which neurons `(layer, neuron)` are zero at every token.

    Raises:
        ArgumentError: a layer or neuron out of range.
        ModelError: a layer without neurons.
    """
    adapter = weights.adapter
    hooks: dict[str, Hook] = {}
    for layer, chosen in _by_layer(weights, ((*neuron, 0) for neuron in neurons)).items():
        index = torch.tensor([neuron for neuron, _ in chosen], device=adapter.device)

        def silence(post: Tensor, index: Tensor = index) -> Tensor:
            return post.index_fill(-1, index.to(post.device), 0.0)

        hooks[adapter.hook_name("mlp.post", layer)] = silence
    return hooks


def silence_weights(weights: Weights, entries: Iterable[tuple[int, int, int]]) -> dict[str, Hook]:
    """Hooks for `running.hooked` under which `W_out[neuron, dim]` of `(layer, neuron, dim)` is zero.

    Raises:
        ArgumentError: a layer, neuron or dimension out of range.
        ModelError: a layer without neurons.
    """
    adapter = weights.adapter
    hooks: dict[str, Hook] = {}
    for layer, chosen in _by_layer(weights, entries).items():
        silenced = _Silenced(weights.mlp(layer), chosen)
        hooks[adapter.hook_name("mlp.post", layer)] = silenced.keep
        hooks[adapter.hook_name("mlp_out", layer)] = silenced.take_back
    return hooks


def other_neurons(
    weights: Weights, neurons: Sequence[tuple[int, int]], seed: int
) -> list[tuple[int, int]]:
    """As many neurons of the same layers, drawn from those that are not in the set."""
    draw = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    for layer in sorted({layer for layer, _ in neurons}):
        own = {neuron for at, neuron in neurons if at == layer}
        free = np.setdiff1d(np.arange(len(weights.mlp(layer).matrix)), sorted(own))
        chosen = draw.choice(free, min(len(own), len(free)), replace=False)
        found += [(layer, int(neuron)) for neuron in np.sort(chosen)]
    return found


class _Silenced:
    """The single weights of one layer that are zero, between its two hooks."""

    def __init__(self, projection: Projection, chosen: Iterable[tuple[int, int]]) -> None:
        self.projection = projection
        self.neurons, self.dims = map(list, zip(*sorted(set(chosen)), strict=True))
        self.weights = projection.matrix[self.neurons, self.dims]
        self.post: Tensor | None = None

    def keep(self, post: Tensor) -> None:
        self.post = post

    def take_back(self, out: Tensor) -> Tensor:
        assert self.post is not None
        # Half-precision streams are changed in float32 and rounded once, as edits are.
        post = self.post.float() if self.post.dtype.itemsize < 4 else self.post
        flow = post[..., self.neurons] * self.weights.to(post)
        index = torch.tensor(self.dims, device=post.device)
        whole = out.to(post.dtype)
        if self.projection.norm is not None:
            # What stands before the norm is not seen by any hook point of both classes.
            whole = self.projection.before(post)
            return self.projection.after(whole.index_add(-1, index, -flow)).to(out.dtype)
        return whole.index_add(-1, index, -flow * self.projection.multiplier).to(out.dtype)


def _by_layer(
    weights: Weights, entries: Iterable[tuple[int, int, int]]
) -> Mapping[int, list[tuple[int, int]]]:
    adapter = weights.adapter
    found: dict[int, list[tuple[int, int]]] = {}
    widths: dict[int, int] = {}
    for given, neuron, dim in entries:
        layer = adapter.layer(given)
        if layer not in widths:
            widths[layer] = len(weights.mlp(layer).matrix)
        width = widths[layer]
        if not 0 <= neuron < width:
            raise ArgumentError(f"neuron={neuron}: layer {layer} has neurons 0 to {width - 1}.")
        if not 0 <= dim < adapter.d_model:
            raise ArgumentError(
                f"dim={dim}: the residual stream has dimensions 0 to {adapter.d_model - 1}."
            )
        found.setdefault(layer, []).append((neuron, dim))
    return found
