"""What late layers are given in place of their guess: after which blocks, how much, and what.

Once the token after position t is known, the residual at t becomes

    (1 - weight) * h + weight * e(next token)

after each of some blocks (site `resid_post`: what the next block and all above it read). The position
that predicts is never blended, because its next token is not known yet.

Everything here is a function of one position and the token after it, so that reading in one pass,
over a cache or token by token comes to the same, and nothing of the future can leak.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import ArgumentError, nearest
from ..models.adapter import Adapter
from ..models.weights import weights_of

__all__ = ["NORMS", "TARGETS", "Blend", "Norm", "Target", "resolve_blend", "steady_norm"]

Target = Literal["embedding", "unembedding", "early"] | int
Norm = Literal["match", "raw"] | float

TARGETS = ("embedding", "unembedding", "early")
NORMS = ("match", "raw")

ORDINARY, MASSIVE = 10.0, 20.0
"""Times a token's median magnitude: a coordinate counts in full up to the first, and from the second
on not at all. A normal distribution has nothing beyond 7 times its median magnitude."""


@dataclass(frozen=True, eq=False)
class Blend:
    """How residuals are blended. Made by `resolve_blend`, which checks everything.

    Attributes:
        layers: after which blocks, ascending.
        weights: float64 `[layers]`; may require gradients.
        target: "embedding", "unembedding", or the layer whose plain residual of the next token it is.
        norm: "match", "raw", or the norm that every target is given.
        keep_first: whether position 0 is left alone.
        below: blend only where the plain model gave the next token less than this probability.
    """

    adapter: Adapter = field(repr=False)
    layers: tuple[int, ...]
    weights: Float[Tensor, " layers"]
    target: Literal["embedding", "unembedding"] | int
    norm: Norm
    keep_first: bool
    below: float | None

    @property
    def plain(self) -> bool:
        """Whether it changes nothing, so that the plain model answers."""
        return not self.weights.requires_grad and not bool(self.weights.any())

    @property
    def early(self) -> int | None:
        """The layer whose residuals are the targets; None where rows of a matrix are."""
        return self.target if isinstance(self.target, int) else None

    def at(self, weights: Any) -> Blend:
        """The same blend with other weights, one for each layer, unchecked."""
        return replace(self, weights=torch.as_tensor(weights, dtype=torch.float64))

    def rows(self, following: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens d_model"]:
        """The target of each next token, before its norm is set.

        The embedding is the stored row `W_E[token]`: without the position embedding of an
        absolute-position model, and before the factor that some models multiply embeddings by. The
        unembedding is `W_U[:, token]` times the final norm's gain, the direction of the residual
        stream along which that token's logit grows.

        Raises:
            ArgumentError: the targets are residuals of an early layer, to be read in the pass.
        """
        if self.early is not None:
            raise ArgumentError(
                "the targets are residuals of an early layer; no matrix holds them."
            )
        weights = weights_of(self.adapter)
        if self.target == "embedding":
            return weights.embedding[following]
        rows = self.adapter.model.W_U.T[following]
        norm = weights.norm("ln_final")
        return rows if norm is None else rows * norm.gain.to(rows)

    def places(
        self,
        positions: Int[Tensor, "batch pos"],
        known: Bool[Tensor, "batch pos"],
        probability: Float[Tensor, "batch pos"] | None = None,
    ) -> Bool[Tensor, "batch pos"]:
        """Which positions are blended.

        Args:
            positions: absolute.
            known: real tokens whose next token is real and may be seen.
            probability: of the next token under the plain, unedited model; with `below` only.

        Raises:
            ArgumentError: `below` without a probability.
        """
        chosen = known & (positions > 0) if self.keep_first else known
        if self.below is None:
            return chosen
        if probability is None:
            raise ArgumentError("below: the plain model's probabilities are needed.")
        return chosen & (probability < self.below)

    def apply(
        self,
        stream: Float[Tensor, "batch pos d_model"],
        target: Float[Tensor, "batch pos d_model"],
        layer: int,
        places: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residuals after block `layer` with the chosen positions blended, in their own dtype."""
        wide = torch.promote_types(stream.dtype, torch.float32)
        h, e = stream.to(wide), target.to(stream.device, wide)
        weight = self.weights[self.layers.index(layer)].to(stream.device, wide)
        mixed = (1 - weight) * h + weight * self._scaled(e, h)
        return torch.where(places[..., None], mixed.to(stream.dtype), stream)

    def provenance(self) -> dict[str, Any]:
        """What a result stores of it; JSON values only."""
        norms = {"match": "that of what it replaces", "raw": "as stored"}
        early = self.early is not None
        return {
            "layers": list(self.layers),
            "weights": [float(weight) for weight in self.weights.detach()],
            "target": f"residual after layer {self.target}" if early else self.target,
            "norm": norms.get(str(self.norm), self.norm),
            "keep_first": self.keep_first,
            "below": self.below,
            "site": "resid_post",
        }

    def _scaled(self, e: Tensor, h: Tensor) -> Tensor:
        if self.norm == "raw":
            return e
        if self.norm == "match":
            return e * (steady_norm(h) / _nonzero(steady_norm(e)))
        return e * (self.norm / _nonzero(e.norm(dim=-1, keepdim=True)))


def steady_norm(vectors: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens 1"]:
    """The norm of each vector without its massive dimensions.

    A coordinate counts in full up to 10 times the vector's own median magnitude, not at all from 20
    times on, and less and less in between: a step there would let rounding decide. Of a vector that
    is mostly zeros it is the plain norm.

    >>> steady_norm(torch.tensor([[3.0, -4.0, 0.1], [3.0, -4.0, 1000.0]])).squeeze().round(decimals=3)
    tensor([5.0010, 5.0000])
    """
    size = vectors.abs()
    median = size.median(-1, keepdim=True).values
    times = size / _nonzero(median)
    share = ((MASSIVE - times) / (MASSIVE - ORDINARY)).clamp(0.0, 1.0)
    share = torch.where(median > 0, share, 1.0)
    return (share * vectors.square()).sum(-1, keepdim=True).sqrt()


def _nonzero(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1.0, values)


def resolve_blend(
    adapter: Adapter,
    *,
    layer: Any,
    weight: Any,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
) -> Blend:
    """A checked `Blend`.

    Args:
        adapter: the model's.
        layer: after which block; or several, each blended in turn.
        weight: 0 is the plain model, 1 replaces; or one for each layer, in their order.
        target: what is blended in, for position t and its next token: "embedding", its row;
            "unembedding", the direction of its logit; a layer number, its own residual after that
            layer at position t + 1 in the plain pass, which must not lie above the blended layers;
            "early" is layer 0.
        norm: "match" scales a target to the norm of what it replaces, both without massive
            dimensions (`steady_norm`); "raw" takes it as it is; a number sets its norm.
        keep_first: leave position 0 alone, whose massive activation holds the attention sinks up.
        below: only where the plain model's probability of the next token was below this. Plain
            means unedited everywhere, so that the rule does not depend on what it does.
        extrapolate: allow weights outside [0, 1].

    Raises:
        ArgumentError: any of these out of range or of another type.
        ModelError: an encoder-decoder, or weights that cannot be read.
    """
    adapter.require_decoder("lp.interpolation")
    weights_of(adapter)
    layers = _layers(adapter, layer)
    order = np.argsort(layers)
    weights = _weights(weight, len(layers), extrapolate)[torch.from_numpy(order)]
    ascending = tuple(layers[index] for index in order)
    for name, flag in (("keep_first", keep_first), ("extrapolate", extrapolate)):
        if not isinstance(flag, bool):
            raise ArgumentError(f"{name}={flag!r}: True or False.")
    if below is not None and not (_is_number(below) and 0 < below <= 1):
        raise ArgumentError(f"below={below!r}: a probability above 0 and up to 1, or None.")
    return Blend(
        adapter,
        ascending,
        weights,
        _target(adapter, target, ascending[0]),
        _norm(norm),
        keep_first,
        None if below is None else float(below),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _layers(adapter: Adapter, layer: Any) -> list[int]:
    if layer is None:
        raise ArgumentError("layer=None: say after which block, an int, or several.")
    if isinstance(layer, str):
        return list(adapter.layers(layer, "layer"))
    try:
        listed = list(layer)
    except TypeError:
        listed = [layer]
    found = [adapter.layer(one) for one in listed]
    if not found or len(set(found)) < len(found):
        raise ArgumentError(f"layer={layer!r}: one or more different layers.")
    return found


def _weights(weight: Any, count: int, extrapolate: bool) -> Tensor:
    if isinstance(weight, bool | str) or weight is None:
        raise ArgumentError(f"weight={weight!r}: a number from 0 to 1, or one for each layer.")
    try:
        values = torch.as_tensor(weight, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"weight={weight!r}: a number, or one for each layer.") from error
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise ArgumentError(
            f"weight of shape {tuple(values.shape)} for {count} layers: one number, or one for each."
        )
    held = values.detach()
    if not bool(held.isfinite().all()):
        raise ArgumentError(f"weight={weight!r}: finite numbers.")
    if not extrapolate and bool(((held < 0) | (held > 1)).any()):
        raise ArgumentError(
            f"weight={weight!r}: from 0 to 1; pass extrapolate=True to go beyond on purpose."
        )
    return values.expand(count)


def _target(adapter: Adapter, target: Any, first: int) -> Literal["embedding", "unembedding"] | int:
    if isinstance(target, str):
        if target not in TARGETS:
            raise ArgumentError(
                f"target={target!r}: {', '.join(TARGETS)} or a layer.{nearest(target, TARGETS)}"
            )
        if target == "embedding" or target == "unembedding":
            return target
    early = 0 if target == "early" else adapter.layer(target, "target")
    if early > first:
        raise ArgumentError(
            f"target={target!r}: a layer above the blended layer {first} is not plain any more; "
            f"choose one up to {first}."
        )
    return early


def _norm(norm: Any) -> Norm:
    if norm == "match" or norm == "raw":
        return norm
    if isinstance(norm, str) or not _is_number(norm) or not np.isfinite(norm) or norm <= 0:
        raise ArgumentError(f'norm={norm!r}: "match", "raw" or a positive number.')
    return float(norm)
