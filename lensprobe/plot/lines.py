"""Line figures of a massive-activation scan: signed values, and the kinds of token that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, layer_axis, log_axis, positive, rows_of
from .theme import Look, Words, build, number, style
from .wording import finding_name, model_name

if TYPE_CHECKING:
    from ..massive import MassiveScan

__all__ = ["empty", "kinds", "line", "site", "values"]

KIND_NAMES = {"first": "first token", "delimiter": "delimiters", "other": "other tokens"}


def values(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The signed value of each massive activation at every layer, with its spread over sequences."""
    look = style(theme, width_mm, title)
    traces: list[Any] = []
    frame = scan.trajectories
    pairs = list(dict.fromkeys(zip(frame["dim"], frame["position"], strict=True)))
    for index, (dim, position) in enumerate(pairs[:6]):
        rows = rows_of(frame, dim=dim, position=position)
        traces.append(_signed_line(rows, index, look))
    words = Words(
        title="The massive activations, with their signs",
        subtitle=f"{model_name(scan)}, mean ± standard deviation over sequences",
        caption=(
            "The signed value of each massive activation at its position, layer by layer. "
            "Bars are one standard deviation over sequences."
        ),
        finding=_values_sentence(frame, pairs),
    )
    layers = list(frame["layer"]) or list(scan.layers["layer"])
    axis = {"title": {"text": "value a (signed)"}, "tickformat": ",", "zeroline": True}
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(layers, site(scan)),
        yaxis={**axis, "zerolinecolor": look.theme.muted, "zerolinewidth": 1},
        annotations=[] if traces else [empty("no massive activation at position 0", look)],
        showlegend=True,
    )


def kinds(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How large a token's largest value is, by the kind of token: the first, a delimiter, any other."""
    look = style(theme, width_mm, title)
    frame, dashes = scan.kinds, ("solid", "dash", "dot")
    traces = []
    for index, kind in enumerate(k for k in KIND_NAMES if k in set(frame["kind"])):
        rows = rows_of(frame, kind=kind)
        name, colour = KIND_NAMES[kind], look.theme.lines[index]
        trace = line(rows["layer"], positive(rows["mean"]), name, colour, dashes[index])
        trace.customdata = np.stack([rows["value"], rows["count"]], axis=1).tolist()
        trace.hovertemplate = (
            f"<b>{name}</b>, layer %{{x}}<br>mean of each token's largest |a|: %{{y:,.3~s}}"
            "<br>largest of all: %{customdata[0]:,.3~s}<br>%{customdata[1]:,} tokens<extra></extra>"
        )
        traces.append(trace)
    words = Words(
        title="Which tokens carry the large values",
        subtitle=f"{model_name(scan)}, mean over tokens of one kind",
        caption=(
            "The largest magnitude in each token's residual, averaged over the tokens of one kind. "
            "A first token far above the others means that position, not content, makes it large."
        ),
        finding=_kinds_sentence(frame),
    )
    shown = [y for trace in traces for y in (trace.y or ())]
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(list(frame["layer"]), site(scan)),
        yaxis=log_axis(shown, "largest |a| of a token (log scale)"),
        showlegend=True,
    )


def site(scan: MassiveScan) -> str:
    """The site that an axis title names."""
    return str(scan.provenance.get("site", ""))


def line(
    layers: pd.Series, y: list[float | None], name: str, colour: str, dash: str = "solid"
) -> go.Scatter:
    """One line over layers."""
    return go.Scatter(
        x=[int(layer) for layer in layers],
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 5, "color": colour},
        hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>|a| = %{{y:,.4~r}}<extra></extra>",
    )


def _signed_line(rows: pd.DataFrame, index: int, look: Look) -> go.Scatter:
    name = finding_name(rows.iloc[0], markup=True)
    dash = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")[index % 6]
    trace = line(rows["layer"], finite(rows["value"]), name, look.theme.lines[index % 6], dash)
    spread = [s or 0.0 for s in finite(rows["std"])]
    trace.error_y = {"type": "data", "array": spread, "thickness": 1, "width": 2}
    trace.hovertemplate = (
        f"<b>{name}</b>, layer %{{x}}<br>a = %{{y:,.4~r}} ± %{{error_y.array:,.3~r}}<extra></extra>"
    )
    return trace


def _values_sentence(frame: pd.DataFrame, pairs: list[tuple[Any, Any]]) -> str:
    if not pairs:
        return "Here no activation at position 0 is massive, so there is nothing to draw."
    parts = []
    for dim, position in pairs[:3]:
        rows = rows_of(frame, dim=dim, position=position)
        peak = rows.iloc[int(np.abs(rows["value"].to_numpy()).argmax())]
        parts.append(
            f"dimension {dim} peaks at {number(peak['value'])} (layer {int(peak['layer'])})"
        )
    return f"Here {'; '.join(parts)}."


def _kinds_sentence(frame: pd.DataFrame) -> str:
    first, rest = rows_of(frame, kind="first"), rows_of(frame, kind="other")
    both = first.merge(rest, on="layer", suffixes=("", "_other"))
    both = both[(both["mean"] > 0) & (both["mean_other"] > 0)]
    if both.empty:
        return "Here there is only one kind of token to show."
    times = np.asarray(both["mean"] / both["mean_other"])
    row = both.iloc[int(times.argmax())]
    return (
        f"Here the first token's largest value is up to {number(times.max())} times that of "
        f"ordinary tokens (layer {int(row['layer'])}: {number(row['mean'])} against "
        f"{number(row['mean_other'])})."
    )


def empty(text: str, look: Look) -> dict[str, Any]:
    """A note in the middle of a figure that has nothing to draw."""
    centre = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    return {
        **centre,
        "text": text,
        "font": {"color": look.theme.muted, "size": look.theme.size + 1},
    }
