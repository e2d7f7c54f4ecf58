"""Every error lensprobe raises on purpose.

A message names the argument, what was given and what is allowed. The subclasses exist so that a
caller can tell a wrong argument from a missing model from a full disk; each also derives from the
built-in exception that plain Python code would have raised, so `except ValueError` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "ArgumentError",
    "HookPointError",
    "Interrupted",
    "LensprobeError",
    "MissingPackageError",
    "ModelError",
    "OutputError",
    "nearest",
]


class LensprobeError(Exception):
    """Base class: `except lp.LensprobeError` catches everything lensprobe raises on purpose."""


class ArgumentError(LensprobeError, ValueError):
    """An argument is out of range, of the wrong shape, or does not fit this model."""


class ModelError(LensprobeError):
    """A model cannot be found, read, or used for the analysis that was asked for."""


class MissingPackageError(LensprobeError, ImportError):
    """A package of an optional extra is not installed."""


class HookPointError(LensprobeError, LookupError):
    """A hook point does not exist on this model, or is switched off and would never fire."""


class OutputError(LensprobeError, OSError):
    """A file cannot be written or read back; nothing half-written was left behind."""


class Interrupted(LensprobeError, KeyboardInterrupt):
    """The user pressed Ctrl-C (or the notebook's stop button) during a long call.

    `partial` is the result over what was finished, of the same type the call would have returned,
    marked incomplete in its provenance; `None` when nothing was finished.
    """

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial


def nearest(given: str, allowed: Iterable[str]) -> str:
    """A ` Did you mean 'x'?` suffix for an error message, or an empty string."""
    found = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
