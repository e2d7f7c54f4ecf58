"""Figures of an interpolation sweep: the map of layers and weights, and the change by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .steering_parts import band
from .theme import Look, Words, build, colour_bar, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..interpolation import InterpolationSweep

__all__ = ["VIEWS", "curves", "heat"]

DRAWN = 5
"""Layers that the curves show."""


def heat(
    sweep: InterpolationSweep,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change in loss at every layer and weight, centred on no change."""
    look = style(theme, width_mm, title)
    frame = sweep.effects
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    weights = sorted(float(weight) for weight in frame["weight"].unique())
    wide = {
        name: frame.pivot(index="layer", columns="weight", values=name).to_numpy(dtype=float)
        for name in ("change", "low", "high", "loss")
    }
    # One very harmful cell would leave all others pale: the colour ends at the 90th percentile.
    limit = float(np.nanpercentile(np.abs(wide["change"]), 90)) or 1e-6
    ends = np.stack([wide["low"], wide["high"], wide["loss"]], axis=-1)
    cells = go.Heatmap(
        x=[f"{weight:g}" for weight in weights],
        y=[str(layer) for layer in layers],
        z=[finite(row) for row in wide["change"]],
        customdata=np.nan_to_num(ends).tolist(),
        zmin=-limit,
        zmax=limit,
        xgap=1,
        ygap=1,
        colorscale=list(look.theme.diverging),
        colorbar=colour_bar("change in loss (nats)", look.theme),
        hovertemplate=(
            "<b>layer %{y}, weight %{x}</b><br>change %{z:+.3~g} "
            "[%{customdata[0]:+.3~g}, %{customdata[1]:+.3~g}]"
            "<br>loss %{customdata[2]:.4~g}<extra></extra>"
        ),
    )
    return build(
        [cells],
        look,
        _words(sweep),
        height=max(340, 160 + 14 * len(layers)),
        xaxis={"title": {"text": "weight of the next token"}, "type": "category"},
        yaxis=named_layers(layers),
    )


def curves(
    sweep: InterpolationSweep,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change in loss against the weight, for layers spread over the depth, with intervals."""
    look = style(theme, width_mm, title)
    layers = sorted(int(layer) for layer in sweep.effects["layer"].unique())
    chosen = sorted({layers[int(i)] for i in np.linspace(0, len(layers) - 1, DRAWN).round()})
    traces: list[Any] = []
    for index, layer in enumerate(chosen):
        rows = rows_of(sweep.effects, layer=layer).sort_values(by=["weight"])
        traces += band(
            rows.assign(value=rows["change"]),
            "weight",
            f"layer {layer}",
            look.theme.lines[index % len(look.theme.lines)],
            hover=f"<b>layer {layer}, weight %{{x}}</b><br>%{{y:+.3~g}} "
            "[%{customdata[0]:+.3~g}, %{customdata[1]:+.3~g}]",
        )
    return build(
        traces,
        look,
        _words(sweep),
        height=400,
        xaxis={"title": {"text": "weight of the next token"}},
        yaxis=change_axis(look),
    )


def named_layers(layers: Sequence[int]) -> dict[str, Any]:
    """An axis of layers as names: those that were left out leave no gaps. Every n-th is named."""
    named = [str(layer) for layer in layers[:: max(1, len(layers) // 12)]]
    return {"title": {"text": "layer (resid_post)"}, "type": "category", "tickvals": named}


def change_axis(look: Look) -> dict[str, Any]:
    """An axis of changes in loss, with a line at none."""
    return {
        "title": {"text": "change in loss (nats a token)"},
        "zeroline": True,
        "zerolinecolor": look.theme.muted,
        "zerolinewidth": 1,
    }


def _words(sweep: InterpolationSweep) -> Words:
    row: Any = sweep.best
    where = f"layer {int(row['layer'])} at weight {row['weight']:g}"
    how = f"{row['change']:+.3g} nats (95% interval {row['low']:+.3g} to {row['high']:+.3g})"
    found = (
        f"Here the loss is lowest with {where}: {how} from {number(sweep.plain_loss)}."
        if row["change"] < 0
        else f"Here no layer and weight lowers the loss; the least harm is {where}: {how}."
    )
    return Words(
        title="Late layers that see the next token: change in loss",
        subtitle=(
            f"{model_name(sweep)}, {plural(sweep.documents['text'].nunique(), 'text')}, "
            "each layer alone"
        ),
        caption=(
            "Change in mean next-token loss when the residual after one layer, at every position but "
            "the newest, is blended with the token that came next. Below zero is a gain; the "
            "intervals are over texts."
        ),
        finding=found,
    )


VIEWS = {"heat": heat, "curves": curves}
