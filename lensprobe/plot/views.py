"""The object behind `result.plot`: call it for the default figure, or one of its views."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from ..results import Result, Shown

__all__ = ["KINDS", "Views", "views"]

KINDS: dict[str, str] = {
    "attention": "attention",
    "comparison": "comparison",
    "explore.rescale": "explore_rescale",
    "explore.steering": "explore_steering",
    "generate": "generations",
    "generations": "generations",
    "interpolation.generate": "interpolation_text",
    "interpolation.learn": "interpolation_learn",
    "interpolation.score": "interpolation_score",
    "interpolation.surprise": "interpolation_surprise",
    "interpolation.sweep": "interpolation_sweep",
    "interpolation.trace": "interpolation_trace",
    "massive.ablate": "massive_ablate",
    "massive.anatomy": "massive_anatomy",
    "massive.bos_pull": "massive_pull",
    "massive.checkpoints": "massive_checkpoints",
    "massive.gradient": "massive_gradient",
    "massive.rescale": "massive_rescale",
    "massive.scan": "massive",
    "massive.tokens": "massive_tokens",
    "massive.training": "massive_training",
    "massive.trajectory": "massive_trajectory",
    "mnist.beside": "mnist_beside",
    "mnist.out_of_data": "mnist_leaving",
    "mnist.study": "mnist_study",
    "mnist.training": "mnist_training",
    "score": "score",
    "sinks.brittle": "sinks_brittle",
    "sinks.cause": "sinks_cause",
    "sinks.clusters": "sinks_clusters",
    "sinks.dedicate": "sinks_dedicate",
    "sinks.detector": "sinks_detector",
    "sinks.evict": "sinks_evict",
    "sinks.neurons": "sinks_neurons",
    "sinks.patch": "sinks_patch",
    "sinks.repeats": "sinks_repeats",
    "sinks.scan": "sinks",
    "sinks.scores": "sinks_scores",
    "sinks.values": "sinks_values",
    "steering.calibration": "steering_calibration",
    "steering.depth": "steering_depth",
    "steering.persistence": "steering_persistence",
    "steering.positions": "steering_compare",
    "steering.sites": "steering_sites",
    "steering.stability": "steering_stability",
    "steering.stacks": "steering_stacks",
    "steering.sweep": "steering_sweep",
    "steering.vector": "steering_vector",
    "steering.vectors": "steering_vectors",
}
"""Which module of this room draws a kind of result. The module's `VIEWS` lists its figures."""

Draw = Callable[..., go.Figure]


class Views:
    """The figures of one result. Call it for the default one; `dir()` lists the others.

    Every view takes `theme` ("light", "dark" or "paper"), `width_mm` and `title`, and returns a
    `go.Figure` without showing it.
    """

    def __init__(self, name: str, members: Mapping[str, Any]) -> None:
        self._name = name
        self._members = dict(members)

    @property
    def names(self) -> tuple[str, ...]:
        """The views, the default first."""
        return tuple(self._members)

    def __call__(self, **options: Any) -> go.Figure:
        """The default figure."""
        return self._members[self.names[0]](**options)

    def __getattr__(self, name: str) -> Any:
        # Copying and pickling ask for private names before __init__ has run.
        members = self.__dict__.get("_members", {})
        if name in members:
            return members[name]
        raise AttributeError(
            f"{self.__dict__.get('_name', 'plot')} has no view {name!r}; "
            f"its views are {', '.join(members)}.{nearest(name, members)}"
        )

    def __dir__(self) -> list[str]:
        return [*self._members, "names"]

    def __repr__(self) -> str:
        return f"plot of {self._name}: {self.names[0]} (default), {', '.join(self.names[1:])}"


def views(result: Shown) -> Views:
    """The views of a result, bound to it.

    Raises:
        ArgumentError: no figure is known for this kind of result.
    """
    name = type(result).__name__
    if result.kind in KINDS:
        module = importlib.import_module(f".{KINDS[result.kind]}", __package__)
        drawers: Mapping[str, Draw] = module.VIEWS
        return Views(name, {key: _bind(draw, result) for key, draw in drawers.items()})
    parts = {key: part for key, part in vars(result).items() if isinstance(part, Result)}
    if parts:
        return Views(name, {key: views(part) for key, part in parts.items()})
    raise ArgumentError(
        f"{name} (kind {result.kind!r}) has no figure; the kinds that have are {', '.join(KINDS)}."
    )


def _bind(draw: Draw, result: Shown) -> Draw:
    """`draw` with its result filled in, refusing unknown options by name."""
    signature = inspect.signature(draw)
    allowed = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(draw)
    def bound(**options: Any) -> go.Figure:
        for name in options:
            if name not in allowed:
                raise ArgumentError(
                    f"plot.{draw.__name__}({name}=...): the options are {', '.join(allowed)}."
                    f"{nearest(name, allowed)}"
                )
        return draw(result, **options)

    # Editors and help() show the options that are left, not the filled-in result.
    keep = [p for p in signature.parameters.values() if p.name in allowed]
    vars(bound)["__signature__"] = signature.replace(parameters=keep)
    return bound
