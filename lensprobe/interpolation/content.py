"""The content of a text: residuals blended wherever a pass reads the next token too.

A causal pass over tokens whose residuals are blended, but for the newest's, is what later tokens see
and what the newest predicts from. So one pass reads a text as far as it goes, and two tokens a step
are enough to go on: the newest of the last step is read again, now that the one after it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError, nearest
from ..positions import Step
from .blend import Blend

__all__ = ["Content", "Where", "checked_where"]

Where = Literal["both", "prompt", "generated"]


def checked_where(where: str) -> Where:
    """One of the names that `where` takes.

    Raises:
        ArgumentError: it is none of them.
    """
    names = get_args(Where)
    for name in names:
        if where == name:
            return name
    raise ArgumentError(f"where={where!r}: {', '.join(names)}.{nearest(str(where), names)}")


class Content:
    """Hooks that blend a pass. They do nothing until a pass is announced, and for that pass alone.

    Args:
        blend: after which blocks, how much, and what.
        where: whether tokens of the prompt, generated ones or both are blended.
    """

    def __init__(self, blend: Blend, where: Where = "both") -> None:
        self.blend = blend
        self.where = where
        self._places: Tensor | None = None
        self._following: Tensor | None = None
        self._target: Tensor | None = None

    def hooks(self) -> dict[str, Callable[[Tensor], Tensor | None]]:
        """What to attach, by the name of the hook point."""
        name = self.blend.adapter.hook_name
        found: dict[str, Callable[[Tensor], Tensor | None]] = {}
        if self.blend.early is not None:
            found[name("resid_post", self.blend.early)] = self._keep
        for layer in self.blend.layers:
            found[name("resid_post", layer)] = self._writer(layer)
        return found

    def announce(
        self,
        step: Step,
        ids: Int[Tensor, "batch pos"],
        probability: Float[Tensor, "batch pos"] | None = None,
    ) -> None:
        """Say what the next pass reads; with `below`, how likely the plain model found each next token.

        A token is blended where the same pass reads the one after it.
        """
        positions = torch.from_numpy(step.positions).to(ids.device)
        real = positions >= 0
        known = real & torch.nn.functional.pad(real[:, 1:], (0, 1), value=False)
        if self.where != "both":
            prompt = positions < torch.from_numpy(step.prompts).to(ids.device)[:, None]
            known &= prompt if self.where == "prompt" else ~prompt
        self._places = self.blend.places(positions, known, probability)
        # The last column is never blended; it stands in for the token after it.
        self._following = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
        self._target = None

    def rest(self) -> None:
        """The next passes are plain."""
        self._places = None

    def _writer(self, layer: int) -> Callable[[Tensor], Tensor | None]:
        def write(stream: Tensor) -> Tensor | None:
            if self._places is None:
                return None
            if layer == self.blend.early:
                self._keep(stream)
            return self.blend.apply(stream, self._targets(), layer, self._places)

        return write

    def _keep(self, stream: Tensor) -> None:
        """An early layer's residuals, each as the target of the position before it."""
        self._target = torch.cat([stream[:, 1:], stream[:, -1:]], dim=1)

    def _targets(self) -> Tensor:
        """Read once for all layers of a pass."""
        if self._target is None:
            assert self._following is not None
            self._target = self.blend.rows(self._following)
        return self._target
