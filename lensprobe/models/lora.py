"""LoRA and its like: an adapter's effective weights are used, or the adapter is refused.

Reading the base weights alone would describe a model that nobody runs.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

from ..errors import ModelError

__all__ = ["has_adapter_layers", "merge", "merged", "packed"]


def merged(model: Any, adapter: Path) -> Any:
    """A transformers model with the adapter in `adapter` added into its weights.

    Raises:
        ModelError: PEFT is missing, the adapter fits badly, or it cannot be merged.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ModelError("adapter= needs PEFT: pip install peft.") from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrapped = peft.PeftModel.from_pretrained(model, str(adapter))
    # PEFT only warns, and such an adapter would leave the base weights as they are.
    if any("missing adapter keys" in str(warning.message) for warning in caught):
        raise ModelError(
            f"adapter={adapter.name!r} does not fit this model: its weights are missing."
        )
    return merge(wrapped)


def merge(wrapped: Any) -> Any:
    """The transformers model of a `PeftModel`, its active adapter merged into the weights.

    Raises:
        ModelError: the kind of adapter has no merged weights, or the base weights are packed.
    """
    if packed(wrapped):
        raise ModelError("an adapter cannot be merged into packed (4- or 8-bit) weights.")
    kind = str(getattr(wrapped.active_peft_config, "peft_type", "adapter"))
    try:
        if any(getattr(m, "disable_adapters", False) is True for m in wrapped.modules()):
            # The user switched it off: what runs is the base model.
            return wrapped.unload()
        model = wrapped.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ModelError(f"a {kind} adapter cannot be merged into the weights: {error}") from error
    if has_adapter_layers(model):
        raise ModelError(f"a {kind} adapter is left over after merging; its effect would be lost.")
    return model


def has_adapter_layers(model: Any) -> bool:
    """Whether PEFT layers sit inside a model."""
    return any(
        base.__name__ == "BaseTunerLayer" for m in model.modules() for base in type(m).__mro__
    )


def packed(model: Any) -> bool:
    """Whether weights are stored packed (bitsandbytes, GPTQ and the like), not as numbers to read."""
    return any(
        type(parameter).__name__ in ("Params4bit", "Int8Params")
        or not (parameter.is_floating_point() or parameter.is_complex())
        for parameter in model.parameters()
    )
