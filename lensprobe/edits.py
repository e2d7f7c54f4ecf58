"""Edits: frozen values that say what is written where. They hold no hooks and no state.

Every edit names a `site` (default `resid_post`), `layers` (one, several or `"all"`) and `positions` (a
selector). Where several edits meet at one hook point they apply in the order given. All of them are
out of place and differentiable in the residual and in their own tensors.

Half-precision streams are edited in float32 and rounded once on the way back.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from . import positions as where
from .edit_values import (
    Selection,
    aligned,
    as_dims,
    checked_dims,
    checked_direction,
    checked_strength,
    checked_tensor,
    checked_vector,
    only_dims,
    per_row,
    row_count,
    within,
)
from .errors import ArgumentError
from .models.adapter import Adapter
from .models.sites import DEFAULT_SITE
from .models.stacks import StackName
from .positions import Positions

__all__ = ["Add", "Clamp", "Edit", "Mix", "ProjectOut", "Scale", "Selection", "Set"]

EVERYWHERE = where.all()
EDITABLE = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn.v")


@dataclass(frozen=True, eq=False, kw_only=True)
class Edit(ABC):
    """Base of the edits; see the module's text for what all of them share.

    `stack` is "encoder" or "decoder", to be named in an encoder-decoder. Selectors see that stack's
    tokens: the encoder's are all prompt, the decoder's prompt is its start token alone.
    `origin` names the model that an edit's vector was made on, where that is known.
    """

    layers: Any
    site: str = DEFAULT_SITE
    positions: Positions = EVERYWHERE
    stack: StackName = None
    origin: str | None = field(default=None, repr=False)

    def bind(self, adapter: Adapter) -> Edit:
        """This edit with its tensors checked and moved to the model.

        Raises:
            ArgumentError: a layer out of range, a wrong width or stack, a value not finite.
            HookPointError: the site is unknown, absent or switched off.
        """
        if self.site not in EDITABLE:
            raise ArgumentError(f"site={self.site!r}: edits write to {', '.join(EDITABLE)}.")
        if not isinstance(self.positions, Positions):
            raise ArgumentError(
                f"positions={self.positions!r}: a selector such as lp.positions.all()."
            )
        self._check_origin(adapter)
        placed = replace(self, stack=adapter.stack(self.stack).name)
        bound = placed._bind(adapter, placed._width(adapter))
        table = bound._table()
        if table is None:
            return bound
        if self.positions.moves:
            raise ArgumentError("positions=last() takes one vector, not one for each token.")
        if self.positions.fits_vector:
            return replace(bound, positions=where.front(table.shape[-2]))
        return bound

    def names(self, adapter: Adapter) -> list[str]:
        """The hook points this edit writes to."""
        layers = adapter.layers(self.layers, stack=self.stack)
        return [adapter.hook_name(self.site, layer, stack=self.stack) for layer in layers]

    def apply(
        self, stream: Float[Tensor, "batch pos width"], selection: Selection
    ) -> Float[Tensor, "batch pos width"]:
        """The stream with the selected tokens edited, in the stream's dtype."""
        work = stream.float() if stream.dtype in (torch.float16, torch.bfloat16) else stream
        changed = self._change(work, selection).to(stream.dtype)
        picked = self._picked(selection)
        return changed if picked is None else torch.where(picked, changed, stream)

    def rows(self) -> int | None:
        """How many rows this edit was made for; None where it serves any number."""
        return None

    def _check_origin(self, adapter: Adapter) -> None:
        """A vector of another model's width is refused; of another model's name, warned about."""
        vector = getattr(self, "vector", None)
        if self.origin is None or not isinstance(vector, Tensor):
            return
        made, width = vector.shape[-1], self._width(adapter)
        if made != width:
            raise ArgumentError(
                f"a vector of {made} numbers, made on {self.origin!r}, does not fit "
                f"{adapter.name!r}: its {self.site} has {width}."
            )
        if self.origin != adapter.name:
            warnings.warn(
                f"a vector made on {self.origin!r} is used on {adapter.name!r}.", stacklevel=2
            )

    def _width(self, adapter: Adapter) -> int:
        return adapter.width_at(self.site, self.layers, stack=self.stack)

    def _table(self) -> Tensor | None:
        """The vectors of an edit that has one for each token, `[..., tokens, width]`."""
        for name in ("vector", "value"):
            held = getattr(self, name, None)
            if isinstance(held, Tensor) and held.ndim > 1:
                return held
        return None

    @abstractmethod
    def _bind(self, adapter: Adapter, width: int) -> Edit: ...

    @abstractmethod
    def _change(self, stream: Tensor, selection: Selection) -> Tensor: ...

    def _picked(self, selection: Selection) -> Tensor | None:
        return None if selection.mask is None else selection.mask[..., None]


@dataclass(frozen=True, eq=False)
class Add(Edit):
    """Add `scale * vector` (activation addition, Turner et al. 2308.10248).

    Args:
        vector: `[width]`, the same at every selected token; `[k width]`, row i at the i-th selected
            token and nothing after the k-th; `[batch k width]`, one such table for each text.
        scale: a number, or `[batch]`, one for each text.
        preserve_norm: turn each token's vector instead of lengthening it: the sum is scaled back to
            the norm that the token had.

    Examples:
        >>> import torch
        >>> ones = torch.ones(model.cfg.d_model)
        >>> edits = [lp.Set(value=1.0, layers=2), lp.Add(ones, layers=2, scale=0.5)]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [1.5, 1.5, 1.5]
    """

    vector: Tensor
    scale: float | Tensor = field(default=1.0, kw_only=True)
    preserve_norm: bool = field(default=False, kw_only=True)

    @override
    def rows(self) -> int | None:
        return row_count(self.vector if self.vector.ndim == 3 else None, self.scale)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        vector = checked_vector("vector", self.vector, width, adapter)
        return replace(self, vector=vector, scale=checked_strength("scale", self.scale, adapter))

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        added = stream + per_row(self.scale, selection) * aligned(self.vector, stream, selection)
        if not self.preserve_norm:
            return added
        before, after = stream.norm(dim=-1, keepdim=True), added.norm(dim=-1, keepdim=True)
        # A sum of zero has no direction to be scaled along, and stays zero.
        return added * (before / torch.where(after == 0, 1.0, after))

    def _picked(self, selection: Selection) -> Tensor | None:
        return within(super()._picked(selection), self.vector, selection)


@dataclass(frozen=True, eq=False)
class Mix(Edit):
    """Replace `h` by `(1 - weight) * h + weight * vector`; shapes as in `Add`.

    `weight` lies in [0, 1]: 0 is the plain model, 1 replaces.

    Examples:
        >>> import torch
        >>> ones = torch.ones(model.cfg.d_model)
        >>> edits = [lp.Set(value=1.0, layers=2), lp.Mix(3 * ones, layers=2, weight=0.25)]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [1.5, 1.5, 1.5]
    """

    vector: Tensor
    weight: float | Tensor = field(kw_only=True)

    @override
    def rows(self) -> int | None:
        return row_count(self.vector if self.vector.ndim == 3 else None, self.weight)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        weight = checked_strength("weight", self.weight, adapter)
        values = torch.as_tensor(weight)
        if bool(((values < 0) | (values > 1)).any()):
            raise ArgumentError(f"weight={self.weight!r}: between 0 and 1.")
        return replace(
            self, vector=checked_vector("vector", self.vector, width, adapter), weight=weight
        )

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        weight = per_row(self.weight, selection)
        return (1 - weight) * stream + weight * aligned(self.vector, stream, selection)

    def _picked(self, selection: Selection) -> Tensor | None:
        return within(super()._picked(selection), self.vector, selection)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Edit):
    """Multiply by `factor`: the whole vector, or with `dim` only those coordinates.

    `factor` is a number, or `[batch]`, one for each text.

    Examples:
        >>> edits = [lp.Set(value=1.0, layers=2), lp.Scale(factor=3.0, layers=2, dim=0)]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [3.0, 1.0, 1.0]
    """

    factor: float | Tensor
    dim: int | Sequence[int] | None = None

    @override
    def rows(self) -> int | None:
        return row_count(None, self.factor)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        dim = checked_dims(self.dim, width)
        return replace(self, factor=checked_strength("factor", self.factor, adapter), dim=dim)

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        return only_dims(self.dim, stream, stream * per_row(self.factor, selection))


@dataclass(frozen=True, eq=False, kw_only=True)
class Set(Edit):
    """Overwrite with `value`: a number, or tensors shaped as in `Add`; `dim` limits it.

    With `dim`, `value` has as many numbers as there are coordinates, or is one number.

    Examples:
        >>> edits = [lp.Set(value=1.0, layers=2), lp.Set(value=7.0, layers=2, dim=[0, 1])]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [7.0, 7.0, 1.0]
    """

    value: float | Tensor
    dim: int | Sequence[int] | None = None

    @override
    def rows(self) -> int | None:
        table = self.value if isinstance(self.value, Tensor) and self.value.ndim == 3 else None
        return row_count(table, None)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        dim = checked_dims(self.dim, width)
        count = width if dim is None else len(dim)
        value = checked_tensor("value", self.value)
        if value.ndim == 0:
            value = value.expand(count)
        return replace(self, value=checked_vector("value", value, count, adapter), dim=dim)

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        assert isinstance(self.value, Tensor)
        if self.dim is None:
            return aligned(self.value, stream, selection).expand_as(stream)
        part = stream[..., list(as_dims(self.dim))]
        part = aligned(self.value, part, selection).expand_as(part)
        index = torch.tensor(as_dims(self.dim), device=stream.device).expand(part.shape)
        return stream.scatter(-1, index, part)

    def _picked(self, selection: Selection) -> Tensor | None:
        assert isinstance(self.value, Tensor)
        return within(super()._picked(selection), self.value, selection)


@dataclass(frozen=True, eq=False)
class ProjectOut(Edit):
    """Remove the component along `vector` `[width]`, which need not have unit norm.

    Examples:
        >>> import torch
        >>> first = torch.eye(model.cfg.d_model)[0]
        >>> edits = [lp.Set(value=1.0, layers=2), lp.ProjectOut(first, layers=2)]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [0.0, 1.0, 1.0]
    """

    vector: Tensor

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        return replace(
            self, vector=checked_direction(type(self).__name__, self.vector, width, adapter)
        )

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        unit = self.vector.to(stream.dtype)
        return stream - (stream @ unit)[..., None] * unit


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """Set the component along `vector` `[width]` to `value`, in units of the residual stream.

    The direction need not have unit norm; the rest of the stream stays as it is. `value` is a number,
    or `[batch]`, one for each text. `value=0` is `ProjectOut`.

    Examples:
        >>> import torch
        >>> ones = torch.ones(model.cfg.d_model)
        >>> edits = [lp.Set(value=1.0, layers=2), lp.Clamp(ones, layers=2, value=768**0.5 / 2)]
        >>> lp.forward(model, "Hi", edits=edits, layers=2).activation(2)[0, :3].round(3).tolist()
        [0.5, 0.5, 0.5]
    """

    vector: Tensor
    value: float | Tensor = field(kw_only=True)

    @override
    def rows(self) -> int | None:
        return row_count(None, self.value)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        vector = checked_direction(type(self).__name__, self.vector, width, adapter)
        return replace(self, vector=vector, value=checked_strength("value", self.value, adapter))

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        unit = self.vector.to(stream.dtype)
        component = (stream @ unit)[..., None]
        return stream + (per_row(self.value, selection) - component) * unit
