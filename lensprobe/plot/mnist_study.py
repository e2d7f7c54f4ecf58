"""Figures of a study of additions in a network for digits: pairs, layers, coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .mnist_pictures import distributions, pictures
from .mnist_square import NAMES, SHARES, scale_name, square
from .steering_parts import band
from .theme import Look, Words, build, number, style
from .wording import capital, model_name

if TYPE_CHECKING:
    from ..mnist import Study

__all__ = [
    "VIEWS",
    "curves",
    "distance",
    "distributions",
    "layers",
    "pictures",
    "square",
]


def layers(
    study: Study,
    *,
    measure: str = "loss",
    scale: float = 1.0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The measure layer by layer: the median pair with the middle half of pairs, and 3 − 1.

    Args:
        study: a study of a network for digits.
        measure: as in `square`.
        scale: the coefficient.
    """
    look = style(theme, width_mm, title)
    rows = _rows(study, measure)
    rows = rows_of(rows, scale=study.nearest_scale(scale))
    traces: list[Any] = band(
        _middle(rows, "layer"),
        "layer",
        "all pairs, median and middle half",
        look.theme.lines[0],
        hover="layer %{x}<br>%{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]",
    )
    one = rows_of(rows, positive=3, negative=1)
    if len(one) and len(study.pairs) > 1:
        traces.append(_line(one, "3 − 1", look.theme.lines[1], "dash"))
    known = _published(study, measure)
    if known is not None:
        traces.append(_line(known, "3 − 1, published", look.theme.lines[2], "dot", "diamond-open"))
    traces.append(_level(study.layers, float(rows["plain"].median()), look))
    words = Words(
        title=f"{capital(NAMES[measure])}, layer by layer",
        subtitle=f"{model_name(study)}, coefficient {number(study.nearest_scale(scale))}",
        caption=(
            f"{capital(NAMES[measure])} when a − b is added behind one layer. By linearity an "
            "addition before a linear layer equals one behind it. The band is the middle half of "
            "the pairs."
        ),
        finding=_layers_sentence(rows),
    )
    yaxis = {"title": {"text": scale_name(measure)}}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis=_layer_axis(study),
        yaxis=yaxis | ({} if measure in SHARES else {"type": "log", "dtick": 1}),
    )


def curves(
    study: Study,
    *,
    measure: str = "loss",
    layers: int | Sequence[int] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The measure against the coefficient: the median pair of each layer, with the middle half.

    Args:
        study: a study of a network for digits.
        measure: as in `square`.
        layers: which layers; None is those that linearity does not make equal to the one before.

    Raises:
        ArgumentError: a layer that was not run, or a study of one coefficient.
    """
    look = style(theme, width_mm, title)
    if len(study.scales) < 2:
        raise ArgumentError(f"scales: this study has {study.scales} alone; a curve needs more.")
    drawn = _different(study) if layers is None else [layers] if isinstance(layers, int) else layers
    rows = _rows(study, measure)
    traces: list[Any] = []
    for index, layer in enumerate(drawn):
        own = rows_of(rows, layer=layer)
        if own.empty:
            raise ArgumentError(f"layers={layers!r}: this study has {study.layers}.")
        traces += band(
            _middle(own, "scale"),
            "scale",
            f"layer {layer} ({study.kinds[layer]})",
            look.theme.lines[index % len(look.theme.lines)],
            hover=f"layer {layer}, coefficient %{{x}}<br>%{{y:.3g}} "
            "[%{customdata[0]:.3g}, %{customdata[1]:.3g}]",
        )
    traces.append(_level(study.scales, float(rows["plain"].median()), look))
    words = Words(
        title=f"{capital(NAMES[measure])} against the coefficient",
        subtitle=f"{model_name(study)}, median and middle half of {len(study.pairs)} pairs",
        caption=(
            f"{capital(NAMES[measure])} when a − b times a coefficient is added behind one layer. "
            "Layers that linearity makes equal are drawn once."
        ),
        finding=_layers_sentence(rows_of(rows, scale=study.scales[-1])),
    )
    logarithmic = {} if measure in SHARES else {"type": "log", "dtick": 1}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis={"title": {"text": "coefficient"}},
        yaxis={"title": {"text": scale_name(measure)}, **logarithmic},
    )


def distance(
    study: Study,
    *,
    scale: float = 1.0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each pair's log loss against how far its edited activations are from the training data.

    Args:
        study: a study with distances (`n` above 0).
        scale: the coefficient.

    Raises:
        ArgumentError: distances were not measured.
    """
    look = style(theme, width_mm, title)
    if study.distances.empty:
        raise ArgumentError("n=0: this study has no distances.")
    chosen = study.nearest_scale(scale)
    apart = rows_of(study.distances, measure="distance", scale=chosen)
    loss = rows_of(study.effects, measure="loss", group="others", scale=chosen)
    both = loss.merge(apart, on=["positive", "negative", "layer"], suffixes=("", "_apart"))
    traces = []
    for index, layer in enumerate(_different(study)):
        rows = rows_of(both, layer=layer)
        traces.append(
            go.Scatter(
                x=finite(rows["value_apart"]),
                y=finite(rows["value"]),
                mode="markers",
                name=f"layer {layer} ({study.kinds[layer]})",
                marker={"size": 7, "color": look.theme.lines[index % 6], "symbol": index},
                customdata=rows[["positive", "negative"]].to_numpy().tolist(),
                hovertemplate=(
                    "<b>%{customdata[0]} − %{customdata[1]}</b><br>distance %{x:.2f} class spreads"
                    "<br>log loss %{y:.2f}<extra></extra>"
                ),
            )
        )
    plain = float(apart["plain"].median())
    words = Words(
        title="Damage, and distance from the data",
        subtitle=f"{model_name(study)}, coefficient {number(chosen)}, one point a pair",
        caption=(
            "Log loss of the images that are not of b against the mean distance of their edited "
            "activations from the nearest training activation, in class spreads (root mean square "
            "distance of training activations from their class's mean)."
        ),
        finding=(
            f"Here unedited activations are {number(plain)} class spreads from the nearest training "
            f"activation; edited ones are {number(float(apart['value'].median()))} in the median cell."
        ),
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


def _rows(study: Study, measure: str) -> pd.DataFrame:
    if measure not in NAMES:
        raise ArgumentError(f"measure={measure!r}: one of {', '.join(NAMES)}.")
    group = "negative" if measure.startswith("probability") else "others"
    return rows_of(study.effects, measure=measure, group=group)


def _middle(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Median and quartiles over pairs."""
    found = []
    for place in sorted(rows[by].unique()):
        values = rows.loc[rows[by] == place, "value"].to_numpy(dtype=float)
        found.append((place, *np.nanquantile(values, [0.25, 0.5, 0.75])))
    return pd.DataFrame(found, columns=[by, "low", "value", "high"])


def _line(
    rows: pd.DataFrame, name: str, colour: str, dash: str, symbol: str = "circle"
) -> go.Scatter:
    return go.Scatter(
        x=[int(layer) for layer in rows["layer"]],
        y=finite(rows["value"]),
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 8, "color": colour, "symbol": symbol},
        hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>%{{y:.3g}}<extra></extra>",
    )


def _level(ends: Sequence[float], value: float, look: Look) -> go.Scatter:
    return go.Scatter(
        x=[min(ends), max(ends)],
        y=[value, value],
        name="unedited",
        mode="lines",
        line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
        hovertemplate=f"unedited {number(value)}<extra></extra>",
    )


def _published(study: Study, measure: str) -> pd.DataFrame | None:
    """The note's curve, where this study is of the same question and the same network."""
    if measure != "loss" or study.provenance.get("widths") != [784, 512, 512, 10]:
        return None
    try:
        return study.against_published().assign(value=lambda frame: frame["published"])
    except ArgumentError:
        return None


def _different(study: Study) -> list[int]:
    """Layers, but for linear ones behind a layer that was run too: those give the same."""
    return [
        layer
        for layer in study.layers
        if study.kinds[layer] != "linear" or layer - 1 not in study.layers
    ]


def _layer_axis(study: Study) -> dict[str, Any]:
    names = [f"{layer}<br>{study.kinds[layer]}" for layer in study.layers]
    return {
        "title": {"text": "layer behind which a − b is added"},
        "tickmode": "array",
        "tickvals": study.layers,
        "ticktext": names,
        "range": [min(study.layers) - 0.3, max(study.layers) + 0.3],
    }


def _layers_sentence(rows: pd.DataFrame) -> str:
    middle = _middle(rows, "layer").to_dict("records")
    plain = float(rows["plain"].median())
    parts = [f"{number(row['value'])} at layer {row['layer']:.0f}" for row in middle]
    return f"Here the median pair has {', '.join(parts)}; unedited it is {number(plain)}."


VIEWS = {
    "square": square,
    "layers": layers,
    "curves": curves,
    "distributions": distributions,
    "pictures": pictures,
    "distance": distance,
}
