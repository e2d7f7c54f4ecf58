"""Fields of a state as it is read back: numbers, and as many of them as the others make it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["floats", "inside", "whole"]


def whole(
    state: Mapping[str, np.ndarray], name: str, *shape: int | None, least: int | None = 0
) -> np.ndarray:
    """A field of whole numbers, none below `least`; None in `shape` is an axis of any length.

    Raises:
        KeyError: there is no such field.
        ValueError: other numbers, or another shape.
    """
    found = _shaped(state, name, shape, "iu")
    if least is not None and found.size and found.min() < least:
        raise ValueError(f"{name}: {found.min()} is below {least}")
    return found


def floats(
    state: Mapping[str, np.ndarray], name: str, *shape: int | None, finite: bool = False
) -> np.ndarray:
    """A field of numbers with or without fractions, likewise.

    Raises:
        KeyError: there is no such field.
        ValueError: text, another shape, or infinite and NaN where only `finite` ones can be.
    """
    found = _shaped(state, name, shape, "iuf")
    if finite and not np.isfinite(found).all():
        raise ValueError(f"{name}: numbers that are not finite")
    return found


def inside(keys: np.ndarray, *ranges: tuple[int, int | None]) -> None:
    """Refuse keys, int `[keys, width]`, of which a column leaves its range; no upper end is None.

    Raises:
        ValueError: such a key, or another width.
    """
    for column, (low, high) in zip(keys.T, ranges, strict=True):
        if column.size and (column.min() < low or (high is not None and column.max() >= high)):
            raise ValueError(f"keys from {column.min()} to {column.max()}, not {low} to {high}")


def _shaped(
    state: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], kinds: str
) -> np.ndarray:
    found = np.array(state[name])
    fits = len(shape) == found.ndim and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if found.dtype.kind not in kinds or not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {found.dtype} {found.shape}, not numbers [{sizes}]")
    return found
