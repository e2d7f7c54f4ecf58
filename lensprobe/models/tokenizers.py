"""Tokenizers in a state that TransformerLens can work with, without touching the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AutoTokenizer

from .sources import Source

__all__ = ["own_tokenizer"]


@contextmanager
def own_tokenizer(tokenizer: Any, source: Source | None = None) -> Iterator[Any]:
    """A tokenizer of our own: a copy of the user's, or the one found with the model.

    TransformerLens reads tokenizers again by their `name_or_path` to have the BOS token added, which
    fails for one made in memory or read from a GGUF file, and drops tokens that were added after
    loading. Inside the block the copy therefore has a folder to be read from.
    """
    if source is not None and tokenizer is None:
        where = {} if source.file is None else {"gguf_file": source.file}
        tokenizer = _read(source.folder, **where)
    with tempfile.TemporaryDirectory(prefix="lensprobe-") as folder:
        tokenizer.save_pretrained(folder)
        copy = _read(folder)
        copy.padding_side = tokenizer.padding_side
        yield copy


def _read(folder: Any, **where: str) -> Any:
    return AutoTokenizer.from_pretrained(folder, **where)
