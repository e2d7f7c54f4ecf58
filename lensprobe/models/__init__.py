"""Models: finding them, loading them, and one face for both TransformerLens classes.

Names are loaded when they are first used: looking for a model that is not there must not wait for
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import adapter_for
    from .checking import check
    from .loading import load

__all__ = ["adapter_for", "check", "load"]

_HOMES = {"adapter_for": "adapter", "check": "checking", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
