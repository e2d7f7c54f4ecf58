"""One coordinate of the residual stream as an exact sum, read from one forward pass.

The residual is linear in what is added to it: embedding, then attention and MLP of each layer. What
attention adds is linear in the heads' outputs `z`, what an MLP adds in its neurons' activations, each
through one column of weights (and, where a block norms what it adds, through that norm at the scale
of this pass). So everything needed is read at one position: `z`, `mlp.post`, one row of each
pattern, and the values up to there, which are reduced to one number each where they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..models.adapter import Adapter
from ..models.weights import Projection, Weights
from ..running.session import Hook, hooked
from ..statistics import Moments
from ..tokens import Encoded, TokenBatch
from .target import Target

__all__ = ["EMBED", "Decomposition", "Parts"]

EMBED = -1
"""Stands for the layer of what is there before the first one, and for the head of what has none."""
SITES = ("attn.z", "attn.v", "attn.pattern", "mlp.post", "attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True)
class _Column:
    """One projection into one dimension: the weights of its inputs, and what stands beside them."""

    projection: Projection
    weights: Float[Tensor, " inputs"]
    constant: float
    offset: float

    @classmethod
    def of(cls, projection: Projection, dim: int) -> _Column:
        return cls(
            projection, projection.column(dim), projection.constant(dim), projection.offset(dim)
        )

    @property
    def biased(self) -> bool:
        norm = self.projection.norm
        return self.projection.bias is not None or (norm is not None and norm.bias is not None)

    def parts(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contributions `[row inputs]`, the bias's `[row]` and the scale `[row]` of this pass."""
        scale = self.projection.scale(inputs)
        parts = inputs * self.weights.to(inputs) * scale[:, None]
        return parts, self.constant * scale + self.offset, scale


@dataclass
class Parts:
    """Moments over sequences of everything one coordinate is made of, each a flat array.

    Attributes:
        components: as `Decomposition.components` lists them.
        layers: embedding, positions, then what attention and MLP of each layer added, as measured.
        after: the value after each layer.
        neurons, activations: contribution and activation of each neuron, layer after layer.
        scales: what the norm after each MLP multiplies by; 1 without one.
        sources: contribution of each (layer, head, key); and `patterns`, the attention to it.
    """

    components: Moments
    layers: Moments
    after: Moments
    neurons: Moments
    activations: Moments
    scales: Moments
    sources: Moments
    patterns: Moments

    def update(self, values: dict[str, np.ndarray]) -> None:
        """Add sequences, each array `[row n]`."""
        for name, array in values.items():
            getattr(self, name).update(array)


class Decomposition:
    """The sum that gives each target's value, up to and with layer `last`.

    Attributes:
        components: `(component, layer, head)` of each part of the sum; `EMBED` where there is none.
            "embed", "pos_embed", then in each layer "head", "attn_bias", "mlp" (its neurons, or all of
            it where it has none), "mlp_bias". Biases and positions only where the model has them.
        neurons: `[neurons 2]`, layer and neuron.
        parts: what has been read so far, for each target.
        patterns: whether attention patterns could be read.
        epsilon: relative precision of the stream.
    """

    def __init__(
        self, adapter: Adapter, weights: Weights, targets: Sequence[Target], last: int
    ) -> None:
        self.adapter = adapter
        self.targets = targets
        self.last = last
        self.points = adapter.places(range(last + 1), SITES)
        self.points |= adapter.places([0], ["resid_pre"])
        self.positional = weights.positions is not None
        self.has_attention = [(n, "attn_out") in self.points.values() for n in range(last + 1)]
        self.has_mlp = [(n, "mlp_out") in self.points.values() for n in range(last + 1)]
        self.has_neurons = [has and weights.has_neurons(n) for n, has in enumerate(self.has_mlp)]
        self.attention = [
            [_Column.of(weights.attention(n), t.dim) for t in targets] if has else []
            for n, has in enumerate(self.has_attention)
        ]
        self.mlp = [
            [_Column.of(weights.mlp(n), t.dim) for t in targets] if has else []
            for n, has in enumerate(self.has_neurons)
        ]
        self.components = list(self._labels())
        self.neurons = np.array(
            [
                (n, index)
                for n, columns in enumerate(self.mlp)
                for index in range(len(columns[0].weights) if columns else 0)
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        self.epsilon = torch.finfo(adapter.dtype).eps
        self.patterns = True
        self.parts: list[Parts] = []

    def _labels(self) -> Any:
        yield "embed", EMBED, EMBED
        if self.positional:
            yield "pos_embed", EMBED, EMBED
        for n in range(self.last + 1):
            if self.has_attention[n]:
                for head in range(self.adapter.n_heads):
                    yield "head", n, head
                if self.attention[n][0].biased:
                    yield "attn_bias", n, EMBED
            if self.has_mlp[n]:
                yield "mlp", n, EMBED
                if self.has_neurons[n] and self.mlp[n][0].biased:
                    yield "mlp_bias", n, EMBED

    def read(self, rows: Sequence[Encoded], *, whole: bool) -> None:
        """Add sequences from one forward pass; `whole` runs the layers above the last one too."""
        batch = TokenBatch.pad(self.adapter, rows)
        seen = _Seen(self, len(rows))
        hooks: dict[str, Hook] = {
            name: seen.reader(layer, site) for name, (layer, site) in self.points.items()
        }
        if self.positional:
            hooks["hook_pos_embed"] = seen.positions
        with hooked(self.adapter, hooks):
            mask = batch.mask if batch.ragged else None
            self.adapter.run(batch.ids, mask=mask, stop=None if whole else self.last + 1)
        self.patterns = self.patterns and seen.patterns
        for index in range(len(self.targets)):
            values = seen.collect(index)
            if index == len(self.parts):
                self.parts.append(Parts(**{k: Moments(v.shape[1:]) for k, v in values.items()}))
            self.parts[index].update(values)


class _Seen:
    """What the hooks of one pass have left: float64, at the targets' positions only."""

    def __init__(self, plan: Decomposition, rows: int) -> None:
        self.plan = plan
        self.rows = rows
        self.found: dict[tuple[int, str, int], Tensor] = {}
        self.patterns = False

    def reader(self, layer: int, site: str) -> Hook:
        def read(activation: Tensor) -> None:
            self.patterns |= site == "attn.pattern"
            for index, target in enumerate(self.plan.targets):
                part = self._at(activation.detach(), layer, site, index, target)
                self.found[layer, site, index] = part.double().cpu()

        return read

    def positions(self, activation: Tensor) -> None:
        for index, target in enumerate(self.plan.targets):
            # The table is looked up once for all rows where they are at the same positions.
            value = activation.detach()[:, target.position, target.dim]
            self.found[EMBED, "pos_embed", index] = value.expand(self.rows).double().cpu()

    def _at(self, x: Tensor, layer: int, site: str, index: int, target: Target) -> Tensor:
        if site == "attn.pattern":
            return x[:, :, target.position, : target.position + 1].clone()
        if site == "attn.v":
            weights = self.plan.attention[layer][index].weights.to(x.device)
            by_head = weights.reshape(self.plan.adapter.n_heads, -1)
            v = (
                x[:, : target.position + 1]
                .flatten(2)
                .unflatten(-1, (-1, by_head.shape[1]))
                .double()
            )
            heads = v.repeat_interleave(len(by_head) // v.shape[2], dim=2)
            return torch.einsum("rkhd,hd->rhk", heads, by_head)
        if site in ("attn.z", "mlp.post"):
            return x[:, target.position].flatten(1).clone()
        return x[:, target.position, target.dim].clone()

    def collect(self, index: int) -> dict[str, np.ndarray]:
        """One target's numbers, each `[row n]`, in the orders that `Parts` states."""
        plan, found = self.plan, self.found
        zero = torch.zeros(self.rows, dtype=torch.float64)
        positional = found.get((EMBED, "pos_embed", index), zero)
        embed = found[0, "resid_pre", index] - positional
        out: dict[str, list[Tensor]] = {f.name: [] for f in fields(Parts)}
        out["components"] += [embed, positional] if plan.positional else [embed]
        out["layers"] += [embed, positional]
        for n in range(plan.last + 1):
            out["layers"] += [found.get((n, site, index), zero) for site in ("attn_out", "mlp_out")]
            out["after"].append(found[n, "resid_post", index])
            if plan.has_attention[n]:
                self._attention(n, index, out)
            if plan.has_neurons[n]:
                self._mlp(n, index, out)
            elif plan.has_mlp[n]:
                out["components"].append(found[n, "mlp_out", index])
        none = torch.zeros(self.rows, 0)
        # Single numbers and rows of numbers, side by side.
        return {
            name: torch.cat([part.reshape(self.rows, -1) for part in parts] or [none], 1).numpy()
            for name, parts in out.items()
        }

    def _attention(self, n: int, index: int, out: dict[str, list[Tensor]]) -> None:
        column, heads = self.plan.attention[n][index], self.plan.adapter.n_heads
        parts, bias, scale = column.parts(self.found[n, "attn.z", index])
        out["components"].append(parts.reshape(self.rows, heads, -1).sum(-1))
        out["components"] += [bias] if column.biased else []
        if self.patterns:
            pattern = self.found[n, "attn.pattern", index]
            flow = pattern * self.found[n, "attn.v", index] * scale[:, None, None]
            out["sources"].append(flow)
            out["patterns"].append(pattern)

    def _mlp(self, n: int, index: int, out: dict[str, list[Tensor]]) -> None:
        column, post = self.plan.mlp[n][index], self.found[n, "mlp.post", index]
        parts, bias, scale = column.parts(post)
        out["components"] += [parts.sum(1), *([bias] if column.biased else [])]
        out["neurons"].append(parts)
        out["activations"].append(post)
        out["scales"].append(scale)
