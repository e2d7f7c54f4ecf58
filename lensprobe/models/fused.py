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
from transformers import PretrainedConfig

from ..interrupts import undoing
from .hooks import attached, silent

if TYPE_CHECKING:
    from .bridge import BridgeAdapter

__all__ = ["fused"]

_STEPWISE = "PositionEmbeddingsAttentionBridge"
"""The bridge's attention of Llama, Mistral, Qwen, Gemma and the like; subclasses compute otherwise."""

# Flags of the config under which the projections are not the plain ones.
_SPLIT = ("use_split_qkv_input", "use_attn_in", "use_attn_result")

# What PyTorch's kernel cannot do and transformers would leave out: Gemma 2's cap, GPT-OSS's sinks.
_BEYOND = ("attn_logit_softcapping", "sinks")

_agreed: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Models whose two attentions were compared, and whether they agreed."""


@contextmanager
def fused(adapter: BridgeAdapter) -> Iterator[None]:
    """Passes inside the block have fused attention, where that changes nothing but rounding.

    They are as ever where a hook, whoever attached it, lies inside a block's attention, and in models
    whose attention is not known to be the same. An attention's projections and its two ends are hook
    points that fire either way. No hook may be attached inside an attention within the block.
    """
    attentions = _attentions(adapter)
    if not attentions or not _unread(attentions) or not _agree(adapter, attentions):
        yield
        return
    with _switched(adapter, attentions):
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
    if type(attention).__name__ != _STEPWISE or "forward" in vars(attention):
        return False
    inner = attention.original_component
    parts = set(inner.modules())
    bridged = (part for part in attention.children() if not isinstance(part, HookPoint))
    return (
        getattr(inner.config, "_attn_implementation", None) == "eager"
        and not inner.training
        and all(getattr(inner, name, None) is None for name in _BEYOND)
        and all(part in parts for part in bridged)
    )


def _unread(attentions: list[Any]) -> bool:
    """Whether nobody looks at an attention itself or between its projections."""
    for attention in attentions:
        ends = (attention.hook_in, attention.hook_out)
        inside = (p for p in attention.children() if isinstance(p, HookPoint) and p not in ends)
        if any(part._forward_hooks or part._forward_pre_hooks for part in (attention, *inside)):
            return False
    return True


def _agree(adapter: BridgeAdapter, attentions: list[Any]) -> bool:
    """Whether each attention answers the same input the same either way, tried once of each model."""
    model = adapter.model
    if model not in _agreed:
        with torch.no_grad(), silent(model):
            given, stepwise = _answers(adapter, attentions, ())
            with _switched(adapter, attentions):
                whole = _answers(adapter, attentions, given)[1]
        apart, size = (torch.linalg.vector_norm(x, dim=-1) for x in (whole - stepwise, stepwise))
        _agreed[model] = bool((apart <= size * torch.finfo(adapter.dtype).eps ** 0.5).all())
    return _agreed[model]


def _answers(
    adapter: BridgeAdapter, attentions: list[Any], instead: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """What the attentions are given and answer for a few tokens, given `instead` if there is any.

    With the same input for each, what rounding grows into from block to block is no difference between
    them. Answers are `[layer token d_model]`, real tokens only.
    """
    ids = (torch.arange(24, device=adapter.device) % adapter.d_vocab).reshape(2, 12)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 7:] = False
    given: list[Tensor] = []
    answers: list[Tensor] = []

    def enter(value: Tensor, hook: Any) -> Tensor:
        given.append(value)
        return instead[len(given) - 1] if instead else value

    def leave(value: Tensor, hook: Any) -> None:
        answers.append(value[mask].cpu().double())

    ends = ((attention.hook_in, attention.hook_out) for attention in attentions)
    with attached(pair for first, last in ends for pair in ((first, enter), (last, leave))):
        adapter.run(ids, mask=mask, logits=None)
    return given, torch.stack(answers)


@contextmanager
def _switched(adapter: BridgeAdapter, attentions: list[Any]) -> Iterator[None]:
    configs = list(
        {id(config): config for config in _configs(adapter.model.original_model)}.values()
    )

    def restore() -> None:
        for config in configs:
            config._attn_implementation = {"": "eager"}
        for attention in attentions:
            vars(attention).pop("forward", None)

    with undoing(restore):
        # transformers chooses its kernel and the shape of its mask by the config, at each call. The
        # empty key is the config itself: without it, those inside (an image tower's) would follow.
        for config in configs:
            config._attn_implementation = {"": "sdpa"}
        for attention in attentions:
            # Straight into __dict__: nn.Module's own attribute handling never sees it.
            vars(attention)["forward"] = _whole(attention)
        yield


def _configs(module: Any) -> Iterator[Any]:
    for part in module.modules():
        config = getattr(part, "config", None)
        if isinstance(config, PretrainedConfig) and config._attn_implementation == "eager":
            yield config


def _whole(attention: Any) -> Any:
    """The forward pass of transformers, between the attention's two outer hook points."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        entered = attention.hook_in(hidden_states)
        left, *others = attention.original_component(entered, *args, **kwargs)
        return attention.hook_out(left), *others

    return forward
