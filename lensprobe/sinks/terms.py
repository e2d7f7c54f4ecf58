"""A head's scores as sums: what its queries and keys are made of, and how the parts multiply.

Queries and keys are linear in the residual stream once the scale of the norm is that of this pass, the
stream is a sum over embedding, positions and layers, and the turn by position is linear too. So a
score is a sum over pairs of parts. Everything is in float64 over what the model computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..models.adapter import Adapter
from ..models.weights import Norm, Weights
from ..running.session import hooked
from .rotation import hook, linear_points, rotations

__all__ = ["Terms", "terms"]

BLOCKED = -1e30
"""Below this a score is the mask's, which is the dtype's smallest number and not minus infinity."""
TOLERANCE = 0.02
"""Share of the largest score that may be left over before something unknown must be at work."""


@dataclass(frozen=True)
class Terms:
    """One head of one layer on one sequence of T tokens, float64.

    Attributes:
        names: the parts: "bias" of the head, "norm bias", "token", "position", "attention" and "mlp" of
            the layers below, "rest" (what an edit or rounding put into the stream). Those there are.
        queries, keys: `[part pos d_head]`, before they are turned.
        turns: `[pos d_head d_head]` of queries and of keys.
        scale: what a product is multiplied by.
        scores: `[query key]` as the model has them before a cap; NaN where a key is masked.
        pattern: `[query key]`, the attention.
        stream: `[pos d_model]`, the residual that the layer reads.
        normed: `[pos d_model]`, after the norm, without its bias.
        weight: `[d_model d_head]`, the head's `W_K`; `gains` `[pos d_head]`, what a norm of the keys
            multiplies it by.
    """

    names: list[str]
    queries: np.ndarray
    keys: np.ndarray
    turns: tuple[np.ndarray, np.ndarray]
    scale: float
    scores: np.ndarray
    pattern: np.ndarray
    stream: np.ndarray
    normed: np.ndarray
    weight: np.ndarray
    gains: np.ndarray


@torch.no_grad()
def terms(adapter: Adapter, weights: Weights, ids: tuple[int, ...], layer: int, head: int) -> Terms:
    """Read one sequence and take the head's queries and keys apart.

    Raises:
        ModelError: something acts on the scores that this sum does not know (ALiBi, gates, clamps).
    """
    seen = _read(adapter, ids, layer, head)
    names, stream_parts, norm_bias, normed = _stream(weights, seen, layer)
    sides: list[np.ndarray] = []
    gains: list[Tensor] = []
    for side in ("Q", "K"):
        matrix, bias = weights.reads(layer, side, head)
        matrix = matrix.detach().double().cpu()
        parts = [part @ matrix for part in stream_parts]
        zero = torch.zeros_like(parts[0])
        parts = [
            zero if bias is None else zero + bias.detach().double().cpu(),
            zero if norm_bias is None else zero + norm_bias @ matrix,
            *parts,
        ]
        plain, normed_by = (seen[f"{side} {when}"] for when in ("plain", "normed"))
        # A norm of queries or keys multiplies each number; its factor is that of this pass.
        factor = torch.where(plain == 0, 1.0, normed_by / plain)
        gains.append(factor)
        sides.append((torch.stack(parts) * factor).numpy())
    names = ["bias", "norm bias", *names]
    used = [bool(np.any(q) or np.any(k)) for q, k in zip(*sides, strict=True)]
    turns = rotations(adapter, layer, len(ids))
    weight, _ = weights.reads(layer, "K", head)
    scores = _uncapped(adapter, seen["scores"][head])
    turned = [
        torch.einsum("tij,tj->ti", turn, seen[f"{side} normed"])
        for side, turn in zip("QK", turns, strict=True)
    ]
    scale = _scale((turned[0] @ turned[1].T).numpy(), scores)
    found = Terms(
        names=[name for name, use in zip(names, used, strict=True) if use],
        queries=sides[0][used],
        keys=sides[1][used],
        turns=(turns[0].numpy(), turns[1].numpy()),
        scale=scale,
        scores=scores,
        pattern=seen["pattern"][head].numpy(),
        stream=seen["stream"].numpy(),
        normed=normed.numpy(),
        weight=weight.detach().double().cpu().numpy(),
        gains=gains[1].numpy(),
    )
    _check(found, layer)
    return found


def _read(adapter: Adapter, ids: tuple[int, ...], layer: int, head: int) -> dict[str, Tensor]:
    """What one pass shows, without the batch axis: float64 on the CPU."""
    before = linear_points(adapter, layer)
    names = {
        "Q plain": adapter.hook_name("attn.q", layer),
        "K plain": adapter.hook_name("attn.k", layer),
        "Q normed": before[0],
        "K normed": before[1],
        "pattern": adapter.hook_name("attn.pattern", layer),
        "scores": hook(adapter, layer, "attn_scores"),
        "stream": adapter.hook_name("resid_pre", layer),
        "start": adapter.hook_name("resid_pre", 0),
    }
    below = adapter.places(range(layer), ("attn_out", "mlp_out"))
    names |= {f"{site} {n}": name for name, (n, site) in below.items()}
    if "hook_pos_embed" in adapter.model.hook_dict:
        names["position"] = "hook_pos_embed"
    # Several names may be one hook point.
    found: dict[str, Tensor] = {}
    hooks = {
        name: (lambda x, name=name: found.__setitem__(name, x.detach()[0].double().cpu()))
        for name in set(names.values())
    }
    tokens = torch.tensor([ids], device=adapter.device)
    with hooked(adapter, hooks):
        adapter.run(tokens, stop=None if adapter.user_hooks() else layer + 1)
    seen = {label: found[name] for label, name in names.items() if name in found}
    for label in ("Q plain", "K plain", "Q normed", "K normed"):
        heads = seen[label].flatten(1).unflatten(-1, (-1, adapter.d_head))
        # With grouped queries a head's keys are those of its group.
        seen[label] = heads[:, head // (adapter.n_heads // heads.shape[1])]
    return seen


def _stream(
    weights: Weights, seen: dict[str, Tensor], layer: int
) -> tuple[list[str], list[Tensor], Tensor | None, Tensor]:
    """Names and normed parts `[pos d_model]` of the stream, the norm's bias, and their sum."""
    whole = seen["stream"]
    zero = torch.zeros_like(whole)
    position = seen.get("position", zero).expand_as(whole)
    if weights.positions is None:
        position = zero
    parts = {"token": seen["start"] - position, "position": position}
    for name, site in (("attention", "attn_out"), ("mlp", "mlp_out")):
        parts[name] = sum((seen[k] for k in seen if k.split()[0] == site), zero)
    parts["rest"] = whole - sum(parts.values(), zero)
    norm = weights.norm("ln1", layer)
    if norm is None:
        return list(parts), list(parts.values()), None, whole
    normed = {name: _through(norm, part, whole) for name, part in parts.items()}
    bias = None if norm.bias is None else norm.bias.detach().double().cpu()
    return list(normed), list(normed.values()), bias, _through(norm, whole, whole)


def _through(norm: Norm, part: Tensor, whole: Tensor) -> Tensor:
    """A part of the stream after the norm, at the scale that the whole stream has in this pass."""
    centred = part - part.mean(-1, keepdim=True) if norm.centred else part
    return centred * norm.scale(whole)[..., None] * norm.gain.detach().double().cpu()


def _uncapped(adapter: Adapter, scores: Tensor) -> np.ndarray:
    cap = getattr(adapter.model.cfg, "attn_scores_soft_cap", None)
    scores = torch.where(scores < BLOCKED, torch.nan, scores)
    if cap is not None and cap > 0:
        scores = cap * torch.atanh(scores / cap)
    return scores.numpy()


def _scale(products: np.ndarray, scores: np.ndarray) -> float:
    """What the model multiplies products by, from all scores at once: one number explains them."""
    known = np.isfinite(scores)
    return float((products[known] * scores[known]).sum() / np.square(products[known]).sum())


def _check(found: Terms, layer: int) -> None:
    """Whether the sum is the score, up to rounding."""
    queries = np.einsum("tij,tj->ti", found.turns[0], found.queries.sum(0))
    keys = np.einsum("tij,tj->ti", found.turns[1], found.keys.sum(0))
    gap = np.nanmax(np.abs(found.scale * queries @ keys.T - found.scores))
    if not gap <= TOLERANCE * max(np.nanmax(np.abs(found.scores)), 1e-9):
        raise ModelError(
            f"the scores of layer {layer} are no sum of products of queries and keys alone (off by "
            f"{gap:.3g}): something else acts on them, such as ALiBi or a clamp."
        )
