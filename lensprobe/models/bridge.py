"""`TransformerBridge`: a transformers model behind hook points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import ModelError
from ..interrupts import undoing
from .adapter import Adapter, Report
from .cache import Cache
from .fused import fused
from .growing import growing_cache
from .hooks import silent
from .stacks import StackName

__all__ = ["BridgeAdapter"]


class BridgeCache(Cache):
    """A transformers cache that keeps every token, so that it can be cropped."""

    def __init__(self) -> None:
        self.inner: Any = growing_cache()

    @override
    def expect(self, tokens: int) -> None:
        self.inner = growing_cache(tokens)

    @override
    def drop(self, count: int) -> None:
        if count:
            self.inner.crop(-count)
            self.length -= count
            self.mask = None if self.mask is None else self.mask[:, : self.length]

    @override
    def held(self) -> list[tuple[Tensor, Tensor]]:
        layers = self.inner.layers
        return [(layer.keys.transpose(1, 2), layer.values.transpose(1, 2)) for layer in layers]

    @override
    def hold(self, entries: Sequence[tuple[Tensor, Tensor]]) -> None:
        for index, (keys, values) in enumerate(entries):
            self.inner.update(keys.transpose(1, 2), values.transpose(1, 2), index)
        self.length = entries[0][0].shape[1]

    def first(self, tokens: int) -> Any:
        """A transformers cache of the first tokens alone, which may grow; this one stays as it is."""
        inner = growing_cache()
        for index, layer in enumerate(self.inner.layers):
            if layer.is_initialized:
                held = (layer.keys[..., :tokens, :], layer.values[..., :tokens, :])
                inner.update(*held, index)
        return inner

    @override
    def repeated(self, times: int, start: int = 0) -> BridgeCache:
        other = BridgeCache()
        for index, layer in enumerate(self.inner.layers):
            # Layers that a stopped pass never reached hold nothing. Those below `start` are handed
            # on as they are: transformers asks the first of them how long the past is.
            if layer.is_initialized:
                held = (layer.keys, layer.values)
                many = held if index < start else [t.repeat_interleave(times, 0) for t in held]
                other.inner.update(*many, index)
        self._like(other, times)
        return other


class BridgeAdapter(Adapter):
    """See `Adapter`."""

    line = "bridge"
    # Its point is the input of the second norm; the stream itself passes it by.
    mid_is_a_branch = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.original_model.config
        self.encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        accepts = inspect.signature(model.original_model.forward).parameters
        self._takes_positions = "position_ids" in accepts
        self._takes_logits_to_keep = "logits_to_keep" in accepts
        self._block_wrap: type | None = None
        if not hasattr(model, "blocks") and not self.encoder_decoder:
            raise ModelError(
                f"{type(model.original_model).__name__} has no single stack of blocks; "
                "lensprobe reads models with one."
            )

    @override
    def coordinates(self) -> str:
        if getattr(self.model, "compatibility_mode", False):
            return "compatibility mode (weights may be folded and centred)"
        return "raw"

    @override
    def norm_point(self, layer: int) -> tuple[str, None]:
        name = f"{self.writer.blocks}.{self.layer(layer)}.ln1.hook_out"
        self.point(name)
        return name, None

    @override
    def new_cache(self, batch: int) -> BridgeCache:
        return BridgeCache()

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
        past = cache.length if cache is not None else 0
        keywords: dict[str, Any] = {}
        whole = mask if cache is None else cache.extend_mask(mask, batch, new, inputs.device)
        if whole is not None:
            keywords["attention_mask"] = whole.long()
            if positions is None:
                positions = (whole.long().cumsum(-1) - 1).clamp(min=0)[:, -new:]
        if positions is None and (start or past):
            positions = torch.arange(past, past + new, device=inputs.device).expand(batch, -1)
        if positions is not None and self._takes_positions:
            keywords["position_ids"] = positions
        if logits == "last" and self._takes_logits_to_keep:
            keywords["logits_to_keep"] = 1
        if cache is not None:
            assert isinstance(cache, BridgeCache)
            keywords["past_key_values"] = cache.inner
        else:
            # transformers would otherwise build and fill a cache that nobody reads.
            keywords["use_cache"] = False
        with self._skipped(start, inputs):
            try:
                output = self.model(inputs, **keywords)
            finally:
                if cache is not None:
                    cache.mask, cache.length = whole, past + new
        return output[:, -1:] if logits == "last" else output

    @contextmanager
    def _skipped(self, start: int, residual: Tensor) -> Iterator[None]:
        """Blocks below `start` hand on the residual and compute nothing.

        The bridge's own flag still computes them, and 3.9's bridge has none.
        """
        if not start:
            yield
            return
        wrap = self._wrap()
        blocks = list(self.model.blocks)[:start]

        def hand_on(*args: Any, **kwargs: Any) -> Any:
            return residual if wrap is Tensor else (residual,)

        def compute() -> None:
            for block in blocks:
                block.__dict__.pop("forward", None)

        with undoing(compute):
            for block in blocks:
                # Straight into __dict__: nn.Module's own attribute handling never sees it.
                block.__dict__["forward"] = hand_on
            yield

    def _wrap(self) -> type:
        """Whether this architecture's blocks return a tensor or a tuple, seen once on one token."""
        if self._block_wrap is None:
            seen: list[type] = []
            handle = self.model.blocks[0].register_forward_hook(
                lambda module, args, output: seen.append(
                    tuple if isinstance(output, tuple) else Tensor
                )
            )
            try:
                with torch.no_grad(), silent(self.model):
                    token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
                    self.model(token, use_cache=False)
            finally:
                handle.remove()
            self._block_wrap = seen[0]
        return self._block_wrap

    @override
    def fused(self) -> AbstractContextManager[None]:
        return fused(self)

    @override
    def watch(self, report: Report) -> Callable[[], None]:
        return announcing(self.model.original_model, report, None)


def announcing(module: Any, report: Report, stack: StackName) -> Callable[[], None]:
    """Call `report` before each pass of a transformers module; returns the remover."""

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None and kwargs.get("inputs_embeds") is not None:
            # Positions are known from the shape; which tokens these are is not.
            ids = torch.zeros(kwargs["inputs_embeds"].shape[:2], dtype=torch.long)
        inner = kwargs.get("past_key_values")
        past = int(inner.get_seq_length()) if inner is not None else 0
        if ids is not None:
            report(ids, kwargs.get("attention_mask"), past, stack)

    return module.register_forward_pre_hook(before, with_kwargs=True).remove
