"""Keys and values that grow in place.

transformers joins the past and the new ones into a new tensor at every step, which for a long text read
in many chunks copies the past again and again, and leaves an allocator with holes of every size: a
4,096-token text then takes several times the memory of its keys and values.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from typing_extensions import override

__all__ = ["growing_cache"]

MORE = 1.5
"""How much more room than needed is made when there is too little."""


class _Growing(DynamicLayer):
    """One block's keys and values, views `[batch head pos d_head]` of tensors with room to grow.

    Written in place only where gradients are switched off; what was handed out before is not changed
    unless the cache was cropped since.
    """

    def __init__(self, expected: int = 0) -> None:
        super().__init__()
        self.expected = expected
        self.room: tuple[Tensor, Tensor] | None = None

    @override
    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            # The first ones are taken as they are: most caches never see more.
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        assert self.keys is not None and self.values is not None
        held, new = (self.keys, self.values), (key_states, value_states)
        if torch.is_grad_enabled():
            # What a backward pass may come back to is not written over.
            self.room = None
            return super().update(key_states, value_states, *args, **kwargs)
        past, total = held[0].shape[-2], held[0].shape[-2] + new[0].shape[-2]
        room = self.room
        if room is None or not all(_fits(r, h, total) for r, h in zip(room, held, strict=True)):
            room = self.room = self._made(held[0], total), self._made(held[1], total)
        for there, more in zip(room, new, strict=True):
            there[..., past:total, :] = more
        self.keys, self.values = (there[..., :total, :] for there in room)
        return self.keys, self.values

    @override
    def reset(self) -> None:
        self.room = None
        super().reset()

    def _size(self, total: int) -> int:
        return self.expected if total <= self.expected else int(total * MORE)

    def _made(self, held: Tensor, total: int) -> Tensor:
        room = held.new_empty(*held.shape[:-2], self._size(total), held.shape[-1])
        room[..., : held.shape[-2], :] = held
        return room


def _fits(room: Tensor, held: Tensor, total: int) -> bool:
    """Whether what is held lies in the room, as it does not after the batch was changed."""
    return (
        room.data_ptr() == held.data_ptr()
        and room.stride() == held.stride()
        and room.shape[0] == held.shape[0]
        and room.shape[-2] >= total
    )


def growing_cache(expected: int = 0) -> DynamicCache:
    """A transformers cache that keeps every token, so that it can be cropped, and grows in place.

    Args:
        expected: how many tokens a row will have, where that is known: room for them is made once.
    """
    # Without a config every layer is a plain growing one; a sliding-window layer throws keys away and
    # cannot be cropped. The masks still apply the window.
    cache: Any = DynamicCache()
    cache.layer_class_to_replicate = partial(_Growing, expected)
    return cache
