"""Tokenizers in a state that TransformerLens can work with, without touching the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from transformers import AutoTokenizer

from .sources import Source

__all__ = ["tokenizer_of", "with_tokenizer"]


def tokenizer_of(source: Source) -> Any:
    """The tokenizer found with a model."""
    where = {} if source.file is None else {"gguf_file": source.file}
    return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, **where)


def with_tokenizer(wrap: Callable[[Any], Any], tokenizer: Any) -> Any:
    """Call `wrap` with a copy of `tokenizer`, and return the TransformerLens model it makes.

    TransformerLens reads tokenizers again by their `name_or_path` to have the BOS token added, which
    fails for one made in memory or read from a GGUF file, and drops tokens that were added after
    loading. While `wrap` runs the copy therefore has a folder of its own to be read from.
    """
    with tempfile.TemporaryDirectory(prefix="lensprobe-") as folder:
        tokenizer.save_pretrained(folder)
        copy: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        copy.padding_side = tokenizer.padding_side
        model = wrap(copy)
    # The folder is gone; the name goes back to where the tokenizer came from.
    model.tokenizer.name_or_path = tokenizer.name_or_path
    model.tokenizer.init_kwargs["name_or_path"] = tokenizer.name_or_path
    return model
