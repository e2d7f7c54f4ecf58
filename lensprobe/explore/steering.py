"""A widget for one steering vector: layer, scale, where it is added, and the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import positions as where
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..positions import Positions
from ..steering.layered import SteeringVectors
from ..steering.study import Sampling
from ..steering.vector import SteeringVector
from ..tokens import Bos
from .explored import Choice, Text, layer_choice, slider
from .needs import require_widgets
from .steered import Steering

if TYPE_CHECKING:
    from .widget import Explorer

__all__ = ["steering"]

PROMPT = "The weather today is"


def steering(
    model: Any,
    vector: SteeringVector | Mapping[int, SteeringVector],
    *,
    prompt: str = PROMPT,
    layer: int | None = None,
    scale: float = 1.0,
    scales: tuple[float, float] = (-10.0, 10.0),
    positions: Mapping[str, Positions] | None = None,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    theme: str = "light",
) -> Explorer:
    """Add a steering vector by hand: sliders for layer and scale, a rule for where, a text box.

    The figure shows the likeliest next tokens with and without the vector, and the divergence from
    the plain model along the plain model's own completion; below stand both completions. What is
    not touched by a change is not computed again, and settings that were there before answer at once.

    Args:
        model: a decoder-only TransformerLens model.
        vector: one vector, which every layer is offered; or one for each of several layers.
        prompt: the text in the box at first.
        layer: where the slider stands at first; None is the vector's own, of several the middle one.
        scale: likewise, between the ends `scales`.
        positions: name → selector; None is the front, everywhere, everywhere but at position 0, and
            from the prompt's last token on. For a vector with a row for each token: that many tokens
            at the front, or at the prompt's end.
        max_new_tokens: length of the completions.
        temperature: 0 is greedy; see `lp.generate` for this and the next three. A seed is drawn once.
        theme: of the figure, "light" or "dark".

    Returns:
        A widget: `.answer` is the `Steered` of the settings that it shows, `.set(layer=..., ...)`
        moves its sliders, `.error` is what went wrong last, or None.

    Raises:
        MissingPackageError: ipywidgets or anywidget is not installed.
        ArgumentError: an option out of range, a vector of another width, an empty prompt.
        ModelError: an encoder-decoder model.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> explorer = lp.explore.steering(model, vector, prompt="The cat sat.", max_new_tokens=4)
        >>> round(explorer.set(scale=2.0).kl, 2)
        4.16
    """
    require_widgets("lp.explore.steering")
    from .widget import Explorer

    core = steering_core(
        model, vector, prompt=prompt, layer=layer, scale=scale, scales=scales, positions=positions,
        sampling=Sampling(max_new_tokens, temperature, top_k, top_p, seed), bos=bos,
    )  # fmt: skip
    return Explorer(core, theme=theme)


def steering_core(
    model: Any,
    vector: Any,
    *,
    prompt: Any,
    layer: Any,
    scale: Any,
    scales: Any,
    positions: Any,
    sampling: Sampling,
    bos: Bos,
) -> Steering:
    """What the widget asks, every option checked; see `steering`."""
    adapter = adapter_for(model)
    adapter.require_decoder("lp.explore.steering")
    vectors = _vectors(adapter, vector)
    first = next(iter(vectors.values()))
    rules, rule = _rules(positions, first)
    if layer is not None:
        start = adapter.layer(layer)
    else:
        start = first.layer if len(set(map(id, vectors.values()))) == 1 else _middle(vectors)
    controls = (
        layer_choice(list(vectors), start),
        slider("scale", "scale", scale, scales, "scales"),
        Choice("positions", "added at", rule, tuple(rules)),
        Text("prompt", "prompt", checked_text(prompt)),
    )
    return Steering(model, vectors, rules, sampling.settled(), bos, controls)


def checked_text(prompt: Any) -> str:
    """The text of the box.

    Raises:
        ArgumentError: it is no string.
    """
    if not isinstance(prompt, str):
        raise ArgumentError(f"prompt={prompt!r}: one string, which can be changed in the box.")
    return prompt


def _vectors(adapter: Adapter, vector: Any) -> dict[int, SteeringVector]:
    if isinstance(vector, SteeringVector):
        adapter.layer(vector.layer)
        return dict.fromkeys(range(adapter.n_layers), vector)
    if not isinstance(vector, Mapping) or not vector:
        raise ArgumentError(
            f"vector={vector!r}: a SteeringVector, or a mapping layer → SteeringVector."
        )
    vectors = vector if isinstance(vector, SteeringVectors) else SteeringVectors(vector)
    return {layer: vectors[layer] for layer in adapter.layers(list(vectors))}


def _middle(vectors: Mapping[int, SteeringVector]) -> int:
    layers = list(vectors)
    return layers[len(layers) // 2]


def _rules(given: Any, vector: SteeringVector) -> tuple[dict[str, Positions], str]:
    """The position rules by name, and which is the first one shown."""
    if given is None:
        if vector.tokens is not None:
            end = where.at(*range(-vector.tokens, 0))
            return {"the front": where.front(), "the prompt's end": end}, "the front"
        rules = {
            "the front": where.front(1),
            "everywhere": where.all(),
            "everywhere but position 0": where.all() - where.front(1),
            "after the prompt": where.after_prompt(),
        }
        return rules, "after the prompt"
    if not isinstance(given, Mapping) or not given:
        raise ArgumentError(
            f'positions={given!r}: a mapping name → selector, such as {{"all": lp.positions.all()}}.'
        )
    for name, rule in given.items():
        if not isinstance(rule, Positions):
            raise ArgumentError(f"positions[{name!r}]={rule!r}: a selector of lp.positions.")
    found = {str(name): rule for name, rule in given.items()}
    return found, next(iter(found))
