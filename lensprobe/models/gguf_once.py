"""One reading of a GGUF file for everything that transformers asks of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
    SmolLM2-135M takes to load. Neither is changed by who reads it. Nor is its progress bar drawn,
    which has no switch and in a notebook writes neither to stdout nor to stderr.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    # The modules are everybody's: whoever loads in another thread waits, and finds them as they were.
    with _ALONE:
        inside: list[tuple[Any, str, Any]] = [
            (gguf, "GGUFReader", cache(gguf.GGUFReader)),
            (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
            (reader, "tqdm", lambda tensors, **_: tensors),
        ]
        before = [getattr(module, name) for module, name, _ in inside]
        try:
            for module, name, value in inside:
                setattr(module, name, value)
            yield
        finally:
            for (module, name, _), value in zip(inside, before, strict=True):
                setattr(module, name, value)
