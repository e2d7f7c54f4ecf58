"""Attaching one hook and removing that one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["add_hook", "is_ours"]

_OURS: set[int] = set()
"""Handles of the hooks that lensprobe has attached just now; all others are the user's."""


def add_hook(point: Any, function: Callable[..., Any], *, ours: bool = True) -> Callable[[], None]:
    """Attach a forward hook to a `HookPoint` and return the call that removes this hook alone.

    `reset_hooks` would take the user's hooks with it. A hook that is not `ours` counts as the user's.
    """
    point.add_hook(function)
    handle = point.fwd_hooks[-1]
    if ours:
        _OURS.add(id(handle))

    def remove() -> None:
        _OURS.discard(id(handle))
        handle.hook.remove()
        point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]

    return remove


def is_ours(handle: Any) -> bool:
    """Whether lensprobe attached this hook."""
    return id(handle) in _OURS
