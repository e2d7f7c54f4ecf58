"""Figures of a steering sweep: the map of layers and scales, dose-response, and the side effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .facets import facets, on
from .steering_cost import tokens, tradeoff
from .steering_parts import band
from .steering_wording import (
    NAMES,
    chosen_layers,
    documents,
    measured,
    scale_text,
    strongest,
    with_ends,
)
from .theme import Look, Words, build, colour_bar, number, style
from .wording import capital, model_name

if TYPE_CHECKING:
    from ..steering import Sweep

__all__ = ["VIEWS", "curves", "heat", "tokens", "tradeoff"]


def heat(
    sweep: Sweep,
    *,
    measure: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change from the unsteered model at every layer and scale, one panel a group of texts.

    Args:
        sweep: a steering sweep.
        measure: which one; None is the first that the sweep has.
    """
    look = style(theme, width_mm, title)
    chosen, groups = measured(sweep, measure)
    frame = rows_of(sweep.effects, measure=chosen)
    signed = chosen != "kl"
    limit = float(np.nanmax(np.abs(frame["change"]))) or 1.0
    scales = sorted(frame["scale"].unique())
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    traces = []
    for panel, group in enumerate(groups):
        rows = rows_of(frame, group=group)
        wide = rows.pivot(index="layer", columns="scale", values="change").to_numpy()
        ends = [
            rows.pivot(index="layer", columns="scale", values=name).to_numpy()
            for name in ("value", "change_low", "change_high")
        ]
        traces.append(
            go.Heatmap(
                x=[scale_text(s) for s in scales],
                y=[str(layer) for layer in layers],
                z=[finite(row) for row in wide],
                customdata=np.nan_to_num(np.stack(ends, axis=-1)).tolist(),
                zmin=-limit if signed else 0.0,
                zmax=limit,
                colorscale=list(look.theme.diverging if signed else look.theme.sequential),
                colorbar=colour_bar("change from plain", look.theme),
                showscale=panel == 0,
                hovertemplate=(
                    "<b>layer %{y}, scale %{x}</b><br>change %{z:+.3~g} "
                    "[%{customdata[1]:+.3~g}, %{customdata[2]:+.3~g}]"
                    "<br>value %{customdata[0]:.4~g}<extra></extra>"
                ),
                **on(panel),
            )
        )
    words = Words(
        title=f"Change in {NAMES[chosen]}",
        subtitle=f"{model_name(sweep)}, {documents(sweep)}, each layer steered alone",
        caption=(
            f"How {NAMES[chosen]} changes from the unsteered model when the vector is added at one "
            "layer, times a scale. Hover for the 95% interval over documents."
        ),
        finding=strongest(sweep, chosen, groups),
    )
    xaxis = {"title": {"text": "scale"}, "type": "category"}
    # Categories: layers that were left out leave no gaps. Every n-th is named.
    named = [str(layer) for layer in layers[:: max(1, len(layers) // 12)]]
    yaxis = {"title": {"text": _layer_title(sweep)}, "type": "category", "tickvals": named}
    return build(
        traces,
        look,
        words,
        height=max(340, 150 + 12 * len(layers)),
        **facets(groups, look, xaxis, yaxis),
    )


def curves(
    sweep: Sweep,
    *,
    measure: str | None = None,
    layers: int | Sequence[int] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Dose and response: the measure against the scale, with intervals and the unsteered line.

    Args:
        sweep: a steering sweep.
        measure: which one; None is the first that the sweep has.
        layers: whose curves; None is the layer that changes most and some spread over the depth.
    """
    look = style(theme, width_mm, title)
    chosen, groups = measured(sweep, measure)
    frame = rows_of(sweep.effects, measure=chosen)
    drawn = chosen_layers(frame, layers)
    traces: list[Any] = []
    for panel, group in enumerate(groups):
        plain = rows_of(sweep.plain, group=group, measure=chosen).iloc[0]
        scales = [float(s) for s in sorted(frame["scale"].unique())]
        for index, layer in enumerate(drawn):
            rows = rows_of(frame, group=group, layer=layer).sort_values(by=["scale"])
            colour = look.theme.lines[index % len(look.theme.lines)]
            traces += band(
                with_ends(rows),
                "scale",
                f"layer {layer}",
                colour,
                hover=f"<b>layer {layer}, scale %{{x}}</b><br>%{{y:.4~g}} "
                "[%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]",
                panel=panel,
                legend=panel == 0,
            )
        traces.append(_unsteered(scales, float(plain["value"]), look, panel))
    words = Words(
        title=f"Dose and response: {NAMES[chosen]}",
        subtitle=f"{model_name(sweep)}, {documents(sweep)}, 95% intervals of the change",
        caption=(
            f"{capital(NAMES[chosen])} against the scale of the added vector, one line a layer, "
            "each steered alone. Bands are 95% bootstrap intervals of the change from the unsteered "
            "model (dashed), paired by document."
        ),
        finding=strongest(sweep, chosen, groups),
    )
    xaxis = {"title": {"text": "scale"}, "zeroline": True, "zerolinecolor": look.theme.grid}
    yaxis: dict[str, Any] = {"title": {"text": NAMES[chosen]}, "rangemode": "normal"}
    if chosen in ("perplexity", "ratio"):
        yaxis |= {"type": "log"}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        **facets(groups, look, xaxis, yaxis),
    )


def _unsteered(scales: list[float], value: float, look: Look, panel: int) -> go.Scatter:
    return go.Scatter(
        x=[scales[0], scales[-1]],
        y=[value, value],
        mode="lines",
        name="unsteered",
        legendgroup="unsteered",
        showlegend=panel == 0,
        line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
        hovertemplate=f"unsteered {number(value)}<extra></extra>",
        **on(panel),
    )


def _layer_title(sweep: Sweep) -> str:
    site = str(sweep.provenance.get("site", ""))
    return f"layer ({site})" if site else "layer"


VIEWS = {"heat": heat, "curves": curves, "tradeoff": tradeoff, "tokens": tokens}
