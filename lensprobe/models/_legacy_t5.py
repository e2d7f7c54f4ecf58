"""T5 behind TransformerLens 3.9's bridge, whose blocks answer as those of an older transformers did.

The bridge puts its hooks between a block's layers, and for that it gives each block a `forward` of its
own. 3.9's hands no cache on and returns more than transformers 5 unpacks, so that no T5 runs. This one
has the same hooks at the same places and is otherwise what the block itself would do.
"""

from __future__ import annotations

import inspect
from types import MethodType
from typing import Any

import torch
from torch import Tensor

__all__ = ["mend", "mended"]


def mend(model: Any) -> None:
    """Let the blocks of both stacks of a 3.9 bridge run under transformers 5."""
    for block in (*model.encoder_blocks, *model.decoder_blocks):
        raw = block.original_component
        raw.forward = MethodType(_forward_of(block, type(raw)), raw)


def mended(model: Any) -> bool:
    """Whether `mend` has been here."""
    forward = model.decoder_blocks[0].original_component.forward
    return inspect.unwrap(forward).__module__ == __name__


def _forward_of(block: Any, kind: type) -> Any:
    # LongT5 still returns weights behind each bias; T5 and mT5 return the two biases alone.
    with_weights = "output_attentions" in inspect.signature(kind.forward).parameters

    def forward(
        raw: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_decoder_position_bias: Tensor | None = None,
        past_key_values: Any = None,
        return_dict: bool = True,
        **options: Any,
    ) -> tuple[Any, ...]:
        hidden, *own = raw.layer[0](
            block.hook_in(hidden_states),
            attention_mask=attention_mask,
            position_bias=position_bias,
            past_key_values=past_key_values,
            **options,
        )
        hidden, cross = block.hook_resid_mid(_clamped(hidden)), []
        if encoder_hidden_states is not None and len(raw.layer) == 3:
            # What is new to the cache is the decoder's own.
            options.pop("use_cache", None)
            hidden, *cross = raw.layer[1](
                hidden,
                key_value_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                position_bias=encoder_decoder_position_bias,
                past_key_values=past_key_values,
                **options,
            )
            hidden = block.hook_resid_mid2(_clamped(hidden))
        hidden = block.hook_out(_clamped(raw.layer[-1](hidden)))
        if with_weights:
            return hidden, *own, *cross
        return hidden, own[0], cross[0] if cross else None

    return forward


def _clamped(hidden: Tensor) -> Tensor:
    """Within float16, as transformers keeps it after every layer of a block."""
    if hidden.dtype != torch.float16:
        return hidden
    most = torch.finfo(torch.float16).max
    most = torch.where(torch.isinf(hidden).any(), most - 1000, most)
    return torch.clamp(hidden, min=-most, max=most)
