"""Attaching one hook and removing that one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["add_hook", "is_ours", "silent"]

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


@contextmanager
def silent(model: Any) -> Iterator[None]:
    """No hook point of the model speaks, unless hooks are added inside the block.

    For passes that are not the user's and not an analysis's, such as asking what a block returns.
    """
    points = {id(point): point for point in model.hook_dict.values()}.values()
    held = [(point, point._forward_hooks) for point in points]
    try:
        for point, hooks in held:
            point._forward_hooks = type(hooks)()
        yield
    finally:
        for point, hooks in held:
            point._forward_hooks = hooks


def is_ours(handle: Any) -> bool:
    """Whether lensprobe attached this hook."""
    return id(handle) in _OURS
