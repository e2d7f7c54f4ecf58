"""Figures of an attention-sink scan: which heads look at the first tokens, and what they read there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import attention_grid, finite, grid, layer_axis
from .sinks_compared import conditions, mass, rates, secondary
from .theme import Look, Words, build, colour_bar, style
from .tokens import escape
from .wording import (
    by_key,
    entropy_sentence,
    key_name,
    key_sentence,
    model_name,
    rate_sentence,
    sink_sentence,
    value_sentence,
)

if TYPE_CHECKING:
    from ..sinks import SinkScan

__all__ = ["VIEWS", "entropy", "heads", "keys", "values"]

DASHES = ("solid", "dash", "dot", "dashdot")


def heads(
    scan: SinkScan,
    *,
    key: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The map of heads: mean attention from later queries to one of the first key positions.

    Args:
        scan: an attention-sink scan.
        key: which key position, from 0 on.
        theme: "light", "dark" or "paper".
        width_mm: fixed width; None follows the page.
        title: replaces the title; "" leaves it out.
    """
    look = style(theme, width_mm, title)
    known = sorted(int(k) for k in scan.heads["key"].unique())
    if key not in known:
        raise ArgumentError(f"key={key!r}: this scan has the keys {', '.join(map(str, known))}.")
    frame = by_key(scan.heads, key)
    cells = attention_grid(grid(frame, "value"))
    extra = _hover(frame.merge(scan.profile, on=["layer", "head"], how="left", suffixes=("", "_p")))
    words = Words(
        title=f"Attention to {key_name(scan, key)}, head by head",
        subtitle=f"{model_name(scan)}, mean over queries and sequences",
        caption=(
            f"Mean attention from later queries to {key_name(scan, key)} for every head. A filled "
            "column is a layer whose heads rest on that token; the faint cells are heads that "
            "read elsewhere."
        ),
        finding=sink_sentence(scan) if key == 0 else key_sentence(frame, key),
    )
    trace = _map(frame, cells["z"], 0, cells["zmax"], look.theme.sequential)
    trace.customdata = extra
    trace.colorbar = colour_bar(
        "mean attention", look.theme, tickvals=cells["tickvals"], ticktext=cells["ticktext"]
    )
    # The key's token travels as data: inside the template a token such as "%{x}" would be filled in.
    trace.meta = [escape(key_name(scan, key))]
    trace.hovertemplate = (
        "<b>layer %{x}, head %{y}</b><br>attention to %{meta[0]}: "
        f"<b>{cells['cell']}</b><br>a sink in %{{customdata[0]:.0%}} of sequences"
        "<br>entropy %{customdata[1]:.2f} nats<extra></extra>"
    )
    return _head_figure([trace], frame, look, words)


def keys(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The sink rate of every layer, one line for each of the first key positions."""
    look = style(theme, width_mm, title)
    frame = scan.layers
    epsilon = float(scan.provenance.get("epsilon", 0.3))
    traces = []
    for index, key in enumerate(sorted(int(k) for k in frame["key"].unique())):
        rows = by_key(frame, key)
        name = escape(key_name(scan, key))
        colour = look.theme.lines[index % len(look.theme.lines)]
        traces.append(
            go.Scatter(
                x=[int(layer) for layer in rows["layer"]],
                y=finite(rows["sink_rate"]),
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": DASHES[index % 4]},
                marker={"size": 5},
                customdata=finite(rows["value"]),
                text=[name] * len(rows),
                hovertemplate=(
                    "<b>%{text}</b>, layer %{x}<br>sink rate %{y:.0%}"
                    "<br>mean attention %{customdata:.3f}<extra></extra>"
                ),
            )
        )
    words = Words(
        title="Sink rate by layer",
        subtitle=f"{model_name(scan)}, attention above ε = {epsilon:g}",
        caption=(
            "The sink rate of a layer: the share of its heads and sequences in which a key "
            f"position gets more than ε = {epsilon:g} of the attention on average, for each of "
            "the first key positions."
        ),
        finding=rate_sentence(frame),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(list(frame["layer"]), "attn.pattern"),
        yaxis={
            "title": {"text": "sink rate (share of heads)"},
            "range": [-0.03, 1.03],
            "tickformat": ".0%",
        },
        showlegend=True,
    )


def entropy(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The map of heads by the entropy of their attention, in nats: low is focused, high is spread."""
    look = style(theme, width_mm, title)
    frame = scan.profile.sort_values(["layer", "head"])
    cells = grid(frame, "entropy")
    top = float(np.nanmax(cells)) if np.isfinite(cells).any() else 1.0
    words = Words(
        title="Attention entropy, head by head",
        subtitle=f"{model_name(scan)}, mean over queries and sequences, in nats",
        caption=(
            "How spread out each head's attention is: 0 nats means one key gets everything, "
            "larger means more keys share it. A head that rests on a sink has a low entropy too."
        ),
        finding=entropy_sentence(frame),
    )
    trace = _map(frame, [finite(row) for row in cells], 0, top or 1.0, look.theme.sequential)
    trace.colorbar = colour_bar("entropy (nats)", look.theme)
    trace.hovertemplate = "<b>layer %{x}, head %{y}</b><br>entropy %{z:.2f} nats<extra></extra>"
    return _head_figure([trace], frame, look, words)


def values(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The map of heads by how large the value vector of the first token is, against the others.

    The colour is log2 of the ratio of norms, so zero means equal and -1 means half.
    """
    look = style(theme, width_mm, title)
    frame = scan.profile.sort_values(["layer", "head"])
    ratio = grid(frame, "ratio")
    with np.errstate(divide="ignore", invalid="ignore"):
        cells = np.where(ratio > 0, np.log2(ratio), np.nan)
    limit = min(5.0, max(1.0, float(np.nanmax(np.abs(cells))) if np.isfinite(cells).any() else 1.0))
    words = Words(
        title="What a sink hands on: value norms",
        subtitle=f"{model_name(scan)}, first token against the others",
        caption=(
            "The norm of the value vector at the first token over the mean norm elsewhere, for "
            "every head. Below 1 the first token hands on little, so attention that rests there "
            "does almost nothing."
        ),
        finding=value_sentence(scan),
    )
    trace = _map(frame, [finite(row) for row in cells], -limit, limit, look.theme.diverging)
    trace.zmid = 0
    ticks = [t for t in range(-5, 6) if abs(t) <= limit]
    trace.colorbar = colour_bar(
        "norm ratio", look.theme, tickvals=ticks, ticktext=[f"×{2.0**t:.3g}" for t in ticks]
    )
    trace.customdata = _stack(frame, ("ratio", "value_norm", "other_norm"))
    trace.hovertemplate = (
        "<b>layer %{x}, head %{y}</b><br>norm ratio %{customdata[0]:.3f}"
        "<br>first token %{customdata[1]:.3f}, others %{customdata[2]:.3f}<extra></extra>"
    )
    return _head_figure([trace], frame, look, words)


def _map(
    frame: pd.DataFrame, z: Any, low: float, high: float, colours: tuple[str, ...]
) -> go.Heatmap:
    return go.Heatmap(
        x=[int(v) for v in sorted(frame["layer"].unique())],
        y=[int(v) for v in sorted(frame["head"].unique())],
        z=z,
        zmin=low,
        zmax=high,
        colorscale=list(colours),
        xgap=1,
        ygap=1,
    )


def _stack(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[list[list[float | None]]]:
    cells = np.stack([grid(frame, column) for column in columns], axis=-1)
    return [[finite(cell) for cell in row] for row in cells]


def _hover(frame: pd.DataFrame) -> list[list[list[float | None]]]:
    return _stack(frame, ("sink_rate", "entropy"))


def _head_figure(traces: list[Any], frame: pd.DataFrame, look: Look, words: Words) -> go.Figure:
    count = frame["head"].nunique()
    words.extra["min_width"] = 130 + 9 * frame["layer"].nunique()
    return build(
        traces,
        look,
        words,
        height=150 + int(np.clip(20 * count, 140, 560)),
        xaxis={
            **layer_axis(list(frame["layer"]), "attn.pattern", half=True),
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "head"},
            "tickmode": "linear",
            "tick0": 0,
            "range": [-0.5, count - 0.5],
            "dtick": 1 if count <= 20 else 4 if count <= 64 else 16,
            "showgrid": False,
        },
    )


VIEWS = {
    "heads": heads,
    "keys": keys,
    "entropy": entropy,
    "values": values,
    "rates": rates,
    "conditions": conditions,
    "mass": mass,
    "secondary": secondary,
}
