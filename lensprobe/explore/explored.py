"""Settings in, an answer out: what a widget shows, without any widget in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, nearest
from ..models.adapter import Adapter, adapter_for
from ..results import Result
from .memory import Memory

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Choice", "Control", "Explored", "Slider", "Text", "layer_choice", "slider"]

ANSWERS = 200
"""Answers that are kept; each is some small tables."""
PARTS = 6
"""What answers share and is kept: texts, and passes that edited runs branch off."""


@dataclass(frozen=True)
class Slider:
    """A number between two ends."""

    name: str
    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of several; those in an order have a slider of their own."""

    name: str
    label: str
    value: Any
    options: tuple[Any, ...]
    ordered: bool = False


@dataclass(frozen=True)
class Text:
    """A text that is typed."""

    name: str
    label: str
    value: str


Control = Slider | Choice | Text


def slider(name: str, label: str, value: Any, ends: Any, plural: str) -> Slider:
    """A checked slider.

    Raises:
        ArgumentError: ends that are no two numbers in ascending order, a value outside them.
    """
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{plural}={ends!r}: the two ends of the slider.") from error
    if not (np.isfinite([low, high]).all() and low < high):
        raise ArgumentError(f"{plural}={ends!r}: two finite numbers, the smaller one first.")
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ArgumentError(f"{name}={value!r}: a number.")
    if not low <= value <= high:
        raise ArgumentError(
            f"{name}={value!r}: the slider goes from {low:g} to {high:g}; see {plural}=."
        )
    return Slider(name, label, float(value), low, high)


def layer_choice(layers: Sequence[int], layer: int) -> Choice:
    """Which layer, on a slider.

    Raises:
        ArgumentError: it is none of them.
    """
    if layer not in layers:
        raise ArgumentError(f"layer={layer!r}: one of {', '.join(map(str, layers))}.")
    return Choice("layer", "layer", layer, tuple(layers), ordered=True)


class Explored(ABC):
    """One model under settings that change, with earlier answers kept.

    Nothing is kept while hooks of the user's own are attached, and nothing is kept across a change of
    weights, dtype, device or training mode: an answer is always what asking anew would give.

    Args:
        model: a TransformerLens model.
        what: the call, for messages.

    Attributes:
        controls: what can be set, and to what at first.
        parts: what several answers share.

    Raises:
        ModelError: an encoder-decoder, or no TransformerLens model.
    """

    controls: tuple[Control, ...] = ()

    def __init__(self, model: Any, what: str) -> None:
        self.model = model
        self.adapter: Adapter = adapter_for(model)
        self.adapter.require_decoder(what)
        self.parts = Memory(PARTS)
        self.answers = Memory(ANSWERS)
        self._state: Hashable = None

    @property
    def initial(self) -> dict[str, Any]:
        """The settings to begin with."""
        return {control.name: control.value for control in self.controls}

    def ask(self, settings: Mapping[str, Any]) -> Result:
        """The answer under some settings, computed where it is not known already.

        Raises:
            ArgumentError: a setting of another name, an empty text; whatever the analysis refuses.
        """
        for name in settings:
            if name not in self.initial:
                raise ArgumentError(
                    f"{name}={settings[name]!r}: the settings are {', '.join(self.initial)}."
                    f"{nearest(name, self.initial)}"
                )
        chosen = {**self.initial, **settings}
        for control in self.controls:
            if isinstance(control, Text) and not chosen[control.name]:
                raise ArgumentError(f"{control.name}='': the text is empty.")
        self._forget_what_changed()
        return self.answers.of(tuple(chosen.values()), lambda: self.answer(chosen))

    @abstractmethod
    def answer(self, settings: Mapping[str, Any]) -> Result:
        """Compute it; what it shares with others goes into `parts`."""

    @abstractmethod
    def figure(self, answer: Any, theme: str) -> go.Figure:
        """The figure of an answer; always of the same traces, so that it can change in place."""

    @abstractmethod
    def texts(self, answer: Any) -> list[tuple[str, str, str]]:
        """What stands side by side below it: heading, the text that was given, what came."""

    def _forget_what_changed(self) -> None:
        hooks, state = self.adapter.user_hooks(), self._fingerprint()
        if hooks or state != self._state:
            self.parts.clear()
            self.answers.clear()
        # Hooks that are taken off again must not leave behind what was computed under them.
        self._state = None if hooks else state

    def _fingerprint(self) -> Hashable:
        """Something that differs once weights were written to, replaced or moved."""
        parts = [
            (id(p), 0 if p.is_inference() else p._version, p.dtype, p.device)
            for p in self.model.parameters()
        ]
        return bool(self.model.training), tuple(parts)
