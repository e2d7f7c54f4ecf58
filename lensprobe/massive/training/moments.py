"""Interventions on what an optimizer remembers: small frozen values, each doing exactly what it says.

Adam and AdamW keep two moments of each weight's gradient, m ← β₁ m + (1 - β₁) g and
v ← β₂ v + (1 - β₂) g²; SGD with momentum and Muon keep the first alone. An intervention changes that
memory between two steps, or before the first. The step itself is torch's own, untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from ...errors import ArgumentError, nearest
from .writer import Writer

__all__ = [
    "FreezeMoment",
    "Intervention",
    "ScaleMoment",
    "WarmStart",
    "ZeroMoment",
    "moment_of",
]

Moment = Literal["first", "second"]
KEYS: dict[str, tuple[str, ...]] = {
    "first": ("exp_avg", "momentum_buffer"),
    "second": ("exp_avg_sq",),
}
"""What torch's optimizers call each moment in their state."""
WRITER = "writer"


class Intervention:
    """Base of what may be done to an optimizer's memory."""

    def describe(self) -> str:
        """One line for provenance."""
        return repr(self)


@dataclass(frozen=True)
class Change(Intervention):
    """An intervention at chosen steps on chosen entries.

    Attributes:
        moment: `"first"` or `"second"`.
        tensors: names of weights, `*` and `?` standing for anything, or `"writer"`: the weights that
            write the watched value (the column `W_out[:, dim]`, one a neuron).
        rows: which rows (first index) of those tensors, of the writer which neurons; None is all.
        columns: which columns (second index); with one row, single weights. None is all.
        steps: optimizer steps, counted from 1; `"all"` is every one.
    """

    moment: Moment
    tensors: str | Sequence[str] = "*"
    rows: Sequence[int] | None = None
    columns: Sequence[int] | None = None
    steps: int | Sequence[int] | Literal["all"] = "all"

    def __post_init__(self) -> None:
        if self.moment not in KEYS:
            raise ArgumentError(f'moment={self.moment!r}: "first" or "second".')
        names = (self.tensors,) if isinstance(self.tensors, str) else tuple(self.tensors)
        if not names or not all(isinstance(name, str) for name in names):
            raise ArgumentError(f"tensors={self.tensors!r}: names of weights.")
        object.__setattr__(self, "tensors", names)
        for name in ("rows", "columns"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _whole(name, given, 0))
        if self.steps != "all":
            object.__setattr__(self, "steps", _whole("steps", self.steps, 1))

    def due(self, step: int) -> bool:
        """Whether it acts at this step."""
        return not isinstance(self.steps, tuple) or step in self.steps

    def before(self, held: Tensor) -> Tensor:
        """What the moment becomes before the step."""
        return held

    def after(self, kept: Tensor, held: Tensor) -> Tensor:
        """What it becomes after the step; `kept` is what it was before."""
        return held


@dataclass(frozen=True)
class ScaleMoment(Change):
    """Right before the step, the moment carried over is multiplied by `factor`.

    The step then mixes in its own gradient as always: m = β₁ (factor · m) + (1 - β₁) g.

    Examples:
        >>> lp.massive.ScaleMoment("first", factor=0.5, steps=[1, 2]).due(3)
        False
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.factor, Real) and not isinstance(self.factor, bool)
        if not number or not math.isfinite(self.factor):
            raise ArgumentError(f"factor={self.factor!r}: a finite number.")
        if self.moment == "second" and self.factor < 0:
            raise ArgumentError(f"factor={self.factor!r}: a second moment is not negative.")

    @override
    def before(self, held: Tensor) -> Tensor:
        return held * self.factor


@dataclass(frozen=True)
class ZeroMoment(Change):
    """Right before the step, the moment carried over is forgotten: m = (1 - β₁) g, as after a start.

    Bias corrections go on counting.

    Examples:
        >>> import torch
        >>> lp.massive.ZeroMoment("first").before(torch.ones(2)).tolist()
        [0.0, 0.0]
    """

    @override
    def before(self, held: Tensor) -> Tensor:
        return torch.zeros_like(held)


@dataclass(frozen=True)
class FreezeMoment(Change):
    """After the step, the moment is put back to what it was before it.

    The step itself still mixes in its own gradient, m = β₁ m₀ + (1 - β₁) g; nothing of that stays.

    Examples:
        >>> import torch
        >>> frozen = lp.massive.FreezeMoment("second")
        >>> frozen.after(kept=torch.zeros(2), held=torch.ones(2)).tolist()
        [0.0, 0.0]
    """

    @override
    def after(self, kept: Tensor, held: Tensor) -> Tensor:
        return kept


@dataclass(frozen=True)
class WarmStart(Intervention):
    """Moments from passes over other batches before the first step, which leave every weight as it is.

    The optimizer takes `batches` steps at learning rate 0, so that its moments, and its count for the
    bias corrections, are what they would be had gradients been seen and nothing done about them. Then
    the moment that is not asked for is set to zero.

    Attributes:
        moment: which one is kept: `"second"`, `"first"` or `"both"`.
        batches: how many, drawn in an order of their own, so that training meets its own batches.

    Examples:
        >>> lp.massive.WarmStart(batches=4)
        WarmStart(moment='second', batches=4)
    """

    moment: Moment | Literal["both"] = "second"
    batches: int = 16

    def __post_init__(self) -> None:
        if self.moment not in (*KEYS, "both"):
            raise ArgumentError(f'moment={self.moment!r}: "first", "second" or "both".')
        if isinstance(self.batches, bool) or not isinstance(self.batches, int) or self.batches < 1:
            raise ArgumentError(f"batches={self.batches!r}: a positive whole number.")

    def finish(self, optimizers: Sequence[Optimizer]) -> None:
        """Forget what was not asked for.

        Raises:
            ArgumentError: what was asked for is nothing these optimizers keep.
        """
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        for moment in KEYS:
            held = [tensor for state in states if (tensor := _held(state, moment)) is not None]
            if self.moment not in (moment, "both"):
                for tensor in held:
                    tensor.zero_()
            elif not held:
                kinds = " and ".join(dict.fromkeys(type(one).__name__ for one in optimizers))
                raise ArgumentError(f"WarmStart: {kinds} as given here keeps no {moment} moment.")


def _whole(name: str, given: Any, least: int) -> tuple[int, ...]:
    several = isinstance(given, Iterable) and not isinstance(given, str)
    found: list[Any] = list(given) if several else [given]
    for one in found:
        if isinstance(one, bool) or not hasattr(one, "__index__") or one.__index__() < least:
            raise ArgumentError(f"{name}={given!r}: whole numbers, at least {least}.")
    if not found:
        raise ArgumentError(f"{name} is empty; name at least one.")
    return tuple(sorted({one.__index__() for one in found}))


def _held(state: Mapping[str, Any], moment: str) -> Tensor | None:
    return next((state[key] for key in KEYS[moment] if state.get(key) is not None), None)


def moment_of(optimizer: Optimizer, weight: nn.Parameter, moment: str) -> Tensor | None:
    """A moment of one weight as the optimizer holds it; None before the first step, or without one."""
    return _held(optimizer.state.get(weight, {}), moment)


class Bound:
    """One `Change` on the weights of one run.

    Raises:
        ArgumentError: no weight of that name; a row or column out of range; an optimizer without that
            moment (of one that is not torch's own, after its first step); the writer of a value that
            has none.
    """

    def __init__(
        self,
        change: Change,
        weights: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
        writer: Writer | None,
    ) -> None:
        self.change = change
        self.kept: list[Tensor] = []
        owners = {
            id(weight): optimizer
            for optimizer in optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }
        self.places: list[tuple[Optimizer, nn.Parameter, Callable[[Tensor], Tensor], Any]] = []
        for name in _matching(change, weights, writer):
            inside = writer.view.of if name is WRITER and writer else _itself
            weight = weights[writer.view.tensor] if name is WRITER and writer else weights[name]
            if not weight.requires_grad:
                continue
            index = _index(change, name, inside(weight.detach()).shape)
            owner = owners[id(weight)]
            _check_has(owner, change.moment)
            self.places.append((owner, weight, inside, index))

    def before(self, step: int) -> None:
        """Call right before the optimizer's step number `step`."""
        if self.change.due(step):
            self.kept = [self._changed(place) for place in self.places]

    def after(self, step: int) -> None:
        """Call right after it."""
        if not self.change.due(step):
            return
        for (owner, weight, inside, index), kept in zip(self.places, self.kept, strict=True):
            held = moment_of(owner, weight, self.change.moment)
            if held is not None:
                view = inside(held)
                view[index] = self.change.after(kept, view[index])
            elif owner.state.get(weight):
                _refuse(owner, self.change.moment)
        self.kept = []

    def _changed(self, place: tuple[Any, ...]) -> Tensor:
        owner, weight, inside, index = place
        held = moment_of(owner, weight, self.change.moment)
        if held is None:
            # Before the first step there is nothing to remember, which is a moment of zero.
            return torch.zeros_like(inside(weight.detach())[index])
        view = inside(held)
        kept = view[index].clone()
        view[index] = self.change.before(kept)
        return kept


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _matching(
    change: Change, weights: Mapping[str, nn.Parameter], writer: Writer | None
) -> list[str]:
    found: list[str] = []
    for pattern in change.tensors:
        if pattern == WRITER:
            if writer is None:
                raise ArgumentError(
                    "tensors='writer': the weights that write the watched value are not known here; "
                    "name the tensors."
                )
            found.append(WRITER)
            continue
        names = [name for name in weights if fnmatchcase(name, pattern)]
        if not names:
            raise ArgumentError(
                f"tensors={pattern!r} fits no weight of this model, such as "
                f"{next(iter(weights))!r}.{nearest(pattern, weights)}"
            )
        found += names
    return list(dict.fromkeys(found))


def _index(change: Change, name: str, shape: torch.Size) -> Any:
    chosen = [change.rows, change.columns]
    for axis, (argument, given) in enumerate(zip(("rows", "columns"), chosen, strict=True)):
        if given is None:
            continue
        if axis >= len(shape):
            raise ArgumentError(f"{argument}: {name} has {len(shape)} axes, {tuple(shape)}.")
        if max(given) >= shape[axis]:
            raise ArgumentError(
                f"{argument}={max(given)}: {name} has {shape[axis]}, 0 to {shape[axis] - 1}."
            )
    rows, columns = chosen
    if columns is None:
        return ... if rows is None else torch.tensor(rows)
    along = torch.arange(shape[0]) if rows is None else torch.tensor(rows)
    return along[:, None], torch.tensor(columns)


def _check_has(optimizer: Optimizer, moment: str) -> None:
    """Refuse early what torch's own optimizers cannot have; others show it in their state."""
    kind = type(optimizer).__name__
    plain = kind == "SGD" and not optimizer.defaults.get("momentum")
    if (moment == "second" and kind in ("SGD", "Muon")) or plain:
        _refuse(optimizer, moment)


def _refuse(optimizer: Optimizer, moment: str) -> None:
    kind = type(optimizer).__name__
    raise ArgumentError(f"moment={moment!r}: {kind} as given here keeps no {moment} moment.")
