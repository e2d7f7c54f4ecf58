"""Figures of the test whether additions do damage because they leave the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .facets import facets, on
from .theme import Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..mnist import Leaving

__all__ = ["VIEWS", "conditions", "pairs"]

NAMES = {
    "pair": "a − b",
    "class means": "difference of class means",
    "shuffled": "a − b, shuffled",
    "random": "random direction",
}
PANELS = {
    "loss": "log loss (nats an image)",
    "distance": "distance (spreads)",
    "nearest_loss": "log loss, put back (nats)",
}


def conditions(
    leaving: Leaving,
    *,
    scale: float | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layer by layer, for vectors of one length: damage, distance, and damage after being put back.

    Args:
        leaving: from `lp.mnist.out_of_data`.
        scale: the coefficient; None is the largest.
    """
    look = style(theme, width_mm, title)
    chosen = _scale(leaving, scale)
    rows = rows_of(leaving.layers, scale=chosen)
    traces: list[Any] = []
    for panel, measure in enumerate(PANELS):
        for index, (condition, name) in enumerate(NAMES.items()):
            own = rows_of(rows, condition=condition)
            traces.append(
                go.Scatter(
                    x=[int(layer) for layer in own["layer"]],
                    y=finite(own[measure]),
                    name=name,
                    legendgroup=condition,
                    showlegend=panel == 0,
                    mode="lines+markers",
                    line={
                        "color": look.theme.lines[index],
                        "width": 2,
                        "dash": ("solid", "dash", "dot", "dashdot")[index],
                    },
                    marker={"size": 6},
                    hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>%{{y:.3g}}<extra></extra>",
                    **on(panel),
                )
            )
    words = Words(
        title="Is it leaving the data that does the damage?",
        subtitle=f"{model_name(leaving)}, medians over pairs, all vectors as long as a − b",
        caption=(
            "Vectors of one length: log loss on the images that are not of b, how far the edited "
            "activations are from the nearest training activation (class spreads), and the log loss "
            "after putting them back to that activation. If leaving the data did the damage, whatever "
            "leads as far away would do as much, and putting back would repair it."
        ),
        finding=_verdict(leaving, chosen),
        extra={"min_width": 620},
    )
    layers = sorted({int(layer) for layer in rows["layer"]})
    layout = facets(
        list(PANELS.values()),
        look,
        {"title": {"text": "layer"}, "tickvals": layers},
        {"title": {"text": "median over pairs"}, "rangemode": "tozero"},
    )
    # Distances are no losses: the middle panel has a scale of its own.
    layout["yaxis2"] = {**layout["yaxis2"], "matches": None, "showticklabels": True}
    layout["yaxis2"]["rangemode"] = "tozero"
    return build(traces, look, words, height=400, showlegend=True, **layout)


def pairs(
    leaving: Leaving,
    *,
    layer: int | None = None,
    scale: float | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """One point a pair and condition: the log loss against the distance from the data.

    Args:
        leaving: from `lp.mnist.out_of_data`.
        layer: None is the first one.
        scale: the coefficient; None is the largest.

    Raises:
        ArgumentError: a layer that was not run.
    """
    look = style(theme, width_mm, title)
    known = sorted({int(at) for at in leaving.effects["layer"]})
    at, chosen = known[0] if layer is None else layer, _scale(leaving, scale)
    if at not in known:
        raise ArgumentError(f"layer={layer}: this result has {known}.")
    rows = rows_of(leaving.effects, layer=at, scale=chosen)
    traces = []
    for index, (condition, name) in enumerate(NAMES.items()):
        own = rows_of(rows, condition=condition)
        traces.append(
            go.Scatter(
                x=finite(own["distance"]),
                y=finite(own["loss"]),
                mode="markers",
                name=name,
                marker={"size": 7, "color": look.theme.lines[index], "symbol": index},
                customdata=own[["positive", "negative"]].to_numpy().tolist(),
                hovertemplate=(
                    f"<b>{name}</b>, %{{customdata[0]}} − %{{customdata[1]}}<br>distance %{{x:.2f}}"
                    "<br>log loss %{y:.2f}<extra></extra>"
                ),
            )
        )
    words = Words(
        title=f"Distance from the data and damage, layer {at}",
        subtitle=f"{model_name(leaving)}, coefficient {number(chosen)}, one point a pair",
        caption=(
            "Log loss against the distance of the edited activations from the nearest training "
            "activation, for vectors of the same length."
        ),
        finding=_verdict(leaving, chosen),
    )
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis={"title": {"text": "distance to the nearest training activation (class spreads)"}},
        yaxis={"title": {"text": "log loss (nats an image, log scale)"}, "type": "log", "dtick": 1},
    )


def _scale(leaving: Leaving, scale: float | None) -> float:
    known = sorted({float(one) for one in leaving.effects["scale"]})
    if scale is not None and scale not in known:
        raise ArgumentError(f"scale={scale}: this result has {known}.")
    return known[-1] if scale is None else scale


def _verdict(leaving: Leaving, scale: float) -> str:
    first = rows_of(leaving.verdicts, scale=scale).to_dict("records")[0]
    rows = rows_of(leaving.layers, scale=scale, layer=first["layer"])
    found = {row["condition"]: row for row in rows.to_dict("records")}
    own, random = found["pair"], found["random"]
    return (
        f"Here, at layer {first['layer']}, a − b raises the loss by {number(own['change'])}, a random "
        f"direction of the same length by {number(random['change'])}, though the random one leads "
        f"further away in {first['share']:.0%} of the pairs ({number(random['distance'])} against "
        f"{number(own['distance'])} class spreads). Put back to the nearest training activation, the "
        f"loss under a − b is {number(own['nearest_loss'])}."
    )


VIEWS = {"conditions": conditions, "pairs": pairs}
