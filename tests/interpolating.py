"""Interpolation as it is defined, the slow way: for every token, everything before it is read anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["by_definition", "embedded"]

Target = Callable[[int], Tensor]


def embedded(model: Any, ids: Sequence[int]) -> Target:
    """The stored embedding of the token after a place."""
    table = model.W_E.detach()
    return lambda place: table[ids[place + 1]]


def by_definition(
    model: Any,
    ids: Sequence[int],
    weights: dict[int, float],
    target: Target,
    *,
    first: int = 1,
    scale: Callable[[Tensor, Tensor], Tensor] | None = None,
    chosen: Callable[[int], bool] = lambda place: True,
) -> Tensor:
    """Logits that predict the token after each of `ids`, `[tokens d_vocab]`.

    For the one after place j the model reads tokens 0 to j alone. Each place t before j is blended
    after every block of `weights`; place j is not.

    Args:
        target: place -> what is blended in there.
        first: places before it are left alone.
        scale: `(target, residual) -> target` at its norm; None is as it is stored.
        chosen: of the places, which ones are blended.
    """
    found = []
    for j in range(len(ids)):
        places = [t for t in range(first, j) if chosen(t)]

        def write(weight: float, places: list[int] = places) -> Callable[..., Tensor]:
            def hook(stream: Tensor, hook: Any) -> Tensor:
                stream = stream.clone()
                for t in places:
                    e = target(t)
                    e = e if scale is None else scale(e, stream[0, t])
                    stream[0, t] = (1 - weight) * stream[0, t] + weight * e
                return stream

            return hook

        hooks = [(f"blocks.{at}.hook_resid_post", write(weight)) for at, weight in weights.items()]
        with torch.no_grad():
            read = torch.tensor([ids[: j + 1]])
            found.append(model.run_with_hooks(read, fwd_hooks=hooks)[0, -1].float())
    return torch.stack(found)
