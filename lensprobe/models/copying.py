"""A model of one's own to change: copies without anybody's hooks, and weights by name.

Training changes weights in place. It happens to a copy, so that the user's model stays as it was, bit
for bit, and so that hooks which the user attached never meet a training pass.
"""

from __future__ import annotations

import copy as copying
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .adapter import adapter_for
from .origin import origin, remember
from .weights import weights_of

__all__ = ["copied", "named_weights"]

HOOK_DICTS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
LIBRARIES = ("transformer_lens", "transformers", "torch")
"""Whose hooks on a module (not on a hook point) are part of the model."""


def copied(model: Any) -> Any:
    """A deep copy of a TransformerLens model that shares no weight with it and carries no hooks.

    Gradients are not copied; which weights are frozen is, and so is training or eval mode.

    Raises:
        ModelError: not a TransformerLens model; an encoder-decoder; packed weights, or LoRA layers
            that are not merged; a model spread over devices.
    """
    weights_of(adapter_for(model))
    if getattr(getattr(model, "original_model", None), "hf_device_map", None):
        raise ModelError("a model that is spread over devices cannot be copied; load it on one.")
    other = copying.deepcopy(model, _shared(model))
    for block in getattr(other, "blocks", ()):
        # The bridge's own capture hooks close over the block they were made for, the original's;
        # taken down, they are made anew for the copy by its first pass.
        if hasattr(block, "_teardown_capture_hooks"):
            block._teardown_capture_hooks()
    for module in other.modules():
        _strip(module)
    for point in other.hook_dict.values():
        point.fwd_hooks.clear()
        point.bwd_hooks.clear()
    _freeze_additions(other)
    remember(other, **origin(model))
    return other


def _freeze_additions(model: Any) -> None:
    """TransformerLens 3.9's bridge gives an unembedding a bias of zeros that the model never had."""
    wrapped = getattr(model, "original_model", None)
    if wrapped is None:
        return
    with torch.device("meta"):
        plain = type(wrapped)(copying.deepcopy(wrapped.config))
    if getattr(plain.get_output_embeddings(), "bias", None) is None:
        for path, parameter in wrapped.get_output_embeddings().named_parameters():
            if path.endswith("bias"):
                parameter.requires_grad_(False)


def _shared(model: Any) -> dict[int, Any]:
    """What a deep copy does not follow: the tokenizer, which nobody changes and which is slow to copy,
    and tensors inside a graph, which a bridge keeps of its last pass and which cannot be copied.
    """
    tokenizer = getattr(model, "tokenizer", None)
    memo: dict[int, Any] = {id(tokenizer): tokenizer}

    def note(value: Any) -> None:
        if isinstance(value, Tensor) and value.grad_fn is not None:
            memo[id(value)] = value.detach()
        elif isinstance(value, list | tuple):
            for part in value:
                note(part)

    for module in model.modules():
        for value in vars(module).values():
            note(value)
    return memo


def _strip(module: nn.Module) -> None:
    everything = hasattr(module, "fwd_hooks")
    for name in HOOK_DICTS:
        hooks = getattr(module, name)
        for key, hook in list(hooks.items()):
            if everything or not str(getattr(hook, "__module__", "")).startswith(LIBRARIES):
                del hooks[key]


def named_weights(model: Any) -> dict[str, nn.Parameter]:
    """Each parameter once, by TransformerLens's own name where it has one (`blocks.0.mlp.out.weight`
    on a bridge, `blocks.0.mlp.W_out` on the other class).

    Tied weights are one parameter. A matrix that the bridge has split in three is listed too, under
    the path it has inside the wrapped model; nothing reads it and no gradient reaches it.
    """
    known: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        known.setdefault(id(tensor), name)
    found: dict[str, nn.Parameter] = {}
    for path, parameter in model.named_parameters():
        name = known.get(id(parameter), str(path).replace("._original_component", ""))
        found[name] = parameter
    return found
