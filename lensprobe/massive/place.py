"""At which layer a coordinate is edited, and on which sequences: settled before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..models.sites import DEFAULT_SITE
from ..tokens import Encoded
from .subject import Subject
from .target import Target
from .trajectory import trajectory

__all__ = ["FEW", "birth_of", "births", "check_epsilon", "length_note", "numbers", "scored_rows"]

FEW = 8
"""Sequences whose trajectory says where a coordinate is born; it hardly differs between texts."""


def birth_of(
    adapter: Adapter, about: Subject, target: Target, batch_tokens: int | None
) -> tuple[int, str]:
    """The layer after which a coordinate first stands, and how that is known.

    Of a finding it is the first layer at which the scan found it massive, otherwise the birth of its
    trajectory over a few of the sequences.

    Raises:
        ArgumentError: the coordinate has no finite value.
    """
    if target.layers and target.site == DEFAULT_SITE:
        return target.layers[0], f"layer {target.layers[0]} is the first at which it is massive"
    rows = about.rows[:FEW]
    found = trajectory(
        adapter.model,
        rows,
        dim=target.dim,
        position=target.position,
        bos=False,  # the texts are token ids by now
        length=max(map(len, rows)),
        batch_tokens=batch_tokens,
        progress=False,
    )
    births = found.stages.loc[found.stages["kind"] == "birth", "first"]
    if births.empty:
        raise ArgumentError(f"{target} has no finite value in these texts; name layer=.")
    layer = int(births.iloc[0])
    return layer, f"{target} is born at layer {layer}, by its trajectory"


def births(adapter: Adapter, about: Subject, batch_tokens: int | None) -> tuple[int, list[str]]:
    """The last layer at which one of the coordinates is born, and how that is known.

    Raises:
        ArgumentError: see `birth_of`.
    """
    found = [birth_of(adapter, about, target, batch_tokens) for target in about.each]
    return max(layer for layer, _ in found), [note for _, note in found]


def scored_rows(about: Subject, position: int) -> list[int]:
    """Which sequences have a token to predict after the position.

    Raises:
        ArgumentError: a document has none.
    """
    kept = [i for i, row in enumerate(about.rows) if len(row) > position + 1]
    without = sorted(set(about.documents) - {about.documents[i] for i in kept})
    if without:
        raise ArgumentError(
            f"position={position}: text {without[0]} ends there, and no token after it is predicted."
        )
    return kept


def numbers(name: str, given: Any) -> tuple[float, ...]:
    """Different finite numbers, ascending.

    Raises:
        ArgumentError: none, one that is not finite, or one twice.
    """
    try:
        values = [given] if isinstance(given, int | float) else list(given)
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}={given!r}: numbers.") from error
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise ArgumentError(f"{name}={given!r}: one or more different finite numbers.")
    return tuple(sorted(found))


def check_epsilon(epsilon: Any) -> None:
    """Raises `ArgumentError` unless it is an attention."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ArgumentError(f"epsilon={epsilon!r}: an attention, at least 0 and below 1.")


def length_note(rows: Sequence[Encoded]) -> list[str]:
    """What a reader of attention and sink rates should know where lengths differ."""
    short, long = min(map(len, rows)), max(map(len, rows))
    if long < 2 * short:
        return []
    return [
        f"sequences have {short} to {long} tokens; attention to one position, and with it the sink "
        "rate, is larger in shorter ones"
    ]
