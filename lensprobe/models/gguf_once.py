"""One reading of a GGUF file for everything that transformers asks of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["read_once"]

_ALONE = threading.RLock()


@contextmanager
def read_once() -> Iterator[None]:
    """Inside the block a GGUF file's index is read once, and its tensors' names are listed once.

    transformers reads the whole vocabulary anew for the configuration, the tokenizer and the weights,
    and lists the names of all tensors for every module of the model: two thirds of the time that
    SmolLM2-135M takes to load. Neither is changed by who reads it.
    """
    import gguf

    # The package is everybody's: whoever loads in another thread waits, and finds it as it was.
    with _ALONE:
        before: dict[str, Callable[..., Any]] = {
            name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")
        }
        try:
            for name, call in before.items():
                setattr(gguf, name, cache(call))
            yield
        finally:
            for name, call in before.items():
                setattr(gguf, name, call)
