"""How the loss depends on one number, and through which heads.

In a causal model what stands at a position reaches later tokens only as that position's keys and
values. So the loss is a function of (a) the keys and values at the position, layer by layer, as later
queries read them, and (b) the position's own prediction; and both are functions of the number through
the position's own stream. The chain rule over this cut is exact:

    dL/da = sum over layers and heads of <dL/dk, dk/da> + <dL/dv, dv/da>, plus the own prediction's

`dL/dk` and `dL/dv` come from a pass in which the keys and values at the position are leaves, split by
head where several queries share them; `dk/da` and `dv/da` from the position's stream alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..interrupts import undoing
from ..models.adapter import Adapter
from ..running.measures import losses
from ..running.session import Hook, hooked
from ..tokens import Encoded, TokenBatch
from .target import Group

__all__ = ["Cut", "Slopes", "constant_weights"]

SMALL = 1e-30
"""Keeps a vector of zeros from having no direction at all."""


@dataclass(frozen=True)
class Slopes:
    """Derivatives of some sequences' summed losses by the number, float64.

    Attributes:
        activation: `[row]`, the number as the model computes it, before the factor.
        loss: `[row]`, summed over the predicted tokens from the position on.
        count: `[row]`, how many those are.
        total: `[row]`, by the number at its factor, from a pass of its own.
        own: `[row]`, what of it goes through the position's own prediction.
        key, value: `[row layer head]`, what goes through the keys and values that later tokens read.
    """

    activation: np.ndarray
    loss: np.ndarray
    count: np.ndarray
    total: np.ndarray
    own: np.ndarray
    key: np.ndarray
    value: np.ndarray

    def rows(self) -> list[Slopes]:
        """The sequences one by one, without their axis."""
        return [Slopes(**{k: v[i] for k, v in vars(self).items()}) for i in range(len(self.loss))]


@contextmanager
def constant_weights(model: Any) -> Iterator[None]:
    """No weight asks for a gradient inside: a graph then holds what depends on the number alone."""
    asked = [p for p in model.parameters() if p.requires_grad]

    def ask() -> None:
        for parameter in asked:
            parameter.requires_grad_(True)

    with undoing(ask):
        for parameter in asked:
            parameter.requires_grad_(False)
        yield


class Cut:
    """A batch whose number is a variable. Use inside `constant_weights`.

    Of several coordinates the number is the length of their vector, whose direction stays.

    Blocks below `layer` run once for all factors; with hooks of the user's own, passes are whole.
    """

    def __init__(
        self, adapter: Adapter, rows: Sequence[Encoded], target: Group, layer: int
    ) -> None:
        self.adapter = adapter
        self.target = target
        self.layer = layer
        # On the right, so that the position is the same column in every row.
        self.batch = TokenBatch.pad(adapter, rows)
        self.whole = bool(adapter.user_hooks())
        self.start = 0 if self.whole else layer
        self.inputs: Tensor = self.batch.ids
        own = self._read_plain()
        self.direction = torch.ones_like(own)
        if len(target.dims) > 1:
            own = own.to(torch.promote_types(own.dtype, torch.float32))
            self.direction = own / own.norm(dim=1, keepdim=True).clamp(min=SMALL)
        self.activation = (own * self.direction).sum(1)
        above = range(layer + 1, adapter.n_layers)
        self.points = {
            n: {site: adapter.hook_name(f"attn.{site}", n) for site in ("k", "v", "pattern", "z")}
            for n in above
        }
        self.scored = self.batch.mask[:, 1:].clone()
        self.scored[:, : target.position] = False

    @torch.no_grad()
    def _read_plain(self) -> Tensor:
        """The coordinates `[row dim]`; what enters block `start` is kept."""
        found: list[Tensor] = []
        adapter, target = self.adapter, self.target
        hooks: dict[str, Hook] = {
            adapter.hook_name("resid_post", self.layer): lambda x: found.append(
                x[:, target.position, list(target.dims)]
            )
        }
        if self.start:
            hooks[adapter.hook_name("resid_pre", self.start)] = self._keep_inputs
        with hooked(adapter, hooks):
            stop = None if self.whole else self.layer + 1
            adapter.run(self.batch.ids, mask=self._mask(None), stop=stop)
        return found[0]

    def _keep_inputs(self, residual: Tensor) -> None:
        self.inputs = residual

    def slopes(self, factor: float) -> Slopes:
        """Everything at one factor."""
        with torch.enable_grad():
            loss, total = self._total(factor)
            keys, values, own = self._stream(factor)
            key, value = self._readers(factor, keys, values)
        count = self.scored.sum(1)
        parts = {"loss": loss, "count": count, "total": total, "own": own, "key": key}
        parts |= {"value": value, "activation": self.activation}
        return Slopes(**{k: v.detach().double().cpu().numpy() for k, v in parts.items()})

    def _mask(self, columns: int | None) -> Tensor | None:
        mask = self.batch.mask[:, :columns]
        return None if bool(mask.all()) else mask

    def _run(
        self, factor: float, number: Tensor | None, hooks: Mapping[str, Hook], columns: int | None
    ) -> Tensor:
        """Logits of the first columns; `number` replaces the coordinate, None is the plain multiple."""
        place = self.target.position

        def write(residual: Tensor) -> Tensor:
            own = residual.detach()
            wanted = self.activation * factor if number is None else number
            index = torch.tensor(self.target.dims, device=own.device)
            filled = (wanted[:, None] * self.direction.to(wanted)).to(own)
            vector = own[:, place].index_copy(1, index, filled)
            return torch.cat([own[:, :place], vector[:, None], own[:, place + 1 :]], 1)

        point = self.adapter.hook_name("resid_post", self.layer)
        with hooked(self.adapter, {point: write, **hooks}):
            inputs = self.inputs[:, :columns]
            out = self.adapter.run(inputs, mask=self._mask(columns), start=self.start)
        assert out is not None
        return out

    def _number(self, factor: float) -> Tensor:
        """The variable, at its factor."""
        wide = torch.promote_types(self.activation.dtype, torch.float32)
        return (self.activation.to(wide) * factor).requires_grad_()

    def _losses(self, logits: Tensor) -> Tensor:
        """`[row pos]`, zero where nothing is scored."""
        found = losses(logits[:, :-1], self.batch.ids[:, 1:].to(logits.device))
        return torch.where(self.scored.to(found.device), found, 0.0)

    def _total(self, factor: float) -> tuple[Tensor, Tensor]:
        """The losses and their derivatives, `[row]` each."""
        number = self._number(factor)
        loss = self._losses(self._run(factor, number, {}, None)).sum(1)
        return loss, torch.autograd.grad(loss.sum(), number)[0]

    def _stream(self, factor: float) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The derivative of keys and values at the position, and of its own prediction's loss."""
        place = self.target.position
        number = self._number(factor)
        found: list[Tensor] = []

        def keep(activation: Tensor) -> None:
            found.append(self._split(activation)[:, place])

        names = [points[site] for points in self.points.values() for site in ("k", "v")]
        logits = self._run(
            factor, number, dict.fromkeys(names, keep), None if self.whole else place + 1
        )
        target = self.batch.ids[:, place + 1].to(logits.device)
        own = losses(logits[:, place], target).sum()
        (slope,) = torch.autograd.grad(own, number, retain_graph=True)
        # Derivatives of many numbers by one, from two backward passes: the first is linear in `ones`.
        ones = [torch.ones_like(part, requires_grad=True) for part in found]
        if not found:
            return [], [], slope
        sums = [(part * one).sum() for part, one in zip(found, ones, strict=True)]
        (mixed,) = torch.autograd.grad(torch.stack(sums).sum(), number, create_graph=True)
        parts = torch.autograd.grad(mixed.sum(), ones, materialize_grads=True)
        return list(parts[::2]), list(parts[1::2]), slope

    def _readers(
        self, factor: float, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What later queries make of those derivatives, `[row layer head]` each."""
        shape = (len(self.batch.ids), self.adapter.n_layers, self.adapter.n_heads)
        by_key, by_value = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        if not self.points:
            return by_key, by_value
        seen = _Leaves(self)
        found = self._losses(self._run(factor, None, seen.hooks, None))
        later = found[:, self.target.position + 1 :].sum()
        through = [*seen.patterns, *seen.outputs]
        slopes = torch.autograd.grad(later, through, retain_graph=True, materialize_grads=True)
        middle = len(seen.patterns)
        for index, n in enumerate(self.points):
            pattern, leaf = seen.patterns[index], seen.keys[index]
            # Patterns have their heads before the queries, outputs after them, perhaps flat.
            part = self._by_head(pattern, slopes[index], leaf, keys[index], (-1, 1, 1))
            by_key[:, n] = part.cpu()
            out, leaf = seen.outputs[index], seen.values[index]
            part = self._by_head(out, slopes[middle + index], leaf, values[index], (-1, 1))
            by_value[:, n] = part.cpu()
        return by_key, by_value

    def _by_head(
        self, out: Tensor, slope: Tensor, leaf: Tensor, change: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """`[row head]`: the part of a leaf's derivative that goes through each head's output.

        `shape` lets one weight a head broadcast over `[... head ...]`.
        """
        heads = self.adapter.n_heads
        shared = heads // self.adapter.n_kv_heads
        head = torch.arange(heads, device=out.device)
        found = []
        for turn in range(shared):
            weights = (head % shared == turn).to(slope).reshape(shape)
            whole = slope if slope.ndim == 4 else slope.unflatten(-1, (heads, -1))
            chosen = (whole * weights).reshape(slope.shape)
            (part,) = torch.autograd.grad(out, leaf, chosen, retain_graph=True)
            found.append((part * change.to(part)).sum(-1))
        return torch.stack(found, -1).flatten(1)

    def _split(self, activation: Tensor) -> Tensor:
        """`[row pos kv_head d_head]`, whatever the class keeps."""
        return activation.flatten(2).unflatten(-1, (self.adapter.n_kv_heads, -1))


class _Leaves:
    """Keys and values at the position as leaves of the graph, and what reads them."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.patterns: list[Tensor] = []
        self.outputs: list[Tensor] = []

    @property
    def hooks(self) -> dict[str, Hook]:
        found: dict[str, Hook] = {}
        for names in self.cut.points.values():
            found[names["k"]] = lambda x: self._leaf(x, self.keys)
            found[names["v"]] = lambda x: self._leaf(x, self.values)
            found[names["pattern"]] = lambda x: self._kept(x, self.patterns)
            found[names["z"]] = lambda x: self._kept(x, self.outputs)
        return found

    def _leaf(self, activation: Tensor, into: list[Tensor]) -> Tensor:
        place = self.cut.target.position
        whole = self.cut._split(activation)
        leaf = whole[:, place].detach().requires_grad_()
        into.append(leaf)
        parts = [whole[:, :place], leaf[:, None], whole[:, place + 1 :]]
        return torch.cat(parts, 1).reshape(activation.shape)

    def _kept(self, activation: Tensor, into: list[Tensor]) -> Tensor:
        # Handed back, so that what is kept is what the model goes on with, not a reshaped copy.
        into.append(activation)
        return activation
