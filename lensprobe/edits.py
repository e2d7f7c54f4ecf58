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

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from . import positions as where
from .errors import ArgumentError
from .models.adapter import Adapter
from .models.sites import DEFAULT_SITE
from .models.stacks import StackName
from .positions import Positions

__all__ = ["Add", "Clamp", "Edit", "Mix", "ProjectOut", "Scale", "Selection", "Set"]

EVERYWHERE = where.all()
EDITABLE = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn.v")


@dataclass(frozen=True)
class Selection:
    """What an edit sees of one step: which tokens, which rows, and each token's turn.

    Attributes:
        mask: Bool `[batch pos]`, or None where every token is selected.
        rows: Long `[batch]`, the rows' indices in what the caller passed.
        turn: Long `[batch pos]`, how many selected tokens of this row came before this one.
    """

    mask: Bool[Tensor, "batch pos"] | None
    rows: Tensor
    turn: Tensor


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
        bound = placed._bind(adapter, adapter.width(self.site))
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
        made, width = vector.shape[-1], adapter.width(self.site)
        if made != width:
            raise ArgumentError(
                f"a vector of {made} numbers, made on {self.origin!r}, does not fit "
                f"{adapter.name!r}: its {self.site} has {width}."
            )
        if self.origin != adapter.name:
            warnings.warn(
                f"a vector made on {self.origin!r} is used on {adapter.name!r}.", stacklevel=2
            )

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
    """

    vector: Tensor
    scale: float | Tensor = field(default=1.0, kw_only=True)
    preserve_norm: bool = field(default=False, kw_only=True)

    @override
    def rows(self) -> int | None:
        return _rows(self.vector if self.vector.ndim == 3 else None, self.scale)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        vector = _vector("vector", self.vector, width, adapter)
        return replace(self, vector=vector, scale=_strength("scale", self.scale, adapter))

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        added = stream + _per_row(self.scale, selection) * _aligned(self.vector, stream, selection)
        if not self.preserve_norm:
            return added
        before, after = stream.norm(dim=-1, keepdim=True), added.norm(dim=-1, keepdim=True)
        # A sum of zero has no direction to be scaled along, and stays zero.
        return added * (before / torch.where(after == 0, 1.0, after))

    def _picked(self, selection: Selection) -> Tensor | None:
        return _within(super()._picked(selection), self.vector, selection)


@dataclass(frozen=True, eq=False)
class Mix(Edit):
    """Replace `h` by `(1 - weight) * h + weight * vector`; shapes as in `Add`.

    `weight` lies in [0, 1]: 0 is the plain model, 1 replaces.
    """

    vector: Tensor
    weight: float | Tensor = field(kw_only=True)

    @override
    def rows(self) -> int | None:
        return _rows(self.vector if self.vector.ndim == 3 else None, self.weight)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        weight = _strength("weight", self.weight, adapter)
        values = torch.as_tensor(weight)
        if bool(((values < 0) | (values > 1)).any()):
            raise ArgumentError(f"weight={self.weight!r}: between 0 and 1.")
        return replace(self, vector=_vector("vector", self.vector, width, adapter), weight=weight)

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        weight = _per_row(self.weight, selection)
        return (1 - weight) * stream + weight * _aligned(self.vector, stream, selection)

    def _picked(self, selection: Selection) -> Tensor | None:
        return _within(super()._picked(selection), self.vector, selection)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Edit):
    """Multiply by `factor`: the whole vector, or with `dim` only those coordinates.

    `factor` is a number, or `[batch]`, one for each text.
    """

    factor: float | Tensor
    dim: int | Sequence[int] | None = None

    @override
    def rows(self) -> int | None:
        return _rows(None, self.factor)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        dim = _dims(self.dim, width)
        return replace(self, factor=_strength("factor", self.factor, adapter), dim=dim)

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        return _only(self.dim, stream, stream * _per_row(self.factor, selection))


@dataclass(frozen=True, eq=False, kw_only=True)
class Set(Edit):
    """Overwrite with `value`: a number, or tensors shaped as in `Add`; `dim` limits it.

    With `dim`, `value` has as many numbers as there are coordinates, or is one number.
    """

    value: float | Tensor
    dim: int | Sequence[int] | None = None

    @override
    def rows(self) -> int | None:
        table = self.value if isinstance(self.value, Tensor) and self.value.ndim == 3 else None
        return _rows(table, None)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        dim = _dims(self.dim, width)
        count = width if dim is None else len(dim)
        value = _tensor("value", self.value)
        if value.ndim == 0:
            value = value.expand(count)
        return replace(self, value=_vector("value", value, count, adapter), dim=dim)

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        assert isinstance(self.value, Tensor)
        if self.dim is None:
            return _aligned(self.value, stream, selection).expand_as(stream)
        part = stream[..., list(_chosen(self.dim))]
        part = _aligned(self.value, part, selection).expand_as(part)
        index = torch.tensor(_chosen(self.dim), device=stream.device).expand(part.shape)
        return stream.scatter(-1, index, part)

    def _picked(self, selection: Selection) -> Tensor | None:
        assert isinstance(self.value, Tensor)
        return _within(super()._picked(selection), self.value, selection)


@dataclass(frozen=True, eq=False)
class ProjectOut(Edit):
    """Remove the component along `vector` `[width]`, which need not have unit norm."""

    vector: Tensor

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        return replace(self, vector=_direction(self, self.vector, width, adapter))

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        unit = self.vector.to(stream.dtype)
        return stream - (stream @ unit)[..., None] * unit


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """Set the component along `vector` `[width]` to `value`, in units of the residual stream.

    The direction need not have unit norm; the rest of the stream stays as it is. `value` is a number,
    or `[batch]`, one for each text. `value=0` is `ProjectOut`.
    """

    vector: Tensor
    value: float | Tensor = field(kw_only=True)

    @override
    def rows(self) -> int | None:
        return _rows(None, self.value)

    def _bind(self, adapter: Adapter, width: int) -> Edit:
        vector = _direction(self, self.vector, width, adapter)
        return replace(self, vector=vector, value=_strength("value", self.value, adapter))

    def _change(self, stream: Tensor, selection: Selection) -> Tensor:
        unit = self.vector.to(stream.dtype)
        component = (stream @ unit)[..., None]
        return stream + (_per_row(self.value, selection) - component) * unit


# ---- shared pieces ---------------------------------------------------------------------------


def _vector(name: str, given: Any, width: int, adapter: Adapter) -> Tensor:
    vector = _tensor(name, given)
    if vector.ndim not in (1, 2, 3) or vector.shape[-1] != width:
        raise ArgumentError(
            f"{name} has shape {tuple(vector.shape)}; at this site it needs [{width}], "
            f"[tokens, {width}] or [batch, tokens, {width}]."
        )
    if not bool(torch.isfinite(vector).all()):
        raise ArgumentError(f"{name} holds NaN or infinity.")
    # At least float32: half-precision vectors meet the stream in float32, doubles stay doubles.
    dtype = torch.promote_types(vector.dtype, torch.float32)
    return vector.to(device=adapter.device, dtype=dtype)


def _direction(edit: Edit, given: Any, width: int, adapter: Adapter) -> Tensor:
    vector = _vector("vector", given, width, adapter)
    if vector.ndim != 1 or float(vector.norm()) == 0.0:
        raise ArgumentError(f"vector: {type(edit).__name__} takes one direction that is not zero.")
    return vector / vector.norm()


def _strength(name: str, given: float | Tensor, adapter: Adapter) -> float | Tensor:
    values = _tensor(name, given)
    if values.ndim > 1 or values.dtype == torch.bool or not bool(torch.isfinite(values).all()):
        raise ArgumentError(f"{name}={given!r}: a finite number, or one for each text.")
    return values.to(adapter.device) if values.ndim or isinstance(given, Tensor) else float(values)


def _tensor(name: str, given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name}={given!r}: numbers or a tensor.") from error


def _dims(dim: int | Sequence[int] | None, width: int) -> tuple[int, ...] | None:
    if dim is None:
        return None
    values = dim.tolist() if isinstance(dim, Tensor | np.ndarray) else dim
    found = (values,) if isinstance(values, int) or not isinstance(values, Sequence) else values
    whole = [d for d in found if isinstance(d, int | np.integer) and not isinstance(d, bool)]
    inside = all(0 <= d < width for d in whole)
    if not whole or len(whole) < len(found) or not inside or len(set(whole)) < len(whole):
        raise ArgumentError(f"dim={dim!r}: this site has dimensions 0 to {width - 1}.")
    return tuple(int(d) for d in whole)


def _chosen(dim: int | Sequence[int]) -> tuple[int, ...]:
    return (dim,) if isinstance(dim, int) else tuple(dim)


def _rows(table: Tensor | None, strength: float | Tensor | None) -> int | None:
    if table is not None:
        return table.shape[0]
    if isinstance(strength, Tensor) and strength.ndim == 1:
        return strength.shape[0]
    return None


def _per_row(strength: float | Tensor, selection: Selection) -> float | Tensor:
    """A strength that broadcasts over `[batch pos width]`."""
    if isinstance(strength, Tensor) and strength.ndim == 1:
        return strength[selection.rows][:, None, None]
    return strength


def _aligned(vector: Tensor, stream: Tensor, selection: Selection) -> Tensor:
    """The row of the vector that each token takes, in the stream's dtype."""
    vector = vector.to(stream.dtype)
    if vector.ndim == 1:
        return vector
    turn = selection.turn.clamp(max=vector.shape[-2] - 1)
    if vector.ndim == 2:
        return vector[turn]
    return vector[selection.rows[:, None], turn]


def _within(picked: Tensor | None, vector: Tensor, selection: Selection) -> Tensor | None:
    """A table with k rows ends after the k-th selected token."""
    if vector.ndim == 1:
        return picked
    inside = (selection.turn < vector.shape[-2])[..., None]
    return inside if picked is None else picked & inside


def _only(dim: Any, stream: Tensor, changed: Tensor) -> Tensor:
    if dim is None:
        return changed
    chosen = torch.zeros(stream.shape[-1], dtype=torch.bool, device=stream.device)
    chosen[list(_chosen(dim))] = True
    return torch.where(chosen, changed, stream)
