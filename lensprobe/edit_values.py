"""What edits carry: values checked against a model, and brought to the tokens they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from .errors import ArgumentError
from .models.adapter import Adapter

__all__ = [
    "Selection",
    "aligned",
    "as_dims",
    "checked_dims",
    "checked_direction",
    "checked_strength",
    "checked_tensor",
    "checked_vector",
    "only_dims",
    "per_row",
    "row_count",
    "within",
]


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


def checked_vector(name: str, given: Any, width: int, adapter: Adapter) -> Tensor:
    """A vector or table of vectors of the right width, on the model's device.

    Raises:
        ArgumentError: another shape, or numbers that are not finite.
    """
    vector = checked_tensor(name, given)
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


def checked_direction(kind: str, given: Any, width: int, adapter: Adapter) -> Tensor:
    """A vector that is not zero, as one of norm 1, for the edit named `kind`.

    Raises:
        ArgumentError: zero, or not one vector.
    """
    vector = checked_vector("vector", given, width, adapter)
    if vector.ndim != 1 or float(vector.norm()) == 0.0:
        raise ArgumentError(f"vector: {kind} takes one direction that is not zero.")
    return vector / vector.norm()


def checked_strength(name: str, given: float | Tensor, adapter: Adapter) -> float | Tensor:
    """A number, or one for each text.

    Raises:
        ArgumentError: another shape, or not finite.
    """
    values = checked_tensor(name, given)
    if values.ndim > 1 or values.dtype == torch.bool or not bool(torch.isfinite(values).all()):
        raise ArgumentError(f"{name}={given!r}: a finite number, or one for each text.")
    return values.to(adapter.device) if values.ndim or isinstance(given, Tensor) else float(values)


def checked_tensor(name: str, given: Any) -> Tensor:
    """Anything that is numbers, as a tensor.

    Raises:
        ArgumentError: it is not.
    """
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name}={given!r}: numbers or a tensor.") from error


def checked_dims(dim: int | Sequence[int] | None, width: int) -> tuple[int, ...] | None:
    """Dimensions of a site, each named once; None is all of them.

    Raises:
        ArgumentError: out of range, named twice, or no whole numbers.
    """
    if dim is None:
        return None
    values = dim.tolist() if isinstance(dim, Tensor | np.ndarray) else dim
    found = (values,) if isinstance(values, int) or not isinstance(values, Sequence) else values
    whole = [d for d in found if isinstance(d, int | np.integer) and not isinstance(d, bool)]
    inside = all(0 <= d < width for d in whole)
    if not whole or len(whole) < len(found) or not inside or len(set(whole)) < len(whole):
        raise ArgumentError(f"dim={dim!r}: this site has dimensions 0 to {width - 1}.")
    return tuple(int(d) for d in whole)


def as_dims(dim: int | Sequence[int]) -> tuple[int, ...]:
    """One dimension or several as a tuple."""
    return (dim,) if isinstance(dim, int) else tuple(dim)


def row_count(table: Tensor | None, strength: float | Tensor | None) -> int | None:
    """How many texts these values are for; None where they serve any number."""
    if table is not None:
        return table.shape[0]
    if isinstance(strength, Tensor) and strength.ndim == 1:
        return strength.shape[0]
    return None


def per_row(strength: float | Tensor, selection: Selection) -> float | Tensor:
    """A strength that broadcasts over `[batch pos width]`."""
    if isinstance(strength, Tensor) and strength.ndim == 1:
        return strength[selection.rows][:, None, None]
    return strength


def aligned(vector: Tensor, stream: Tensor, selection: Selection) -> Tensor:
    """The row of the vector that each token takes, in the stream's dtype."""
    vector = vector.to(stream.dtype)
    if vector.ndim == 1:
        return vector
    turn = selection.turn.clamp(max=vector.shape[-2] - 1)
    if vector.ndim == 2:
        return vector[turn]
    return vector[selection.rows[:, None], turn]


def within(picked: Tensor | None, vector: Tensor, selection: Selection) -> Tensor | None:
    """A table with k rows ends after the k-th selected token."""
    if vector.ndim == 1:
        return picked
    inside = (selection.turn < vector.shape[-2])[..., None]
    return inside if picked is None else picked & inside


def only_dims(dim: Any, stream: Tensor, changed: Tensor) -> Tensor:
    """The change in some dimensions alone; None is all."""
    if dim is None:
        return changed
    chosen = torch.zeros(stream.shape[-1], dtype=torch.bool, device=stream.device)
    chosen[list(as_dims(dim))] = True
    return torch.where(chosen, changed, stream)
