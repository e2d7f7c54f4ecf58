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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .writer import Writer

__all__ = ["COMPONENTS", "Account", "Parts", "Share", "splits", "step_parts"]

COMPONENTS = ("gradient", "momentum", "decay", "update", "rounding")
CHUNK = 2**20


@dataclass(frozen=True)
class Parts:
    """The terms of one weight's next step.

    Attributes:
        terms: by name, each shaped as the weight; a term that is zero by the settings is left out.
        whole: whether they are all there is; if not, the rest of the step is `update`.
    """

    terms: dict[str, Tensor]
    whole: bool


@torch.no_grad()
def step_parts(optimizer: Optimizer, group: Mapping[str, Any], weight: nn.Parameter) -> Parts:
    """The terms of the step that `optimizer.step()` would take on this weight now.

    Its gradient must be in `weight.grad`. Nothing is changed.
    """
    split = _SPLITS.get(type(optimizer))
    if split is None or weight.grad is None:
        return Parts({}, False)
    # Half precision is too coarse to take a step apart in.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gradient = weight.grad.to(dtype)
    if group.get("maximize"):
        gradient = -gradient
    return split(group, weight.detach().to(dtype), gradient, optimizer.state.get(weight, {}))


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
    second = (1 - beta2) * given.square()
    if "exp_avg_sq" in state:
        second = second + beta2 * state["exp_avg_sq"].to(gradient)
    if group.get("amsgrad") and "max_exp_avg_sq" in state:
        second = torch.maximum(second, state["max_exp_avg_sq"].to(gradient))
    scale = -rate / (1 - beta1**step)
    inverse = scale / (second.sqrt() / (1 - beta2**step) ** 0.5 + eps)
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

    def __init__(
        self,
        gradient: Mapping[str, Tensor],
        weights: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        writer: Writer | None,
    ) -> None:
        self.gradient = gradient
        self.weights = weights
        self.writer = writer
        self.terms: dict[tuple[str, str], dict[str, float]] = {}
        self.before: dict[tuple[str, str], float] = {}
        self.whole: dict[str, bool] = {}
        groups = {
            id(weight): (optimizer, group)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        for name in gradient:
            weight = weights[name]
            if weight.grad is None or id(weight) not in groups:
                continue
            parts = step_parts(*groups[id(weight)], weight)
            self.whole[name] = parts.whole
            for kind, dots in self._dots(name, {**parts.terms, "": weight.detach()}).items():
                self.before[name, kind] = dots.pop("")
                self.terms[name, kind] = dots

    def close(self) -> list[Share]:
        """The shares of the step that has been taken since."""
        found = []
        for name in self.whole:
            rest = "rounding" if self.whole[name] else "update"
            for kind, dots in self._dots(name, {"": self.weights[name].detach()}).items():
                terms = self.terms[name, kind]
                moved = dots[""] - self.before[name, kind]
                shares = {**terms, rest: moved - sum(terms.values())}
                found += [
                    Share(name, kind, component, value) for component, value in shares.items()
                ]
        return found

    def _dots(self, name: str, terms: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """⟨∇v, term⟩ of each term, over the entries of the writer and over the others."""
        gradient = self.gradient[name]
        whole = {term: dot(gradient, values) for term, values in terms.items()}
        if self.writer is None or self.writer.view.tensor != name:
            return {"other": whole}
        of, like = self.writer.view.of, self.weights[name]
        own = {
            term: dot(of(laid_out(gradient, like)), of(laid_out(values, like)))
            for term, values in terms.items()
        }
        return {"writer": own, "other": {term: whole[term] - own[term] for term in whole}}


def dot(left: Tensor, right: Tensor) -> float:
    """⟨left, right⟩ in float64, in which the product of two float32 numbers is exact.

    So exact that the small difference of two such products over all weights still is.
    """
    if left.stride() != right.stride() or not left.is_contiguous():
        left, right = left.contiguous(), right.contiguous()
    total = 0.0
    pieces = zip(left.view(-1).split(CHUNK), right.view(-1).split(CHUNK), strict=True)
    for one, other in pieces:
        total += float(torch.dot(one.double(), other.double()))
    return total


def laid_out(values: Tensor, like: Tensor) -> Tensor:
    """The same values in the memory layout of a parameter, where views of it find their numbers."""
    if values.stride() == like.stride():
        return values
    return torch.empty_like(like, dtype=values.dtype).copy_(values)
