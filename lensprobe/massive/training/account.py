r"""Why a value moved: one optimizer step, taken apart exactly.

For a value v(θ) and a step Δθ, to first order Δv ≈ ⟨∇θ v, Δθ⟩ = Σ over tensors ⟨∇v, Δθ⟩. Each optimizer
adds its step up from terms, and those terms are the split. With g the gradient the optimizer is given
(after clipping), η the learning rate of this step, λ weight decay:

SGD: d = g + λθ, b = μ b₋ + (1 - τ) d (b = d in the first step), Δθ = -η b, with Nesterov -η (d + μ b):

    gradient  -η c g        c = 1 without momentum, else (1 - τ); with Nesterov 1 + μ (1 - τ)
    momentum  -η μ b₋       with Nesterov -η μ² b₋
    decay     -η c λ θ      (what earlier decay left in b₋ counts as momentum)

Adam: g' = g + λθ, AdamW: g' = g. m = β₁ m₋ + (1 - β₁) g', v = β₂ v₋ + (1 - β₂) g'²,
c₁ = 1 - β₁ᵗ, c₂ = 1 - β₂ᵗ, D = √(v / c₂) + ε, Δθ = -(η / c₁) m / D, for AdamW less η λ θ:

    gradient  -(η / c₁) (1 - β₁) g / D
    momentum  -(η / c₁) β₁ m₋ / D
    decay     -η λ θ        for Adam -(η / c₁) (1 - β₁) λ θ / D

The denominator D belongs to none of them: it scales both, and holds this step's own g² as well as
the past. Muon: Δθ = -η λ θ - η' NS(μ, g, b₋); the orthogonalised NS is not a sum of a part of g and a
part of b₋, so the split is refused there: `decay` is given, and `update` is all the rest. Of an
optimizer that is not known here, everything is `update`.

The split is of what the optimizer holds right before its step, so that an intervention on the moments
is in it. What floating point leaves between the sum of the parts and the true step is `rounding`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .writer import Writer

__all__ = ["COMPONENTS", "Account", "Parts", "Share", "splits", "step_parts"]

COMPONENTS = ("gradient", "momentum", "decay", "update", "rounding")
CHUNK = 2**15
"""Numbers that are worked on at once: few enough to stay in a processor's cache."""
SPARSE = 0.25
"""Share of a gradient's entries below which only those that are not zero are looked at."""


@dataclass(frozen=True)
class Parts:
    """The terms of one weight's next step.

    Attributes:
        terms: by name, each shaped as the weight; a term that is zero by the settings is left out.
        whole: whether they are all there is; if not, the rest of the step is `update`.
    """

    terms: dict[str, Tensor]
    whole: bool


@dataclass(frozen=True)
class _Entries:
    """Some numbers of a weight, with the same numbers of its gradient and of what is remembered."""

    weight: Tensor
    gradient: Tensor
    state: Mapping[str, Any]

    def __getitem__(self, index: Any) -> _Entries:
        shape = self.weight.shape
        return _Entries(
            self.weight[index],
            self.gradient[index],
            {k: v[index] if _like(v, shape) else v for k, v in self.state.items()},
        )


def _like(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


@torch.no_grad()
def step_parts(optimizer: Optimizer, group: Mapping[str, Any], weight: nn.Parameter) -> Parts:
    """The terms of the step that `optimizer.step()` would take on this weight now.

    Its gradient must be in `weight.grad`. Nothing is changed.
    """
    if weight.grad is None:
        return Parts({}, False)
    state = optimizer.state.get(weight, {})
    return _parts(type(optimizer), group, _Entries(weight.detach(), weight.grad, state))


def _parts(kind: type, group: Mapping[str, Any], entries: _Entries) -> Parts:
    split = _SPLITS.get(kind)
    if split is None:
        return Parts({}, False)
    # Half precision is too coarse to take a step apart in.
    dtype = torch.promote_types(entries.weight.dtype, torch.float32)
    gradient = entries.gradient.to(dtype)
    if group.get("maximize"):
        gradient = -gradient
    return split(group, entries.weight.to(dtype), gradient, entries.state)


def splits(optimizers: Sequence[Optimizer]) -> bool:
    """Whether the steps of all of them are taken apart wholly."""
    return all(type(one) in _SPLITS and not _is_muon(one) for one in optimizers)


def _is_muon(optimizer: Optimizer) -> bool:
    return type(optimizer).__name__ == "Muon"


def _sgd(group: Mapping[str, Any], weight: Tensor, gradient: Tensor, state: Any) -> Parts:
    rate, mu, decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
    held = state.get("momentum_buffer")
    share = 1.0
    if mu:
        kept = 1.0 if held is None else 1.0 - float(group["dampening"])
        share = 1.0 + mu * kept if group["nesterov"] else kept
    terms = {"gradient": gradient * (-rate * share)}
    if mu and held is not None:
        terms["momentum"] = held.to(gradient) * (-rate * (mu * mu if group["nesterov"] else mu))
    if decay:
        terms["decay"] = weight * (-rate * share * decay)
    return Parts(terms, True)


def _adam(group: Mapping[str, Any], weight: Tensor, gradient: Tensor, state: Any) -> Parts:
    rate, eps, decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
    beta1, beta2 = (float(beta) for beta in group["betas"])
    decoupled = bool(group.get("decoupled_weight_decay", True))
    step = float(state.get("step", 0)) + 1
    given = gradient if decoupled or not decay else gradient + decay * weight
    held = state.get("exp_avg_sq")
    second = torch.zeros_like(given) if held is None else held.to(given) * beta2
    second.addcmul_(given, given, value=1 - beta2)
    if group.get("amsgrad") and "max_exp_avg_sq" in state:
        second = torch.maximum(second, state["max_exp_avg_sq"].to(given))
    bottom = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(eps)
    inverse = bottom.reciprocal_().mul_(-rate / (1 - beta1**step))
    terms = {"gradient": (1 - beta1) * gradient * inverse}
    if beta1 and "exp_avg" in state:
        terms["momentum"] = beta1 * state["exp_avg"].to(gradient) * inverse
    if decay:
        coupled = (1 - beta1) * decay * weight * inverse
        terms["decay"] = weight * (-rate * decay) if decoupled else coupled
    return Parts(terms, True)


def _adam_coupled(group: Mapping[str, Any], weight: Tensor, gradient: Tensor, state: Any) -> Parts:
    # Older releases of torch do not say in the group which of the two it is.
    known = {"decoupled_weight_decay": False, **group}
    return _adam(known, weight, gradient, state)


def _muon(group: Mapping[str, Any], weight: Tensor, gradient: Tensor, state: Any) -> Parts:
    factor = -float(group["lr"]) * float(group["weight_decay"])
    return Parts({"decay": weight * factor} if factor else {}, False)


_SPLITS: dict[type, Any] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam_coupled,
    torch.optim.AdamW: _adam,
}
if hasattr(torch.optim, "Muon"):
    _SPLITS[torch.optim.Muon] = _muon


@dataclass(frozen=True)
class Share:
    """What one term of one tensor's step does to the value, to first order.

    Attributes:
        tensor: name of the weight.
        kind: `"writer"` for its entries that write the value, `"other"` for the others.
        component: one of `COMPONENTS`.
        value: ⟨∇v, term⟩ over those entries.
    """

    tensor: str
    kind: str
    component: str
    value: float


class Account:
    """The account of one step: made right before it, closed right after it.

    Args:
        gradient: ∇θ v by the weight's name, before the step.
        weights: all weights by name.
        optimizers: those that are about to step, with gradients in place and moments as they will be.
        writer: whose entries are listed apart.
    """

    @torch.no_grad()
    def __init__(
        self,
        gradient: Mapping[str, Tensor],
        weights: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        writer: Writer | None,
    ) -> None:
        self.weights = weights
        self.slopes: dict[tuple[str, str], _Slope] = {}
        self.dots: dict[tuple[str, str], dict[str, float]] = {}
        self.whole: dict[str, bool] = {}
        groups = {
            id(weight): (optimizer, group)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        for name, slope in gradient.items():
            weight = weights[name]
            if weight.grad is None or id(weight) not in groups:
                continue
            optimizer, group = groups[id(weight)]
            entries = _in_memory_order(weight, optimizer.state.get(weight, {}))
            flat = in_memory_order(laid_out(slope, weight))
            self.slopes[name, ""] = _Slope.of(flat)
            if writer is not None and writer.view.tensor == name:
                self.slopes[name, "writer"] = _Slope(flat, writer.view.index(flat.device))
            for kind in ("", "writer"):
                if (name, kind) in self.slopes:
                    self.dots[name, kind] = self._dots(name, kind, type(optimizer), group, entries)

    @torch.no_grad()
    def close(self) -> list[Share]:
        """The shares of the step that has been taken since."""
        found = []
        for name, whole in self.whole.items():
            rest = "rounding" if whole else "update"
            flat = in_memory_order(self.weights[name].detach())
            parts = {}
            for kind in ("", "writer"):
                if (name, kind) in self.slopes:
                    terms = dict(self.dots[name, kind])
                    moved = self.slopes[name, kind].dot(flat) - terms.pop(WEIGHT)
                    parts[kind] = {**terms, rest: moved - sum(terms.values())}
            # The writer's entries are taken out of the tensor they lie in.
            own = parts.get("writer")
            other = {key: value - (own[key] if own else 0.0) for key, value in parts[""].items()}
            for kind, shares in (("writer", own or {}), ("other", other)):
                found += [Share(name, kind, part, value) for part, value in shares.items()]
        return found

    def _dots(
        self, name: str, kind: str, optimizer: type, group: Mapping[str, Any], entries: _Entries
    ) -> dict[str, float]:
        """⟨∇v, term⟩ of each term of the step to come, and of the weight itself."""
        total: dict[str, float] = {}

        def add(slope: Tensor, chosen: _Entries) -> None:
            parts = _parts(optimizer, group, chosen)
            self.whole[name] = parts.whole
            wide = slope.double()
            for term, values in {**parts.terms, WEIGHT: chosen.weight}.items():
                total[term] = total.get(term, 0.0) + exact_dot(wide, values)

        self.slopes[name, kind].each(entries, add)
        return total


WEIGHT = "weight"


@dataclass(frozen=True)
class _Slope:
    """∇v over the memory of one weight, or over some entries of it."""

    flat: Tensor
    index: Tensor | None

    @classmethod
    def of(cls, flat: Tensor) -> _Slope:
        """All entries, or where most are zero (an embedding's) those that are not."""
        if int(torch.count_nonzero(flat)) >= SPARSE * len(flat):
            return cls(flat, None)
        return cls(flat, flat.nonzero()[:, 0])

    def each(self, entries: _Entries, work: Callable[[Tensor, _Entries], None]) -> None:
        """`work` on pieces that fit in a cache."""
        count = len(self.flat) if self.index is None else len(self.index)
        # At least once: what a step consists of is known even where nothing depends on it.
        for begin in range(0, max(1, count), CHUNK):
            piece = slice(begin, begin + CHUNK)
            chosen = piece if self.index is None else self.index[piece]
            work(self.flat[chosen], entries[chosen])

    def dot(self, flat: Tensor) -> float:
        """⟨∇v, values⟩, float64."""
        total = 0.0

        def add(slope: Tensor, chosen: _Entries) -> None:
            nonlocal total
            total += exact_dot(slope, chosen.weight)

        self.each(_Entries(flat, flat, {}), add)
        return total


def exact_dot(left: Tensor, right: Tensor) -> float:
    """⟨left, right⟩ of vectors in float64, in which the product of two float32 numbers is exact.

    So exact that the small difference of two such products over all weights still is.
    """
    return float(torch.dot(left.double(), right.double()))


def _in_memory_order(weight: nn.Parameter, state: Mapping[str, Any]) -> _Entries:
    """A weight, its gradient and its moments as vectors, entry by entry as they lie in memory."""
    assert weight.grad is not None
    return _Entries(
        in_memory_order(weight.detach()),
        in_memory_order(laid_out(weight.grad, weight)),
        {
            key: in_memory_order(laid_out(value, weight)) if _like(value, weight.shape) else value
            for key, value in state.items()
        },
    )


def in_memory_order(tensor: Tensor) -> Tensor:
    """A dense tensor as a vector that shares its memory, whatever the order of its axes."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def laid_out(values: Tensor, like: Tensor) -> Tensor:
    """The same values in the memory layout of a parameter, where views of it find their numbers."""
    if values.stride() == like.stride():
        return values
    return torch.empty_like(like, dtype=values.dtype).copy_(values)
