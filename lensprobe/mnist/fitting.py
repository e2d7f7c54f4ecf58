"""Whether data, pairs and coefficients fit a network, asked before anything is run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .adapter import MLPAdapter
from .data import CLASSES, DigitsData

__all__ = ["checked_fit", "checked_pairs", "checked_scales"]


def checked_fit(adapter: MLPAdapter, data: Any) -> None:
    """Whether a network reads these images and has an answer for each digit.

    Raises:
        ArgumentError: it does not.
    """
    if not isinstance(data, DigitsData):
        raise ArgumentError(f"data: a {type(data).__name__}; see lp.mnist.load_digits_data.")
    pixels = data.images.shape[1]
    if adapter.pixels != pixels:
        raise ArgumentError(
            f"data: images of {data.shape[0]}×{data.shape[1]} have {pixels} pixels; "
            f"this network reads {adapter.pixels}."
        )
    if adapter.d_vocab < CLASSES:
        raise ArgumentError(f"model: it has {adapter.d_vocab} outputs; there are {CLASSES} digits.")


def checked_pairs(pairs: Any, data: DigitsData) -> tuple[tuple[int, int], ...]:
    """Ordered pairs of digits, each once; `"all"` is every pair of different digits in the data.

    Raises:
        ArgumentError: not pairs of digits, or a digit that does not occur in the data.
    """
    present = sorted(set(data.labels.tolist()) & set(data.test_labels.tolist()))
    if isinstance(pairs, str):
        if pairs != "all":
            raise ArgumentError(f'pairs={pairs!r}: pairs of digits such as [(3, 1)], or "all".')
        return tuple((a, b) for a in present for b in present if a != b)
    if not isinstance(pairs, Iterable):
        raise ArgumentError(f'pairs={pairs!r}: pairs of digits such as [(3, 1)], or "all".')
    found = [tuple(pair) if isinstance(pair, Iterable) else (pair,) for pair in pairs]
    kept: list[tuple[int, int]] = []
    for pair in found:
        if len(pair) != 2 or not all(isinstance(digit, int | np.integer) for digit in pair):
            raise ArgumentError(f"pairs: {pair!r} is no pair of digits such as (3, 1).")
        missing = [digit for digit in pair if digit not in present]
        if missing:
            raise ArgumentError(
                f"pairs: digit {missing[0]} of {pair} does not occur in {data.name}."
            )
        kept.append((int(pair[0]), int(pair[1])))
    if not kept:
        raise ArgumentError("pairs is empty; name at least one pair of digits.")
    return tuple(dict.fromkeys(kept))


def checked_scales(scales: Any) -> tuple[float, ...]:
    """Coefficients, sorted.

    Raises:
        ArgumentError: none, one twice, or one that is not finite.
    """
    try:
        found = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"scales={scales!r}: numbers.") from error
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise ArgumentError(f"scales={scales!r}: one or more different finite numbers.")
    return tuple(sorted(found))
