"""What an ablation takes away: coordinates of one vector, or neurons and weights that write them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..edits import Edit, Scale, Set
from ..errors import ModelError
from ..models.adapter import Adapter
from ..models.weights import Weights, weights_of
from ..positions import at as at_position
from ..running.batching import buckets
from ..running.session import Hook, hooked
from ..running.silencing import other_neurons, silence_neurons, silence_weights
from ..tokens import Encoded, TokenBatch
from .anatomy import anatomy
from .place import FEW
from .result import Finding
from .target import Target

__all__ = ["KINDS", "Ablation", "mean_vector", "overwriting", "planned"]

KINDS = (
    "zero",
    "mean",
    "random zero",
    "random mean",
    "vector mean",
    "neurons",
    "weights",
    "random neurons",
)
CONSTANT = 1e-5
"""Relative spread below which a vector is the same in every text."""


@dataclass(frozen=True)
class Ablation:
    """One of them.

    Attributes:
        kind: one of `KINDS`.
        draw: which of several random ones; -1 for what is not random.
        dims: coordinates that are overwritten; empty for neurons and weights.
        neurons: `(layer, neuron)` whose output is zero.
        hooks: under which they are.
    """

    kind: str
    draw: int = -1
    dims: tuple[int, ...] = ()
    neurons: tuple[tuple[int, int], ...] = ()
    hooks: Mapping[str, Hook] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many numbers or neurons are taken away."""
        return len(self.neurons or self.dims)

    def vector(
        self, own: Float[Tensor, "row d_model"], mean: Float[Tensor, " d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """The vectors that take the place of a batch's own."""
        index = torch.tensor(self.dims, device=own.device)
        fill = mean.to(own) if self.kind.endswith("mean") else torch.zeros_like(mean).to(own)
        return own.index_copy(1, index, fill[index].expand(len(own), -1))

    @property
    def first_layer(self) -> int:
        """Of the neurons."""
        return min(layer for layer, _ in self.neurons)

    def anchor(self) -> Edit:
        """Changes nothing, and says from which block on the neurons' branch has to be run."""
        return Scale(factor=1.0, layers=self.first_layer, site="mlp_out")


def planned(
    adapter: Adapter,
    rows: Sequence[Encoded],
    targets: Sequence[Target],
    kinds: Sequence[str],
    repeats: int,
    seed: int,
    batch_tokens: int | None,
) -> tuple[list[Ablation], list[str]]:
    """The ablations of those kinds, and what could not be done."""
    dims = tuple(target.dim for target in targets)
    draw = np.random.default_rng(seed)
    free = np.setdiff1d(np.arange(adapter.d_model), dims)
    drawn = [
        tuple(int(d) for d in draw.choice(free, min(len(dims), len(free)), replace=False))
        for _ in range(repeats)
    ]
    found = []
    for kind in KINDS[:4]:
        if kind in kinds:
            each = enumerate(drawn) if kind.startswith("random") else [(-1, dims)]
            found += [Ablation(kind, number, part) for number, part in each]
    if "vector mean" in kinds:
        found.append(Ablation("vector mean", dims=tuple(range(adapter.d_model))))
    wanted = [kind for kind in KINDS[5:] if kind in kinds]
    if not wanted:
        return found, []
    try:
        weights = weights_of(adapter)
        carriers = _carriers(adapter, rows, targets, batch_tokens)
    except ModelError as error:
        return found, [f"no neurons were ablated: {error}"]
    if not carriers:
        return found, ["no neurons were ablated: neurons do not carry 95% of the value"]
    return found + _silenced(weights, carriers, wanted, repeats, seed), []


def _carriers(
    adapter: Adapter,
    rows: Sequence[Encoded],
    targets: Sequence[Target],
    batch_tokens: int | None,
) -> list[tuple[int, int, int]]:
    """`(layer, neuron, dim)` of the smallest sets that carry each coordinate, by its anatomy."""
    few = list(rows[:FEW])
    parts = anatomy(
        adapter.model,
        few,
        at=[Finding(t.dim, t.position, t.layers, t.site, math.nan) for t in targets],
        bos=False,  # the texts are token ids by now
        length=max(map(len, few)),
        batch_tokens=batch_tokens,
        progress=False,
    ).weights
    columns = (parts[name].to_numpy(int) for name in ("layer", "neuron", "dim"))
    return [(int(n), int(neuron), int(dim)) for n, neuron, dim in zip(*columns, strict=True)]


def _silenced(
    weights: Weights,
    carriers: Sequence[tuple[int, int, int]],
    kinds: Sequence[str],
    repeats: int,
    seed: int,
) -> list[Ablation]:
    neurons = tuple(dict.fromkeys((n, neuron) for n, neuron, _ in carriers))
    found = []
    if "neurons" in kinds:
        hooks = silence_neurons(weights, neurons)
        found.append(Ablation("neurons", neurons=neurons, hooks=hooks))
    if "weights" in kinds:
        hooks = silence_weights(weights, carriers)
        found.append(Ablation("weights", neurons=neurons, hooks=hooks))
    for number in range(repeats if "random neurons" in kinds else 0):
        others = tuple(other_neurons(weights, neurons, seed + number))
        hooks = silence_neurons(weights, others)
        found.append(Ablation("random neurons", number, neurons=others, hooks=hooks))
    return found


@torch.no_grad()
def mean_vector(
    adapter: Adapter,
    rows: Sequence[Encoded],
    position: int,
    layer: int,
    batch_tokens: int | None,
) -> tuple[Float[Tensor, " d_model"], bool]:
    """The mean over texts of the residual after a layer at a position, and whether it is constant."""
    whole = bool(adapter.user_hooks())
    # Later tokens do not change it, but a user's hooks may want to see them.
    read = rows if whole else [Encoded(row.ids[: position + 1]) for row in rows]
    found: list[Tensor] = []
    point = adapter.hook_name("resid_post", layer)
    with hooked(adapter, {point: lambda x: found.append(x[:, position].double().cpu())}):
        for group in buckets(read, batch_tokens):
            batch = TokenBatch.pad(adapter, [read[i] for i in group])
            mask = batch.mask if batch.ragged else None
            adapter.run(batch.ids, mask=mask, stop=None if whole else layer + 1)
    vectors = torch.cat(found)
    mean = vectors.mean(0)
    spread = (vectors - mean).abs().max()
    return mean, bool(spread <= CONSTANT * vectors.abs().max())


def overwriting(vectors: Float[Tensor, "row_and_run d_model"], position: int, layer: int) -> Set:
    """The edit that puts one vector in each row's place."""
    return Set(value=vectors[:, None], layers=layer, positions=at_position(position))
