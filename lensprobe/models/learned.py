"""Learned attention sinks: a logit of each head that joins the softmax and has no key."""

from __future__ import annotations

from torch import Tensor

from .adapter import Adapter

__all__ = ["has_learned_sinks"]


def has_learned_sinks(adapter: Adapter) -> bool:
    """Whether some layer's softmax has an outcome that is no token, as in gpt-oss.

    What heads give to it is missing from their patterns: rows sum to less than one.
    """
    if adapter.encoder_decoder:
        return False
    for block in adapter.model.blocks:
        attention = getattr(block, "attn", None)
        # A bridge holds transformers' own module; the other class is the module.
        module = getattr(attention, "original_component", attention)
        if isinstance(getattr(module, "sinks", None), Tensor):
            return True
    return False
