"""A widget for late layers that see the next token: which layer, how much, and the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..interpolation.blend import Norm, Target, resolve_blend
from ..models.adapter import adapter_for
from ..steering.opening import opened_prompts
from ..steering.study import Sampling
from ..tokens import Bos
from .blending import Blending
from .explored import Text, layer_choice, slider
from .needs import require_widgets
from .steering import checked_text

if TYPE_CHECKING:
    from .widget import Explorer

__all__ = ["interpolation"]


def interpolation(
    model: Any,
    prompt: str = "Once upon a time",
    *,
    layer: int | None = None,
    weight: float = 0.3,
    weights: tuple[float, float] = (0.0, 1.0),
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    theme: str = "light",
) -> Explorer:
    """Blend the token that really came into a late layer by hand: sliders for layer and weight.

    The figure shows the log-probability of each written token, under the model that wrote it and
    under the plain model; below stand the continuations of both. The plain one is written once a
    prompt, and settings that were there before answer at once.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: the text in the box at first.
        layer: where the slider stands at first; None is three quarters up.
        weight: likewise, between the ends `weights`.
        target: what is blended in; see `lp.interpolation.generate` for this and the next two.
        max_new_tokens: length of the continuations.
        temperature: 0 is greedy; see `lp.generate` for this and the next three. A seed is drawn once.
        theme: of the figure, "light" or "dark".

    Returns:
        A widget; see `lp.explore.steering`. Its answers are `lp.interpolation.Interpolation`.

    Raises:
        MissingPackageError: ipywidgets or anywidget is not installed.
        ArgumentError: an option out of range, an empty prompt.
        ModelError: an encoder-decoder model, or weights that cannot be read.

    Examples:
        >>> explorer = lp.explore.interpolation(model, "The cat", max_new_tokens=4)
        >>> explorer.set(weight=0.8).completions, explorer.settings["layer"]
        (['he t'], 4)
    """
    require_widgets("lp.explore.interpolation")
    from .widget import Explorer

    core = interpolation_core(
        model, prompt, layer=layer, weight=weight, weights=weights, target=target, norm=norm,
        keep_first=keep_first, bos=bos,
        sampling=Sampling(max_new_tokens, temperature, top_k, top_p, seed),
    )  # fmt: skip
    return Explorer(core, theme=theme)


def interpolation_core(
    model: Any,
    prompt: Any,
    *,
    layer: Any,
    weight: Any,
    weights: Any,
    target: Target,
    norm: Norm,
    keep_first: bool,
    sampling: Sampling,
    bos: Bos,
) -> Blending:
    """What the widget asks, every option checked; see `interpolation`."""
    adapter = adapter_for(model)
    what = "lp.explore.interpolation"
    adapter.require_decoder(what)
    strength = slider("weight", "weight", weight, weights, "weights")
    text = Text("prompt", "prompt", checked_text(prompt))
    opened_prompts(model, text.value, what=what, bos=bos, sampling=sampling)
    place = adapter.layer((3 * adapter.n_layers) // 4 if layer is None else layer)
    blend = {"target": target, "norm": norm, "keep_first": keep_first}
    ends = [strength.low, strength.high]
    blend["extrapolate"] = not all(0 <= end <= 1 for end in ends)
    # Whether the blend fits the lowest layer that can be chosen is known before any is.
    first = 0 if isinstance(target, str) else adapter.layer(target, "target")
    resolve_blend(adapter, layer=first, weight=strength.value, below=None, **blend)
    controls = (layer_choice(range(first, adapter.n_layers), place), strength, text)
    options = {**blend, **sampling.settled().facts(), "bos": bos}
    return Blending(model, options, controls)
