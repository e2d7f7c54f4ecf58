"""A bridge's weights as a transformers folder, which `load` and every other program reads."""

from __future__ import annotations

import copy as copying
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .adapter import adapter_for
from .building import boot, quiet
from .tokenizers import with_tokenizer

__all__ = ["write_folder"]


def write_folder(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a bridge's weights as a transformers folder (config, safetensors, tokenizer).

    The bridge splits fused matrices (GPT-2's `c_attn`) and renames modules. What goes where is found
    by wrapping a model of the same configuration whose weights are their own addresses, so that no
    architecture needs a rule of its own.

    Raises:
        ModelError: `HookedTransformer`, whose weights no transformers model holds; a bridge whose
            weights were processed, or are more than a rearrangement of the wrapped model's; a model
            without a tokenizer.
    """
    adapter = adapter_for(model)
    if adapter.line != "bridge":
        raise ModelError(
            "a HookedTransformer cannot be written as a transformers folder; wrap the transformers "
            "model with lp.load(model, tokenizer=..., copy=True) and train that."
        )
    if adapter.coordinates() != "raw":
        raise ModelError(f"weights in {adapter.coordinates()} do not fit the wrapped model again.")
    wrapped = model.original_model
    with quiet(), torch.random.fork_rng(devices=[]):
        fresh = type(wrapped)(copying.deepcopy(wrapped.config))
        fresh.load_state_dict(dict(_restored(model, fresh)), strict=False)
        fresh.tie_weights()
        # A model made from a config is float32, whatever the trained one is.
        fresh = fresh.to(adapter.dtype)
        path = Path(folder)
        fresh.save_pretrained(path)
        adapter.tokenizer.save_pretrained(path)
    return path


@torch.no_grad()
def _restored(model: Any, fresh: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each weight of the plain model `fresh`, read from the bridge `model`."""
    # float64 holds an address exactly: which tensor, and which of its numbers.
    tagged = copying.deepcopy(fresh).double()
    plain = dict(tagged.named_parameters())
    begins: dict[str, int] = {}
    count = 0
    for name, parameter in plain.items():
        begins[name] = count
        parameter.copy_(torch.arange(count, count + parameter.numel()).view(parameter.shape))
        count += parameter.numel()
    names = {id(parameter): name for name, parameter in plain.items()}
    bridge = with_tokenizer(lambda own: boot("tagged", tagged, own), adapter_for(model).tokenizer)
    live = dict(model.named_parameters())
    flat: dict[str, Tensor] = {}
    for path, parameter in bridge.named_parameters():
        if id(parameter) in names:
            kept = live[path].detach().cpu()
            flat.setdefault(names[id(parameter)], kept.clone(memory_format=torch.contiguous_format))
    starts = torch.tensor([*begins.values(), count])
    for path, parameter in bridge.named_parameters():
        if id(parameter) in names:
            continue
        # A piece that the bridge cut out of a fused matrix.
        tags = parameter.detach().reshape(-1)
        places = tags.long()
        which = int(torch.searchsorted(starts, places[:1], right=True)) - 1
        if len(places.unique()) == len(places) and torch.equal(places.double(), tags):
            name = list(begins)[which]
            flat[name].view(-1)[places - begins[name]] = live[path].detach().cpu().reshape(-1)
        elif live[path].any():
            # All zeros is the bias that TransformerLens 3.9's bridge adds; anything else is lost.
            raise ModelError(f"{path!r} is no part of a weight of the wrapped model.")
    yield from flat.items()
