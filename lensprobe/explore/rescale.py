"""A widget for one massive activation: how large it is, after which layer, and the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..massive.effects import EPSILON
from ..massive.place import births, check_epsilon
from ..massive.result import Finding, MassiveScan
from ..massive.subject import subject
from ..models.adapter import adapter_for
from ..tokens import Bos
from .explored import Text, layer_choice, slider
from .needs import require_widgets
from .rescaled import Rescaling
from .steering import checked_text

if TYPE_CHECKING:
    from .widget import Explorer

__all__ = ["rescale"]


def rescale(
    model: Any,
    prompt: str,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    factor: float = 0.0,
    factors: tuple[float, float] = (0.0, 3.0),
    epsilon: float = EPSILON,
    bos: Bos = "auto",
    theme: str = "light",
) -> Explorer:
    """Multiply one coordinate by hand: sliders for layer and factor, and a text box.

    The figure shows the attention that heads pay to the position, layer by layer, with the number as
    it is and multiplied, and the loss of the text. The text is read once; a factor or layer runs the
    blocks above it, and settings that were there before answer at once.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: the text in the box at first; it must go on after the position.
        at: a finding of `lp.massive.scan`, a list of them at one position, or the scan.
        dim: a dimension of the residual stream, instead of `at`. Without both, the prompt is scanned
            and its strongest massive activation is taken.
        position: of the token, from 0; with `dim` alone it is 0.
        layer: after which the slider stands at first; None is where the coordinate is born.
        factor: likewise, between the ends `factors`.
        epsilon: least attention of a sink, exclusive.
        theme: of the figure, "light" or "dark".

    Returns:
        A widget; see `lp.explore.steering`. Its answers are `Rescaled`.

    Raises:
        MissingPackageError: ipywidgets or anywidget is not installed.
        ArgumentError: an option out of range, a text that ends at the position, nothing massive
            where nothing was named.
        HookPointError: the model keeps no attention patterns.
        ModelError: an encoder-decoder model.

    Examples:
        >>> explorer = lp.explore.rescale(model, "The cat sat on the mat.")
        >>> [explorer.set(factor=x).run("rescaled")["sink_rate"] for x in (1.0, 0.0)]
        [0.125, 0.0]
    """
    require_widgets("lp.explore.rescale")
    from .widget import Explorer

    core = rescale_core(
        model, prompt, at=at, dim=dim, position=position, layer=layer, factor=factor,
        factors=factors, epsilon=epsilon, bos=bos,
    )  # fmt: skip
    return Explorer(core, theme=theme)


def rescale_core(
    model: Any,
    prompt: Any,
    *,
    at: Any,
    dim: Any,
    position: Any,
    layer: Any,
    factor: Any,
    factors: Any,
    epsilon: Any,
    bos: Bos,
) -> Rescaling:
    """What the widget asks, every option checked; see `rescale`."""
    adapter = adapter_for(model)
    adapter.require_decoder("lp.explore.rescale")
    check_epsilon(epsilon)
    strength = slider("factor", "factor", factor, factors, "factors")
    given = None if layer is None else adapter.layer(layer)
    text = Text("prompt", "text", checked_text(prompt))
    about = subject(adapter, [text.value], at=at, dim=dim, position=position, bos=bos)
    place = births(adapter, about, None)[0] if given is None else given
    controls = (layer_choice(range(adapter.n_layers), place), strength, text)
    return Rescaling(model, about.targets, float(epsilon), bos, controls)
