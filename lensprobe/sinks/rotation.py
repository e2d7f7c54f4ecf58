"""How a layer turns queries and keys by position, asked of the model itself.

Conventions differ (halves or pairs, a part of the head, scaled frequencies), and a turn is linear: what
it does to each unit vector at each position is all there is to know. Nobody's hooks see the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import HookPointError, ModelError
from ..models.adapter import Adapter
from ..models.hooks import silent
from ..running.session import Hook, hooked

__all__ = ["Turns", "hook", "key_points", "linear_points", "rotations"]

Turns = Float[Tensor, "pos d_head d_head"]


def hook(adapter: Adapter, layer: int, name: str) -> str:
    """A hook point of a layer's attention that is no site of the library's, existing or not."""
    return f"{adapter.writer.blocks}.{layer}.attn.hook_{name}"


def _both(adapter: Adapter, layer: int, *patterns: str) -> tuple[str, str] | None:
    """The first kind of hook point that both queries and keys have."""
    for pattern in patterns:
        names = [hook(adapter, layer, pattern.format(side)) for side in ("q", "k")]
        if all(name in adapter.model.hook_dict for name in names):
            return names[0], names[1]
    return None


def linear_points(adapter: Adapter, layer: int) -> tuple[str, str]:
    """The hook points of queries and keys right before they are turned: after norms of their own.

    Raises:
        ModelError: queries or keys are normed where no hook point shows it.
        HookPointError: a layer without queries and keys.
    """
    if adapter.line == "hooked" and getattr(adapter.model.cfg, "use_qk_norm", False):
        raise ModelError("this class norms queries and keys where no hook point shows them.")
    found = _both(adapter, layer, "{}_normed", "{}")
    if found is None:
        raise HookPointError(f"layer {layer} has no hook points at its queries and keys.")
    return found


def key_points(adapter: Adapter, layer: int) -> tuple[tuple[str, str], Literal["seen", "hidden"]]:
    """The last hook points of queries and keys, and whether a turn after them stays hidden.

    Some classes have hook points for what is turned and never call them.
    """
    if not _rotary(adapter):
        return linear_points(adapter, layer), "seen"
    points = _both(adapter, layer, "rot_{}")
    if points is not None:
        fired: list[str] = []
        probes: dict[str, Hook] = {name: lambda _, name=name: fired.append(name) for name in points}
        _ask(adapter, layer, probes, 1, 1)
        if len(fired) == 2:
            return points, "seen"
    return linear_points(adapter, layer), "hidden"


def _rotary(adapter: Adapter) -> bool:
    return str(getattr(adapter.model.cfg, "positional_embedding_type", "")) == "rotary"


@torch.no_grad()
def _ask(adapter: Adapter, layer: int, hooks: dict[str, Hook], rows: int, length: int) -> None:
    """Run one block on nothing at all, for what the hooks put in and see."""
    if layer:
        shape = (rows, length, adapter.d_model)
        inputs = torch.zeros(shape, device=adapter.device, dtype=adapter.dtype)
    else:
        inputs = torch.zeros(rows, length, dtype=torch.long, device=adapter.device)
    with silent(adapter.model), hooked(adapter, hooks):
        adapter.run(inputs, start=layer, stop=layer + 1)


def rotations(adapter: Adapter, layer: int, length: int) -> tuple[Turns, Turns]:
    """What a layer does to queries and to keys at each position: `turned = R[pos] @ plain`, float64.

    Identities where positions are not rotary.
    """
    if not _rotary(adapter):
        same = torch.eye(adapter.d_head, dtype=torch.float64).expand(length, -1, -1)
        return same, same
    points, turn = key_points(adapter, layer)
    if turn == "hidden":
        hidden = _from_scores(adapter, layer, length)
        return hidden, hidden
    width = adapter.d_head
    basis = torch.eye(width, device=adapter.device, dtype=adapter.dtype)[:, None, None]
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Hook:
        return lambda x: found.__setitem__(name, x.detach().flatten(2)[..., :width])

    hooks: dict[str, Hook] = {n: _putting(basis, width) for n in linear_points(adapter, layer)}
    _ask(adapter, layer, hooks | {name: keeper(name) for name in points}, width, length)
    # Row c of the batch is the image of unit vector c: columns of R.
    turns = [found[name].double().cpu().permute(1, 2, 0) for name in points]
    return turns[0], turns[1]


def _putting(vectors: Float[Tensor, "row 1 head d_head"], width: int) -> Callable[[Tensor], Tensor]:
    """A hook that replaces queries or keys; one head's vector stands for all of them."""

    def put(x: Tensor) -> Tensor:
        heads = x.flatten(2).shape[2] // width
        return vectors.expand(-1, x.shape[1], heads, -1).reshape(x.shape)

    return put


def _from_scores(adapter: Adapter, layer: int, length: int) -> Turns:
    """The turns where no hook point shows them: from scores to a key at position 0.

    A key there is not turned, so that unit vectors as queries and keys give R, number by number. That
    queries and keys are turned alike is taken for granted; who uses this checks the scores.
    """
    width, groups = adapter.d_head, adapter.n_kv_heads
    queries, keys = linear_points(adapter, layer)
    one = torch.eye(width, device=adapter.device, dtype=adapter.dtype)
    # Each head has a key of its own, so that one row asks for several numbers; the last ones twice.
    asked = torch.arange(-(-width // groups) * groups, device=one.device).clamp(max=width - 1)
    own = one[asked].unflatten(0, (-1, groups))[:, None]
    out = torch.zeros(length, width, width, dtype=torch.float64)
    for column in range(width):
        found: list[Tensor] = []
        hooks: dict[str, Hook] = {
            queries: _putting(one[column].expand(len(own), 1, 1, -1), width),
            keys: _putting(own, width),
            hook(adapter, layer, "attn_scores"): lambda x, found=found: found.append(x.detach()),
        }
        _ask(adapter, layer, hooks, len(own), length)
        # Heads of a group share a key; the first of each is enough.
        scores = found[0][:, :: adapter.n_heads // groups, :, 0].double().cpu()
        out[:, :, column] = scores.flatten(0, 1)[:width].T
    # At position 0 a query is not turned either: what is left there is the scale.
    return out / out[0, 0, 0]
