"""What can go wrong, tried for real.

A family is a module of this package with a tuple `FAULTS`; nothing else registers it.
`python -m faults` runs them and writes what happened, good or bad, to `docs/reliability.md`.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Fault", "NotHereError", "families"]


class NotHereError(Exception):
    """What this fault needs (a mount, a browser, a package) is not on this machine."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: what is done.
        promise: what must then be true.
        trial: does it once, in an empty folder, with its own random numbers; returns what happened in
            a few words, the same words for the same outcome; raises where the promise is broken.
        trials: how often `make faults` does it.
        quick: how often the tests do; 0 leaves it to `make faults`.
        limit: seconds after which a trial counts as hanging.
    """

    name: str
    promise: str
    trial: Callable[[random.Random, Path], str]
    trials: int
    quick: int = 0
    limit: float = 60.0


def families() -> dict[str, tuple[str, tuple[Fault, ...]]]:
    """Module name to its title (the first line of its docstring) and its faults."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        if hasattr(module, "FAULTS"):
            title = (module.__doc__ or info.name).strip().splitlines()[0].rstrip(".")
            found[info.name] = (title, module.FAULTS)
    return found
