"""Attaching one hook and removing that one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..interrupts import undoing, uninterrupted

__all__ = ["add_hook", "attached", "is_ours", "silent"]

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
def attached(
    hooks: Iterable[tuple[Any, Callable[..., Any]]], *, ours: bool = True
) -> Iterator[None]:
    """Forward hooks `(point, function)` for the length of a `with` block.

    Whatever ends it, Ctrl-C in the middle of cleaning up too, these are removed and no others.
    """
    removers: list[Callable[[], None]] = []

    def detach() -> None:
        for remove in reversed(removers):
            remove()

    with undoing(detach):
        with uninterrupted():
            for point, function in hooks:
                removers.append(add_hook(point, function, ours=ours))
        yield


@contextmanager
def silent(model: Any) -> Iterator[None]:
    """No hook point of the model speaks, unless hooks are added inside the block.

    Nor does what watches a bridge's passes. For passes that are not the user's and not an
    analysis's, such as asking what a block returns.
    """
    points = {id(point): point for point in model.hook_dict.values()}.values()
    held = [(point, "_forward_hooks", point._forward_hooks) for point in points]
    wrapped = getattr(model, "original_model", None)
    if wrapped is not None:
        held.append((wrapped, "_forward_pre_hooks", wrapped._forward_pre_hooks))

    def speak() -> None:
        for part, name, hooks in held:
            setattr(part, name, hooks)

    with undoing(speak):
        for part, name, hooks in held:
            setattr(part, name, type(hooks)())
        yield


def is_ours(handle: Any) -> bool:
    """Whether lensprobe attached this hook."""
    return id(handle) in _OURS
