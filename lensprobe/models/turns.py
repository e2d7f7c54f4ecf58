"""Models that take turns: each is found by its name, loaded, used, and let go of before the next."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .loading import load

__all__ = ["named", "used"]

T = TypeVar("T")


def named(name: str) -> tuple[str, str | None]:
    """A hub id and its revision, of `name@revision`; a path may hold an @ of its own."""
    source, at, revision = name.rpartition("@")
    if not at or Path(name).exists():
        return name, None
    return source, revision


def used(name: Any, use: Callable[[Any], T], *, device: Any = None, dtype: Any = "auto") -> T:
    """What `use` makes of a model that is in memory for as long as it takes.

    Args:
        name: as `lp.load` takes it, or a hub id as `name@revision`; a model in memory is used as it is.
        use: what is done with it.
        device: as in `lp.load`.
        dtype: as in `lp.load`.
    """
    if not isinstance(name, str):
        return use(name)
    source, revision = named(name)
    model = load(source, revision=revision, device=device, dtype=dtype)
    try:
        return use(model)
    finally:
        # Models are full of cycles; the next one needs the room.
        del model
        gc.collect()
