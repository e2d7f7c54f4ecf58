"""The map of a patching experiment: layer × position, one panel a site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite
from .facets import facets, on
from .theme import Words, build, colour_bar, number, style
from .tokens import label, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import Patch

__all__ = ["VIEWS", "grid", "sink"]

NAMES = {
    "value": "massive value",
    "attention": "mean attention to key 0",
    "sink_rate": "sink rate of key 0",
}
SITES = {"resid_pre": "residual stream", "attn_out": "attention output", "mlp_out": "MLP output"}
LABELS = 24
"""Positions that are named on an axis."""


def grid(
    result: Patch,
    *,
    measure: str = "value",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change that a patch at each layer and position makes.

    Args:
        result: a patching experiment.
        measure: "value", "attention" or "sink_rate".
    """
    look = style(theme, width_mm, title)
    if measure not in NAMES:
        raise ArgumentError(f"measure={measure!r}: {', '.join(NAMES)}.")
    sites = [str(site) for site in result.provenance["sites"]]
    before = result.end("corrupt", measure)
    cells = [result.grid(measure, site) - before for site in sites]
    limit = max(float(np.nanmax(np.abs(one))) for one in cells) or 1.0
    layers = sorted(int(layer) for layer in result.effects["layer"].unique())
    places = list(range(len(result.corrupt_tokens)))
    traces: list[Any] = []
    names = [[label(str(token)) for token in result.corrupt_tokens] for _ in layers]
    for panel, one in enumerate(cells):
        traces.append(
            go.Heatmap(
                x=places,
                y=layers,
                z=[finite(row) for row in one],
                zmin=-limit,
                zmax=limit,
                colorscale=list(look.theme.diverging),
                colorbar=colour_bar("change", look.theme),
                showscale=panel == 0,
                text=names,
                hovertemplate="<b>layer %{y}, position %{x}</b> (%{text})<br>change %{z:+,.4~g}"
                "<extra></extra>",
                **on(panel),
            )
        )
    words = Words(
        title=f"What moves the {NAMES[measure]}",
        subtitle=f"{model_name(result)}, one activation of the clean run at a time",
        caption=(
            f"Change of the {NAMES[measure]} when the clean run's activation is put into the corrupt "
            f"run at one layer and position{_wide(result)}. The massive value is read at position "
            f"{result.provenance['position']} after layer {result.provenance['sink_layer']}."
        ),
        finding=_finding(result, measure),
    )
    step = max(1, -(-len(places) // (LABELS // len(sites))))
    shown = places[::step]
    xaxis = {
        "title": {"text": "patched position"},
        "tickvals": shown,
        "ticktext": [f"{label(str(result.corrupt_tokens[i]), 8)} {i}" for i in shown],
        "tickangle": -60,
        "showgrid": False,
    }
    yaxis = {"title": {"text": "patched layer"}, "showgrid": False, "tickformat": "d"}
    height = max(360, 200 + 14 * len(layers))
    layout = facets([SITES[site] for site in sites], look, xaxis, yaxis)
    return build(traces, look, words, height=height, **layout)


def sink(
    result: Patch,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The same map for the attention to key 0."""
    return grid(result, measure="attention", theme=theme, width_mm=width_mm, title=title)


def _wide(result: Patch) -> str:
    words = ""
    if int(result.provenance["n"]) > 1:
        words += f" and the {int(result.provenance['n']) - 1} after it"
    if result.provenance["at"] is not None:
        words += f", taken from position {result.provenance['at']}"
    return words


def _finding(result: Patch, measure: str) -> str:
    frame = result.effects.loc[result.effects["measure"] == measure]
    change = frame["change"].to_numpy(float)
    if not np.abs(change).max():
        return "Here no patch changes anything."
    top = frame.iloc[int(np.abs(change).argmax())]
    ends = [number(result.end(side, measure)) for side in ("corrupt", "clean")]
    return (
        f"Here it is {ends[0]} in the corrupt run and {ends[1]} in the clean one; the strongest patch "
        f"is the {SITES[str(top['site'])]} of layer {int(top['layer'])} at position "
        f"{int(top['position'])} ({visible(str(top['token']))}), which takes it to "
        f"{number(float(top['value']))}."
    )


VIEWS = {"grid": grid, "sink": sink}
