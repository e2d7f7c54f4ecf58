"""Figures of one addition against one at every block: effect, and the way up through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from .axes import layer_axis, rows_of
from .steering_compare import completions, extremes, tokens
from .steering_parts import band, effect_panels, level, steered_rows, texts_of
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import DepthComparison

__all__ = ["VIEWS", "effect", "journey", "norms"]

DASHES = {"once": "solid", "repeated": "dash", "divided": "dot", "matched": "dashdot"}


def effect(
    found: DepthComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Divergence, change in loss and fluency of one addition, many, and the fair controls."""
    look = style(theme, width_mm, title)
    words = Words(
        title="Once, or at every block from there on",
        subtitle=_subtitle(found),
        caption=(
            "Once: one addition. Repeated: the same at every block above. Divided: repeated with the "
            "scale divided by the number of blocks. Matched: repeated at the scale whose mean KL is "
            "that of once. KL and loss are read on the plain model's completion; bars are 95% "
            "bootstrap intervals over prompts; dashed is the unsteered model."
        ),
        finding=extremes(found.conditions),
    )
    return effect_panels(found.conditions, look, words)


def journey(
    found: DepthComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How much of what was added is still in the residual stream, layer by layer."""
    look = style(theme, width_mm, title)
    frame = found.journey.assign(value=found.journey["share"])
    once = rows_of(frame, condition="once")
    words = Words(
        title="How much of the addition is still there",
        subtitle=_subtitle(found),
        caption=(
            "The residual's component along the vector, less that of the plain run, over what had "
            "been added along it up to that layer, at the edited tokens. 1: all of it is still there; "
            "above 1 the model itself has written more. Bands are 95% bootstrap intervals over "
            "prompts."
        ),
        finding=(
            f"Here {number(once['value'].iloc[-1])} of the single addition is there at the last "
            f"layer; the least is {number(once['value'].min())} at layer "
            f"{int(once.loc[once['value'].idxmin(), 'layer'])}."
        ),
    )
    return _lines(frame, look, words, "share of what was added", 1.0, "all of it")


def norms(
    found: DepthComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The norm of the residual over that of the plain run, layer by layer."""
    look = style(theme, width_mm, title)
    # No interval is kept for the norms: the band is as wide as the line.
    frame = found.journey.assign(
        value=found.journey["ratio"], low=found.journey["ratio"], high=found.journey["ratio"]
    )
    steered = steered_rows(frame)
    top = steered.loc[steered["value"].idxmax()]
    words = Words(
        title="How much longer the residual becomes",
        subtitle=_subtitle(found),
        caption=(
            "The norm of the edited tokens' residual after each layer over that of the plain run, "
            "mean over tokens. Every block normalises its input, so a residual that is twice as long "
            "hears half as much of what the block writes."
        ),
        finding=(
            f"Here the residual is at most {number(top['value'])} times as long as the plain one "
            f"({top['condition']}, layer {int(top['layer'])})."
        ),
    )
    return _lines(frame, look, words, "norm / plain norm", 1.0, "unsteered")


def _lines(
    frame: pd.DataFrame, look: Look, words: Words, axis: str, mark: float, name: str
) -> go.Figure:
    traces = []
    present = [condition for condition in DASHES if condition in set(frame["condition"])]
    for index, condition in enumerate(present):
        rows = rows_of(frame, condition=condition)
        colour = look.theme.lines[index]
        hover = (
            f"<b>{condition}</b>, layer %{{x}}<br>%{{y:.3~g}} "
            "[%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]"
        )
        traces += band(rows, "layer", condition, colour, hover=hover, dash=DASHES[condition])
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    traces.append(level(layers, mark, name, look))
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis=layer_axis(layers, "resid_post"),
        yaxis={"title": {"text": axis}},
    )


def _subtitle(found: DepthComparison) -> str:
    scale = number(float(found.provenance["scale"]))
    where = f"from layer {found.provenance['layer']} on"
    return f"{model_name(found)}, {texts_of(found)}, {where}, scale {scale}"


VIEWS = {
    "effect": effect,
    "journey": journey,
    "norms": norms,
    "tokens": tokens,
    "completions": completions,
}
