"""What arguments of this room are checked for, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from ..errors import ArgumentError
from ..models.adapter import Adapter

__all__ = [
    "EPSILONS",
    "at_least_zero",
    "checked_epsilons",
    "checked_head",
    "checked_keys",
    "checked_position",
]

EPSILONS = (0.3, 0.8)
"""The least attention of a sink in Gu et al. (2410.10781) and in Barbero et al. (2504.02732)."""


def checked_keys(keys: Any, length: int) -> int:
    """How many of the first keys. Raises `ArgumentError` for more than there are."""
    if isinstance(keys, bool) or not isinstance(keys, int) or not 1 <= keys <= length:
        raise ArgumentError(f"keys={keys!r}: a whole number from 1 to the length, {length}.")
    return keys


def checked_epsilons(epsilon: Any) -> tuple[float, ...]:
    """Every epsilon once, in the order given, and then those that papers report."""
    given = [epsilon] if isinstance(epsilon, Real) or not isinstance(epsilon, Sequence) else epsilon
    for each in given or [epsilon]:
        if isinstance(each, bool) or not isinstance(each, Real) or not 0 <= float(each) < 1:
            raise ArgumentError(f"epsilon={epsilon!r}: an attention, at least 0 and below 1.")
    return tuple(dict.fromkeys([*map(float, given), *EPSILONS]))


def at_least_zero(name: str, value: Any) -> float:
    """A number that is not negative. Raises `ArgumentError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) >= 0:
        raise ArgumentError(f"{name}={value!r}: a number, at least 0.")
    return float(value)


def checked_position(position: Any, length: int) -> int:
    """A position that a window can have, with a token after it.

    Raises:
        ArgumentError: anything else.
    """
    if (
        isinstance(position, bool)
        or not isinstance(position, int)
        or not 0 <= position < length - 1
    ):
        raise ArgumentError(
            f"position={position!r}: a whole number from 0 to {length - 2}, so that a token follows."
        )
    return position


def checked_head(adapter: Adapter, head: Any) -> tuple[int, int]:
    """Layer and index of a head.

    Raises:
        ArgumentError: no pair, or out of range.
    """
    if not isinstance(head, tuple | list) or len(head) != 2:
        raise ArgumentError(f"head={head!r}: a layer and a head, such as (3, 0).")
    layer, index = head
    layer = adapter.layer(layer, "head")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < adapter.n_heads:
        raise ArgumentError(
            f"head={head!r}: this model has the heads 0 to {adapter.n_heads - 1} in each layer."
        )
    return layer, index
