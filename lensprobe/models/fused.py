"""Attention in one piece, for passes in which nobody reads what is inside it.

The bridge computes attention step by step, so that scores and pattern have hook points: a window of `T`
tokens costs `T x T` numbers in every head, several times over. transformers' own attention, on the very
projections that the bridge has hooked, leaves them to PyTorch's fused kernel, which never holds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components.position_embeddings_attention import (
    PositionEmbeddingsAttentionBridge,
)
from transformers import PretrainedConfig

from ..interrupts import undoing
from .hooks import attached, silent

if TYPE_CHECKING:
    from .bridge import BridgeAdapter

__all__ = ["fused"]

# Flags of the config under which the projections are not the plain ones.
_SPLIT = ("use_split_qkv_input", "use_attn_in", "use_attn_result")

# What PyTorch's kernel cannot do and transformers would leave out: Gemma 2's cap, GPT-OSS's sinks.
_BEYOND = ("attn_logit_softcapping", "sinks")

_trusted: WeakKeyDictionary[Any, list[PretrainedConfig]] = WeakKeyDictionary()
"""Models whose two attentions were compared: the configs to switch, none where they differ."""


@contextmanager
def fused(adapter: BridgeAdapter) -> Iterator[None]:
    """Passes inside the block have fused attention, where that changes nothing but rounding.

    They are as ever where a hook, whoever attached it, lies inside a block's attention, and in models
    whose attention is not known to be the same. An attention's projections and its two ends are hook
    points that fire either way. No hook may be attached inside an attention within the block.
    """
    attentions = _attentions(adapter)
    ready = bool(attentions) and _unread(attentions) and _same(adapter, attentions)
    # Asked again after the trial: in their first pass some blocks put hooks of their own there.
    if ready and _unread(attentions):
        with _switched(attentions, _trusted[adapter.model]):
            yield
    else:
        yield


def _attentions(adapter: BridgeAdapter) -> list[Any]:
    """The attention of every block; none where one of them could come out otherwise."""
    model = adapter.model
    flags = (
        getattr(model, "compatibility_mode", False),
        *(getattr(model.cfg, f, 0) for f in _SPLIT),
    )
    if any(flags) or not getattr(model.original_model, "_supports_sdpa", False):
        return []
    found = [getattr(block, "attn", None) for block in getattr(model, "blocks", ())]
    return found if all(map(_plain, found)) else []


def _plain(attention: Any) -> bool:
    # The class of Llama, Mistral, Qwen, Gemma and the like; its subclasses compute otherwise.
    if type(attention) is not PositionEmbeddingsAttentionBridge or "forward" in vars(attention):
        return False
    inner: Any = attention.original_component
    parts = set(inner.modules())
    bridged = (part for part in attention.children() if not isinstance(part, HookPoint))
    return (
        getattr(inner.config, "_attn_implementation", None) == "eager"
        # transformers clamps in place what a hook was given.
        and getattr(inner.config, "clip_qkv", None) is None
        and not inner.training
        and all(getattr(inner, name, None) is None for name in _BEYOND)
        and all(part in parts for part in bridged)
    )


def _unread(attentions: list[Any]) -> bool:
    """Whether nobody looks at an attention itself or between its ends and its projections."""
    for attention in attentions:
        projections = (getattr(attention, name, None) for name in "qkvo")
        outer = {attention.hook_in, attention.hook_out}
        outer.update(point for part in projections if part is not None for point in part.children())
        inside = (p for p in attention.modules() if isinstance(p, HookPoint) and p not in outer)
        if any(part._forward_hooks or part._forward_pre_hooks for part in (attention, *inside)):
            return False
    return True


def _same(adapter: BridgeAdapter, attentions: list[Any]) -> bool:
    """Whether each attention answers the same input the same either way, tried once of each model."""
    model = adapter.model
    if model not in _trusted:
        found = _configs(model.original_model)
        alike = True
        with torch.no_grad(), silent(model):
            # Without pads the kernel is given no mask.
            for lengths in ((12,), (12, 7)):
                mask = torch.arange(12) < torch.tensor(lengths)[:, None]
                given, stepwise = _answers(adapter, attentions, mask, ())
                with _switched(attentions, found):
                    whole = _answers(adapter, attentions, mask, given)[1]
                alike = alike and _close(whole, stepwise, torch.finfo(adapter.dtype).eps)
        _trusted[model] = found if alike else []
    return bool(_trusted[model])


def _close(one: Tensor, two: Tensor, eps: float) -> bool:
    """`[layer token d_model]`, within what rounding does to one attention: NaN is not."""
    apart, size = (torch.linalg.matrix_norm(x) for x in (one - two, two))
    return bool((apart <= size * max(1e-4, 4 * eps)).all())


def _answers(
    adapter: BridgeAdapter, attentions: list[Any], mask: Tensor, instead: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """What the attentions are given and answer for a few tokens, given `instead` if there is any.

    With the same input for each, what rounding grows into from block to block is no difference between
    them. Answers are `[layer token d_model]`, real tokens only.
    """
    ids = (torch.arange(mask.numel()) % adapter.d_vocab).reshape(mask.shape).to(adapter.device)
    given: list[Tensor] = []
    answers: list[Tensor] = []

    def enter(value: Tensor, hook: Any) -> Tensor:
        given.append(value)
        return instead[len(given) - 1] if instead else value

    def leave(value: Tensor, hook: Any) -> None:
        answers.append(value.cpu()[mask].double())

    ends = ((attention.hook_in, attention.hook_out) for attention in attentions)
    with attached(pair for first, last in ends for pair in ((first, enter), (last, leave))):
        adapter.run(ids, mask=None if mask.all() else mask.to(ids.device), logits=None)
    return given, torch.stack(answers)


@contextmanager
def _switched(attentions: list[Any], configs: list[PretrainedConfig]) -> Iterator[None]:
    def choose(kernel: str) -> None:
        for config in configs:
            # The property would set the configs inside too, an image tower's for example.
            config._attn_implementation_internal = kernel

    def restore() -> None:
        choose("eager")
        for attention in attentions:
            vars(attention).pop("forward", None)

    with undoing(restore):
        # transformers takes its kernel and the shape of its mask from the config, at each call.
        choose("sdpa")
        for attention in attentions:
            # Straight into __dict__: nn.Module's own attribute handling never sees it.
            vars(attention)["forward"] = _whole(attention)
        yield


def _configs(module: Any) -> list[PretrainedConfig]:
    """Those of a transformers model and its parts that say "eager"."""
    configs = (getattr(part, "config", None) for part in module.modules())
    found = (config for config in configs if isinstance(config, PretrainedConfig))
    return list({id(c): c for c in found if c._attn_implementation == "eager"}.values())


def _whole(attention: Any) -> Any:
    """The forward pass of transformers, between the attention's two outer hook points."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        entered = attention.hook_in(hidden_states)
        left, *others = attention.original_component(entered, *args, **kwargs)
        return attention.hook_out(left), *others

    return forward
