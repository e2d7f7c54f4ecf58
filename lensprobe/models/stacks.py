"""A column of blocks: its layers, and how its hook points are named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..errors import ArgumentError, HookPointError, nearest
from .sites import SITES

__all__ = ["Named", "Stack", "StackName"]

Named = Literal["encoder", "decoder"]
StackName = Named | None
"""Which stack of an encoder-decoder; None is the one stack of any other model."""


@dataclass(frozen=True)
class Stack:
    """One column of blocks. A decoder-only model has one without a name, an encoder-decoder has two.

    Attributes:
        name: "encoder", "decoder" or None.
        n_layers: how many blocks it has.
        blocks: what TransformerLens calls the list of them.
        attention: what it calls the attention over the stack's own tokens.
    """

    name: StackName
    n_layers: int
    blocks: str = "blocks"
    attention: str = "attn"

    def point(self, site: str, layer: int) -> str:
        """The name of a hook point, such as `blocks.3.hook_resid_post`, whether or not it exists.

        Raises:
            HookPointError: an unknown site.
            ArgumentError: the layer is out of range.
        """
        if site not in SITES:
            raise HookPointError(
                f"site={site!r} is not one of {', '.join(SITES)}.{nearest(site, SITES)}"
            )
        hook = SITES[site]
        if hook.startswith("attn."):
            hook = self.attention + hook.removeprefix("attn")
        return f"{self.blocks}.{self.layer(layer)}.{hook}"

    def layer(self, layer: Any, argument: str = "layer") -> int:
        """A layer index, negatives counted from the end.

        Raises:
            ArgumentError: not a whole number, or out of range.
        """
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise ArgumentError(f"{argument}={layer!r}: a layer is a whole number.")
        index = layer.__index__()
        if not -self.n_layers <= index < self.n_layers:
            whose = "this model" if self.name is None else f"this model's {self.name}"
            raise ArgumentError(
                f"{argument}={index}: {whose} has {self.n_layers} layers, "
                f"0 to {self.n_layers - 1} (or -{self.n_layers} to -1)."
            )
        return index % self.n_layers

    def layers(self, layers: Any, argument: str = "layers") -> tuple[int, ...]:
        """Layer indices, sorted and without repeats; `"all"` is every layer, an int is one.

        Raises:
            ArgumentError: no layer, or one out of range.
        """
        if isinstance(layers, str):
            if layers != "all":
                raise ArgumentError(f'{argument}={layers!r}: a sequence of layers, or "all".')
            return tuple(range(self.n_layers))
        if isinstance(layers, Tensor | np.ndarray):
            layers = layers.tolist()
        if not isinstance(layers, Iterable):
            return (self.layer(layers, argument),)
        found = sorted({self.layer(layer, argument) for layer in layers})
        if not found:
            raise ArgumentError(f"{argument} is empty; name at least one layer.")
        return tuple(found)
