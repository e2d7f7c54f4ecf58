"""Wrapping a transformers model that the user has loaded alone."""

from __future__ import annotations

import copy as copying
from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import hub
from .building import as_model_error, boot, quiet
from .lora import has_adapter_layers, merge, merged
from .origin import remember
from .tokenizers import with_tokenizer

__all__ = ["wrap"]


def wrap(model: Any, tokenizer: Any, *, adapter: Path | None, copy: bool) -> Any:
    """A `TransformerBridge` around a transformers or PEFT model.

    Raises:
        ModelError: it is wrapped already, carries unmerged adapter layers, or is not supported.
    """
    if any(type(module).__module__.startswith("transformer_lens") for module in model.modules()):
        raise ModelError("this model is inside a TransformerLens model already; use that one.")
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    with as_model_error(name), hub.offline(), quiet():
        raw = copying.deepcopy(model) if copy else model
        if any(cls.__name__ == "PeftModel" for cls in type(raw).__mro__):
            raw = merge(raw)
        elif has_adapter_layers(raw):
            raise ModelError(
                f"{name!r} carries adapter layers; load it as a PeftModel and pass copy=True, "
                "or merge them first."
            )
        if adapter is not None:
            raw = merged(raw, adapter)
        raw.set_attn_implementation("eager")
        bridge = with_tokenizer(lambda own: boot(name, raw, own), tokenizer)
    bridge.eval()
    remember(
        bridge,
        name=name,
        source="a transformers model already loaded",
        revision=getattr(raw.config, "_commit_hash", None),
        adapter=None if adapter is None else adapter.name,
        coordinates="raw",
    )
    return bridge
