"""`HookedTransformer`: TransformerLens's own implementation, alive in 3.9."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ArgumentError
from .adapter import Adapter, Report
from .cache import Cache
from .hooks import attached

__all__ = ["HookedAdapter"]


class HookedCache(Cache):
    """TransformerLens's key-value cache, one entry a block."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @override
    def drop(self, count: int) -> None:
        if count:
            for entry in self.inner.entries:
                entry.past_keys = entry.past_keys[:, :-count]
                entry.past_values = entry.past_values[:, :-count]
            self.length -= count
            self.mask = None if self.mask is None else self.mask[:, : self.length]
            self.inner.previous_attention_mask = self.inner.previous_attention_mask[:, :-count]

    @override
    def held(self) -> list[tuple[Tensor, Tensor]]:
        return [(entry.past_keys, entry.past_values) for entry in self.inner.entries]

    @override
    def hold(self, entries: Sequence[tuple[Tensor, Tensor]]) -> None:
        for entry, (keys, values) in zip(self.inner.entries, entries, strict=True):
            entry.past_keys, entry.past_values = keys, values
        rows, self.length = entries[0][0].shape[:2]
        mask = self.inner.previous_attention_mask
        self.inner.previous_attention_mask = mask.new_ones(rows, self.length)

    @override
    def repeated(self, times: int, start: int = 0) -> HookedCache:
        inner = copy(self.inner)
        inner.entries = [copy(entry) for entry in self.inner.entries]
        for entry in inner.entries[start:]:
            entry.past_keys = entry.past_keys.repeat_interleave(times, dim=0)
            entry.past_values = entry.past_values.repeat_interleave(times, dim=0)
        mask = self.inner.previous_attention_mask
        inner.previous_attention_mask = mask.repeat_interleave(times, dim=0)
        other = HookedCache(inner)
        self._like(other, times)
        return other


class HookedAdapter(Adapter):
    """See `Adapter`."""

    line = "hooked"

    @override
    def coordinates(self) -> str:
        norm = self.model.cfg.normalization_type or ""
        return "folded norms" if norm.endswith("Pre") else "raw"

    @override
    def norm_point(self, layer: int) -> tuple[str, Tensor | None]:
        # This class has its hook before the gain; a norm whose gain is folded away has none.
        name = f"blocks.{self.layer(layer)}.ln1.hook_normalized"
        self.point(name)
        return name, getattr(self.model.blocks[self.layer(layer)].ln1, "w", None)

    @override
    def new_cache(self, batch: int) -> HookedCache:
        # By name at run time: TransformerLens 4 has no such module.
        module = importlib.import_module("transformer_lens.cache.key_value_cache")
        kind = module.TransformerLensKeyValueCache
        return HookedCache(kind.init_cache(self.model.cfg, self.device, batch))

    @override
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor:
        batch, new = inputs.shape[:2]
        whole = mask if cache is None else cache.extend_mask(mask, batch, new, inputs.device)
        turns = self._turns(positions, whole, batch, new, cache)
        # An explicit mask and side: with a left-padding tokenizer this class would otherwise derive
        # both from the token ids, taking every pad-like token for padding.
        new_mask = mask if mask is not None else inputs.new_ones(batch, new, dtype=torch.bool)
        keywords: dict[str, Any] = {"padding_side": "right"}
        if cache is not None:
            assert isinstance(cache, HookedCache)
            keywords["past_kv_cache"] = cache.inner
            keywords["attention_mask"] = new_mask.long()
        elif whole is not None:
            keywords["attention_mask"] = whole.long()
        if start:
            keywords["start_at_layer"] = start
            if cache is not None:
                # Past the embedding the class no longer extends the mask by itself.
                full = whole if whole is not None else inputs.new_ones(batch, cache.length + new)
                keywords["attention_mask"] = full.long()
        try:
            with attached([(self.point(name), hook) for name, hook in turns.items()]):
                output = self.model(inputs, return_type="logits", **keywords)
        finally:
            if cache is not None:
                cache.mask, cache.length = whole, cache.length + new
        return output[:, -1:] if logits == "last" else output

    def _turns(
        self,
        positions: Tensor | None,
        whole: Tensor | None,
        batch: int,
        new: int,
        cache: Cache | None,
    ) -> dict[str, Callable[[Tensor, Any], Tensor]]:
        """Hooks that turn queries and keys on to positions other than those that this class counts.

        Raises:
            ArgumentError: positions that were added to the embedding, or with a cache, whose keys
                this class turns anew in every pass.
        """
        if positions is None:
            return {}
        past = cache.length if cache is not None else 0
        if whole is None:
            derived = torch.arange(past, past + new, device=positions.device).expand(batch, -1)
            real = torch.ones_like(derived, dtype=torch.bool)
        else:
            derived = (whole.long().cumsum(-1) - 1)[:, -new:]
            real = whole[:, -new:].bool()
        gap = torch.where(real, positions - derived, 0)
        if not bool(gap.any()):
            return {}
        if self.model.cfg.positional_embedding_type != "rotary" or cache is not None:
            raise ArgumentError(
                "positions: HookedTransformer counts real tokens from 0; others need a bridge, or "
                "rotary positions and no cache."
            )
        hooks: dict[str, Callable[[Tensor, Any], Tensor]] = {}
        for layer, block in enumerate(self.model.blocks):
            turn = partial(_turned, attention=block.attn, gap=gap)
            hooks[f"blocks.{layer}.attn.hook_rot_q"] = turn
            hooks[f"blocks.{layer}.attn.hook_rot_k"] = turn
        return hooks

    @override
    def watch(self, report: Report) -> Callable[[], None]:
        seen: list[Any] = [None]

        def embedding(module: Any, args: tuple[Any, ...]) -> None:
            seen[0] = args[0]

        def attention(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entry = kwargs.get("past_kv_cache_entry")
            past = int(entry.past_keys.shape[1]) if entry is not None else 0
            report(seen[0], kwargs.get("attention_mask"), past, None)

        def whole(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # A pass that starts late meets neither the embedding nor block 0.
            if kwargs.get("start_at_layer"):
                shape = args[0].shape[:2]
                ids = torch.zeros(shape, dtype=torch.long)
                report(ids, kwargs.get("attention_mask"), 0, None)

        # The mask and the cache meet only at the first attention layer, which runs after hook_embed
        # and resid_pre 0; a pre-hook of block 0 comes before both of its residual sites.
        handles = [
            self.model.register_forward_pre_hook(whole, with_kwargs=True),
            self.model.embed.register_forward_pre_hook(embedding),
            self.model.blocks[0].register_forward_pre_hook(attention, with_kwargs=True),
        ]

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove


def _turned(vectors: Tensor, hook: Any, *, attention: Any, gap: Tensor) -> Tensor:
    """Queries or keys `[batch pos head d_head]` turned on by `gap` positions, backwards if negative."""
    width = int(attention.cfg.rotary_dim)
    turning = vectors[..., :width]
    cos = attention.rotary_cos[gap.abs()][:, :, None]
    sin = (attention.rotary_sin[gap.abs()] * gap.sign()[..., None])[:, :, None]
    turned = turning * cos + attention.rotate_every_two(turning) * sin
    return torch.cat([turned.to(vectors.dtype), vectors[..., width:]], dim=-1)
