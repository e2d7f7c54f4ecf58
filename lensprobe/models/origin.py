"""Where each loaded model came from, remembered beside the model, never on it."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["loading", "origin", "remember"]

_ORIGINS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def remember(model: Any, **facts: Any) -> None:
    """Keep facts about a model (name, revision, source, quantisation) for its results' provenance.

    `loading` among them is how `load` would make it again, in another process.
    """
    _ORIGINS[model] = facts


def origin(model: Any) -> dict[str, Any]:
    """The facts `remember` was given; empty for a model that lensprobe did not load."""
    return dict(_ORIGINS.get(model, {}))


def loading(model: Any) -> dict[str, Any] | None:
    """The `name` and options with which `load` makes this model; None where it could not."""
    known = origin(model).get("loading")
    return None if known is None else dict(known)
