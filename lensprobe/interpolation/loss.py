"""The loss under an interpolation as a tensor, for gradients."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError
from ..models.adapter import adapter_for
from ..tokens import Bos, TokenBatch, as_texts
from .blend import Norm, Target, resolve_blend
from .blended import Blended

__all__ = ["loss", "mean_loss"]


@torch.enable_grad()
def loss(
    model: Any,
    texts: Any,
    *,
    layer: Any = None,
    weight: Any = None,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    bos: Bos = "auto",
) -> Float[Tensor, ""]:
    """Mean next-token loss of a few texts under an interpolation, with its graph.

    The number is that of `lp.interpolation.score`. Gradients reach `weight`, where that is a tensor
    that requires them, and the model's own parameters: take them with `torch.autograd.grad`, or
    `backward()` on a copy of the model to train it under the interpolation. All texts are one batch.

    Args:
        model: a TransformerLens model.
        texts: one or many, none longer than the context.
        layer: as in `score`. Required.
        weight: as in `score`, and may be a tensor, one number or one for each layer. Required.

    The other options are those of `score`.

    Returns:
        Nats a token, a scalar tensor of float32 or wider.

    Raises:
        ArgumentError: as `score`; a text longer than the context.
        ModelError: an encoder-decoder; weights that cannot be read.

    Examples:
        >>> import torch
        >>> weight = torch.tensor(0.3, requires_grad=True)
        >>> loss = lp.interpolation.loss(model, "The cat sat.", layer=3, weight=weight)
        >>> (slope,) = torch.autograd.grad(loss, weight)
        >>> round(loss.item(), 3), slope.shape
        (2.298, torch.Size([]))
    """
    adapter = adapter_for(model)
    blend = resolve_blend(
        adapter,
        layer=layer,
        weight=weight,
        target=target,
        norm=norm,
        keep_first=keep_first,
        below=below,
        extrapolate=extrapolate,
    )
    batch = TokenBatch.pad(adapter, as_texts(texts), bos=bos)
    if int(batch.lengths.min()) < 2:
        raise ArgumentError("a text of one token has no next token to predict.")
    read = Blended(adapter, batch, blend.layers, early=blend.early, logits=below is not None)
    return mean_loss(read, read.logits(blend))


def mean_loss(read: Blended, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
    """Mean over the predicted tokens of a batch; pads count for nothing."""
    real = read.batch.mask[:, 1:]
    return torch.where(real, read.predicted(logits).loss, 0.0).sum() / real.sum()
