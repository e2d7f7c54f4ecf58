"""How a run is trained: which optimizer, with which settings, warmed up how, disturbed by what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ...errors import ArgumentError, nearest
from .moments import Intervention

__all__ = ["NAMES", "Recipe", "build", "describe", "listed", "named_recipes"]

Make = Callable[[list[nn.Parameter]], Optimizer]

RATES = {"adamw": 1e-4, "adam": 1e-4, "muon": 1e-4, "sgd": 1e-2, "momentum": 1e-3, "nesterov": 1e-3}
"""Learning rates where none is given: small ones, for weights that are trained already."""
DECAYS = {"adamw": 0.01, "muon": 0.1}
"""Weight decays where none is given: torch's own."""
NAMES = tuple(RATES)
MOMENTUM = 0.9


@dataclass(frozen=True)
class Recipe:
    """The settings of one run. Whatever is None is decided by the call, or by the optimizer's default.

    Attributes:
        optimizer: `"adamw"`, `"adam"`, `"sgd"`, `"momentum"` (SGD with momentum 0.9), `"nesterov"`,
            `"muon"` (torch's Muon on the matrices inside the blocks, AdamW on everything else, both
            at the same learning rate), or a callable that takes the list of parameters and returns a
            `torch.optim.Optimizer`, whose own settings then hold.
        learning_rate: of the full schedule; None is 1e-4, for plain SGD 1e-2, with momentum 1e-3.
        weight_decay: decoupled in AdamW and Muon, added to the gradient in Adam and SGD.
        betas: of Adam and AdamW; β₁ = 0 is no first moment.
        eps: of Adam and AdamW.
        momentum: of SGD; None is none, or 0.9 where the name says so, and 0.95 for Muon.
        warmup: steps over which the learning rate rises from 0, linearly: step s has s / warmup of it.
        clip: largest norm of the whole gradient; larger ones are scaled down before the step.
        interventions: on the optimizer's moments; see `ScaleMoment`, `FreezeMoment`, `WarmStart`.

    Examples:
        >>> recipe = lp.massive.Recipe("sgd", learning_rate=0.01)
        >>> recipe.optimizer, recipe.momentum is None
        ('sgd', True)
    """

    optimizer: str | Make = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float | None = None
    warmup: int | None = None
    clip: float | None = None
    interventions: Sequence[Intervention] = ()

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, str) and self.optimizer not in NAMES:
            raise ArgumentError(
                f"optimizer={self.optimizer!r}: one of {', '.join(NAMES)}, or a callable that takes "
                f"the parameters and returns an optimizer.{nearest(self.optimizer, NAMES)}"
            )
        if not isinstance(self.optimizer, str) and not callable(self.optimizer):
            raise ArgumentError(
                f"optimizer={self.optimizer!r}: a name ({', '.join(NAMES)}) or a callable."
            )
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise ArgumentError(f"optimizer='muon': torch {torch.__version__} has no Muon.")
        for name in ("learning_rate", "weight_decay", "momentum", "clip", "eps"):
            given = _number(name, getattr(self, name), optional=name != "eps")
            object.__setattr__(self, name, given)
        if self.clip == 0:
            raise ArgumentError("clip=0: a positive norm, or None.")
        betas = tuple(self.betas) if isinstance(self.betas, Sequence) else ()
        if len(betas) != 2 or not all(isinstance(b, Real) and 0 <= float(b) < 1 for b in betas):
            raise ArgumentError(f"betas={self.betas!r}: two numbers, at least 0 and below 1.")
        object.__setattr__(self, "betas", tuple(map(float, betas)))
        if self.warmup is not None and (
            isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0
        ):
            raise ArgumentError(f"warmup={self.warmup!r}: a number of steps, at least 0.")
        object.__setattr__(self, "interventions", listed(self.interventions))

    def filled(
        self,
        learning_rate: float | None,
        weight_decay: float | None,
        warmup: int | None,
        interventions: Sequence[Intervention],
    ) -> Recipe:
        """The recipe with what the call says where it says nothing itself.

        Raises:
            ArgumentError: a learning rate or a weight decay for a callable, which sets its own.
        """
        own = callable(self.optimizer)
        for name, given in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if own and (given is not None or getattr(self, name) is not None):
                raise ArgumentError(
                    f"{name}=: the callable given as optimizer= sets its own; set it there."
                )
        return replace(
            self,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            weight_decay=weight_decay if self.weight_decay is None else self.weight_decay,
            warmup=(warmup or 0) if self.warmup is None else self.warmup,
            interventions=(*self.interventions, *listed(interventions)),
        )

    def rate(self, step: int) -> float:
        """What the learning rate of step `step` (from 1) is multiplied by."""
        return min(1.0, step / self.warmup) if self.warmup else 1.0


def _number(name: str, value: Any, *, optional: bool) -> float | None:
    if value is None and optional:
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise ArgumentError(f"{name}={value!r}: a finite number, at least 0.")
    return float(value)


def listed(given: Any) -> tuple[Intervention, ...]:
    """One intervention or several as a tuple.

    Raises:
        ArgumentError: something else among them.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    found: list[Any] = list(given) if several else [given]
    for one in found:
        if not isinstance(one, Intervention):
            raise ArgumentError(
                f"interventions: {one!r} is none of ScaleMoment, ZeroMoment, FreezeMoment, WarmStart."
            )
    return tuple(found)


def named_recipes(optimizer: Any, runs: Any) -> dict[str, Recipe]:
    """The runs of a call by name: those of `runs`, or the one that `optimizer` describes.

    Raises:
        ArgumentError: no runs, a name that is none, settings that are not understood.
    """
    if runs is None:
        recipe = _recipe("optimizer", "adamw" if optimizer is None else optimizer)
        name = recipe.optimizer
        return {name if isinstance(name, str) else getattr(name, "__name__", "custom"): recipe}
    if optimizer is not None:
        raise ArgumentError("optimizer= and runs=: give one of them.")
    if not isinstance(runs, Mapping) or not runs:
        raise ArgumentError("runs: a mapping from the name of a run to its settings.")
    for name in runs:
        if not isinstance(name, str) or not name.strip():
            raise ArgumentError(f"runs: {name!r} is no name; give each run a name.")
    return {name: _recipe(f"runs[{name!r}]", given) for name, given in runs.items()}


def _recipe(place: str, given: Any) -> Recipe:
    if isinstance(given, Recipe):
        return given
    if isinstance(given, Mapping):
        known = [field.name for field in fields(Recipe)]
        for name in given:
            if name not in known:
                raise ArgumentError(
                    f"{place}: {name!r} is none of the settings {', '.join(known)}."
                    f"{nearest(str(name), known)}"
                )
        return Recipe(**given)
    return Recipe(given)


def build(recipe: Recipe, weights: Mapping[str, nn.Parameter]) -> list[Optimizer]:
    """Fresh optimizers over the trainable weights: one, for Muon two.

    Raises:
        ArgumentError: a callable that does not return an optimizer, or one that needs a closure.
    """
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    if callable(recipe.optimizer):
        made = recipe.optimizer(list(trained.values()))
        if not isinstance(made, Optimizer):
            raise ArgumentError(
                f"optimizer: the callable returned {type(made).__name__}, not a torch.optim.Optimizer."
            )
        if isinstance(made, torch.optim.LBFGS):
            raise ArgumentError("optimizer: LBFGS takes several passes a step; give another.")
        return [made]
    name = recipe.optimizer
    rate = RATES[name] if recipe.learning_rate is None else recipe.learning_rate
    decay = DECAYS.get(name, 0.0) if recipe.weight_decay is None else recipe.weight_decay
    adam = {"lr": rate, "betas": recipe.betas, "eps": recipe.eps}
    if name in ("adamw", "adam"):
        kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return [kind(list(trained.values()), weight_decay=decay, **adam)]
    if name == "muon":
        return _muon(recipe, trained, rate, decay, adam)
    momentum = recipe.momentum
    if momentum is None:
        momentum = 0.0 if name == "sgd" else MOMENTUM
    nesterov = name == "nesterov"
    return [
        torch.optim.SGD(
            list(trained.values()), rate, momentum, weight_decay=decay, nesterov=nesterov
        )
    ]


def _muon(
    recipe: Recipe,
    weights: Mapping[str, nn.Parameter],
    rate: float,
    decay: float,
    adam: dict[str, Any],
) -> list[Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms, biases and unembedding."""
    matrices = [w for name, w in weights.items() if w.ndim == 2 and name.startswith("blocks.")]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in weights.values() if id(weight) not in chosen]
    if not matrices:
        raise ArgumentError("optimizer='muon': this model has no matrices inside its blocks.")
    muon = torch.optim.Muon(
        matrices,
        lr=rate,
        weight_decay=decay,
        momentum=0.95 if recipe.momentum is None else recipe.momentum,
        # Steps as large as AdamW's, so that both may share one learning rate.
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, torch.optim.AdamW(rest, weight_decay=decay, **adam)] if rest else [muon]


def describe(recipe: Recipe, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """A recipe as JSON, with what each optimizer was really given."""
    facts = asdict(recipe) | {"interventions": [one.describe() for one in recipe.interventions]}
    if callable(recipe.optimizer):
        facts["optimizer"] = getattr(recipe.optimizer, "__name__", type(recipe.optimizer).__name__)
    facts["betas"] = list(recipe.betas)
    facts["torch"] = [
        {"class": type(one).__name__, **{k: _plain(v) for k, v in one.defaults.items()}}
        for one in optimizers
    ]
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str | None) else str(value)
