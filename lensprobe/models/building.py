"""From what was found on disk to a TransformerLens model."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers

from ..errors import LensprobeError, ModelError
from . import hub
from .gguf_once import read_once
from .lora import merged
from .origin import remember
from .sources import KNOWN, Source
from .tokenizers import tokenizer_of, with_tokenizer

__all__ = ["T5_FAMILY", "as_model_error", "boot", "build", "legacy", "quiet"]


T5_FAMILY = ("t5", "mt5", "longt5")
"""transformers' `model_type` of the encoder-decoders that run: T5, FLAN-T5, T0, ByT5 and their like;
mT5; LongT5."""


def legacy() -> bool:
    """Whether the installed TransformerLens is 3.9, where `HookedTransformer` is alive."""
    return importlib.metadata.version("transformer-lens").startswith("3.")


def build(
    source: Source,
    *,
    tokenizer: Any,
    device: torch.device | None,
    dtype: torch.dtype | None,
    device_map: Any,
    adapter: Path | None,
) -> Any:
    """Read a found model and hand it to TransformerLens.

    Raises:
        ModelError: it cannot be read, lacks weights, or its architecture is not supported.
    """
    once = nullcontext() if source.file is None else read_once()
    with as_model_error(source.name), hub.offline(), quiet(), once:
        plain = tokenizer is None and adapter is None and device_map is None
        if source.kind == "planted" and legacy() and plain:
            from ._legacy import gpt2_folder_to_hooked

            model = gpt2_folder_to_hooked(source.folder, dtype or torch.float32, device or "cpu")
        else:
            raw = _read(source, device, dtype, device_map)
            if adapter is not None:
                raw = merged(raw, adapter)
            model = with_tokenizer(
                lambda own: _hooked(source, raw, own, device_map) or boot(source.name, raw, own),
                tokenizer_of(source) if tokenizer is None else tokenizer,
            )
    model.eval()
    remember(
        model,
        name=source.name,
        source=source.source,
        revision=source.revision,
        adapter=None if adapter is None else adapter.name,
        coordinates="raw",
        loading=_loading(source, device_map, adapter) if tokenizer is None else None,
        **source.details,
    )
    return model


def _loading(source: Source, device_map: Any, adapter: Path | None) -> dict[str, Any]:
    """What `load` is to be given elsewhere: paths whole, the commit that was found."""
    local = source.kind in ("folder", "gguf") and source.name not in KNOWN
    return {
        "name": os.path.abspath(Path(source.name).expanduser()) if local else source.name,
        "revision": source.revision,
        "device_map": device_map,
        "adapter": None if adapter is None else os.path.abspath(adapter),
    }


def _read(
    source: Source, device: torch.device | None, dtype: torch.dtype | None, device_map: Any
) -> Any:
    """The transformers model, every weight of it accounted for."""
    # Said outright: left open, transformers asks on the terminal whether to run a model's own code.
    where: dict[str, Any] = {"trust_remote_code": False}
    if source.file is not None:
        where["gguf_file"] = source.file
    config = transformers.AutoConfig.from_pretrained(source.folder, **where)
    kind = _model_class(source, config)
    if device_map is not None:
        where["device_map"] = device_map
    if dtype is None:
        # A GGUF file's weights are unpacked to float32; rounding them again would lose more.
        dtype = torch.float32 if source.file is not None else _checkpoint_dtype(source, config)
    model, report = kind.from_pretrained(
        source.folder,
        config=config,
        dtype=dtype,
        attn_implementation="eager",
        output_loading_info=True,
        **where,
    )
    # transformers fills what is missing with random numbers and only warns.
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(key[0]) for key in report.get("mismatched_keys", ()))
    if missing or mismatched:
        which = ", ".join((missing + mismatched)[:3])
        raise ModelError(
            f"{source.name!r} lacks {len(missing) + len(mismatched)} of its weights ({which}, ...)."
        )
    return model if device is None else model.to(device)


def _model_class(source: Source, config: Any) -> Any:
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    for architecture in config.architectures or ():
        if architecture.endswith(("ForMaskedLM", "ForPreTraining", "ForQuestionAnswering")):
            raise ModelError(
                f"{source.name!r} is a {architecture}: lensprobe reads language models that "
                "generate text (decoder-only, or encoder-decoder)."
            )
    return transformers.AutoModelForCausalLM


def _checkpoint_dtype(source: Source, config: Any) -> Any:
    # "auto" also looks into the weights where the config is silent.
    return getattr(config, "dtype", None) or "auto"


def _hooked(source: Source, raw: Any, tokenizer: Any, device_map: Any) -> Any:
    """A `HookedTransformer` on 3.9 for a hub model it knows by name, else None."""
    if not legacy() or source.repo is None or device_map is not None:
        return None
    # By name at run time: TransformerLens 4 has neither.
    names = importlib.import_module("transformer_lens.loading_from_pretrained")
    hooked = importlib.import_module("transformer_lens").HookedTransformer
    try:
        known = names.get_official_model_name(source.repo)
    except ValueError:
        return None
    if known != source.repo:
        return None
    return hooked.from_pretrained_no_processing(
        known, hf_model=raw, tokenizer=tokenizer, dtype=raw.dtype, device=raw.device
    )


def boot(name: str, raw: Any, tokenizer: Any) -> Any:
    """Wrap a transformers model in a `TransformerBridge`."""
    from transformer_lens.model_bridge import TransformerBridge

    device = None if getattr(raw, "hf_device_map", None) else raw.device
    model = TransformerBridge.boot_transformers(
        name, hf_model=raw, tokenizer=tokenizer, dtype=raw.dtype, device=device
    )
    if legacy() and raw.config.model_type in T5_FAMILY:
        from ._legacy_t5 import mend

        mend(model)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loaders inside the block, and leave the user's own settings as they were."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        # Some loaders print what no verbosity holds back.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def as_model_error(what: str) -> Iterator[None]:
    """Whatever a loader raises becomes one `ModelError` that names the model."""
    try:
        yield
    except (LensprobeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"{what!r} could not be loaded: {first[:300]} ({type(error).__name__})"
        ) from error
