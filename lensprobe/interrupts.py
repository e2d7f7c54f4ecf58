"""Ctrl-C may come at any instruction; a few steps must be done wholly or not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["undoing", "uninterrupted"]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the end of the block."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        # Python delivers signals to the main thread only.
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *details: came.append(details))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


@contextmanager
def undoing(undo: Callable[[], None]) -> Iterator[None]:
    """`undo` at the end of the block, however it ends; it must be harmless to undo twice."""
    try:
        yield
    finally:
        try:
            with uninterrupted():
                undo()
        except KeyboardInterrupt:
            # Ctrl-C came between the end of the block and where it is held back.
            undo()
            raise
