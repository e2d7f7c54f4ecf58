"""Further figures of a sink scan: conditions side by side, thresholds, spread sinks, later sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, grid, layer_axis
from .facets import facets, on
from .lines import empty
from .theme import Words, build, colour_bar, style
from .tokens import escape, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import SinkScan

__all__ = ["conditions", "mass", "rates", "secondary"]

DASHES = ("solid", "dash", "dot", "dashdot")
MOST = 4
"""Panels side by side at most."""


def _asked(known: bool, what: str) -> None:
    """Pages pass over a view of something that the scan was not asked to measure.

    Raises:
        ArgumentError: it was not.
    """
    if not known:
        raise ArgumentError(f"this scan has no {what}.")


def _named(frame: Any, column: str) -> list[str]:
    return [] if frame.empty else [str(name) for name in frame[column].unique()]


def conditions(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each head's mean attention to the first token, one map for each corpus or condition."""
    look = style(theme, width_mm, title)
    frame: Any = scan.conditions
    names = _named(frame, "condition")
    _asked(len(names) > 1, "second corpus or condition to compare; name several, or conditions=")
    shown = names[:MOST]
    traces: list[Any] = []
    for panel, name in enumerate(shown):
        rows = frame[frame["condition"] == name]
        traces.append(
            go.Heatmap(
                x=sorted(int(v) for v in rows["layer"].unique()),
                y=sorted(int(v) for v in rows["head"].unique()),
                z=[finite(row) for row in grid(rows, "value")],
                zmin=0,
                zmax=1,
                xgap=1,
                ygap=1,
                colorscale=list(look.theme.sequential),
                showscale=panel == len(shown) - 1,
                colorbar=colour_bar("mean attention", look.theme),
                hovertemplate=(
                    f"<b>{escape(name)}</b>, layer %{{x}}, head %{{y}}"
                    "<br>attention to the first token %{z:.3f}<extra></extra>"
                ),
                **on(panel),
            )
        )
    more = f" Drawn are {MOST} of {len(names)}." if len(names) > MOST else ""
    words = Words(
        title="Attention to the first token, condition by condition",
        subtitle=f"{model_name(scan)}, mean over queries and sequences",
        caption=(
            "The same map of heads for each corpus. A head that rests on the first token in one and "
            "reads elsewhere in another is dormant in the first and works in the second." + more
        ),
        finding=_switching_sentence(scan, names),
    )
    heads = frame["head"].nunique()
    layout = facets(
        shown,
        look,
        {
            **layer_axis(list(frame["layer"]), "", half=True),
            "showgrid": False,
            # Narrow panels have room for few labels.
            **({"dtick": 10} if len(shown) > 2 else {}),
        },
        {
            "title": {"text": "head"},
            "range": [-0.5, heads - 0.5],
            "dtick": 1 if heads <= 20 else 4,
            "showgrid": False,
        },
    )
    return build(traces, look, words, height=220 + int(np.clip(18 * heads, 120, 480)), **layout)


def _switching_sentence(scan: SinkScan, names: list[str]) -> str:
    found = scan.switching()
    means: Any = scan.conditions.groupby("condition", sort=False)["sink_rate"].mean()
    rates = ", ".join(f"{visible(name)} {means[name]:.0%}" for name in names)
    if found.empty:
        return f"Here the sink rates are {rates}; no head changes between dormant and active."
    top = found.iloc[0]
    low, high = min(names, key=lambda n: top[n]), max(names, key=lambda n: top[n])
    return (
        f"Here the sink rates are {rates}; {len(found):,} heads are dormant in one and active in "
        f"another, most of all layer {int(top['layer'])}, head {int(top['head'])}: {top[high]:.2f} "
        f"({visible(high)}) against {top[low]:.2f} ({visible(low)})."
    )


def rates(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The first token's sink rate layer by layer, at each threshold and in each condition."""
    look = style(theme, width_mm, title)
    frame: Any = scan.rates
    _asked("epsilon" in frame, "sink rates at several thresholds")
    frame = frame[frame["key"] == 0] if len(frame) else frame
    names = _named(frame, "condition")
    traces: list[Any] = []
    for colour, name in enumerate(names):
        for dash, epsilon in enumerate(sorted(frame["epsilon"].unique())):
            part = frame[(frame["condition"] == name) & (frame["epsilon"] == epsilon)]
            line = part.groupby("layer")["sink_rate"].mean()
            label = f"{escape(name)}, ε = {epsilon:g}" if len(names) > 1 else f"ε = {epsilon:g}"
            traces.append(
                go.Scatter(
                    x=[int(layer) for layer in line.index],
                    y=finite(line),
                    name=label,
                    mode="lines+markers",
                    line={
                        "color": look.theme.lines[colour % len(look.theme.lines)],
                        "dash": DASHES[dash % len(DASHES)],
                        "width": 2,
                    },
                    marker={"size": 5},
                    hovertemplate=f"<b>{label}</b>, layer %{{x}}<br>%{{y:.0%}}<extra></extra>",
                )
            )
    words = Words(
        title="Sink rate by threshold",
        subtitle=f"{model_name(scan)}, first token, windows of {scan.provenance['length']} tokens",
        caption=(
            "The share of a layer's heads and sequences that give the first token more than ε of "
            "their attention. Lines far apart mean heads that rest on it in part; published rates "
            "use 0.3 or 0.8 and cannot be compared across."
        ),
        finding=_rates_sentence(frame, names),
    )
    axis = {"title": {"text": "sink rate (share of heads)"}, "range": [-0.03, 1.03]}
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(list(frame["layer"]) if len(frame) else [0], "attn.pattern"),
        yaxis={**axis, "tickformat": ".0%"},
        annotations=[] if traces else [empty("no rates were read", look)],
        showlegend=True,
    )


def _rates_sentence(frame: Any, names: list[str]) -> str:
    if not names:
        return "Here nothing was read."
    parts = []
    for name in names:
        means = frame[frame["condition"] == name].groupby("epsilon")["sink_rate"].mean()
        each = ", ".join(f"{rate:.0%} at {epsilon:g}" for epsilon, rate in means.items())
        parts.append(
            f"{visible(name)} text: {each}" if name == "natural" else f"{visible(name)}: {each}"
        )
    return f"Here over all layers, {'; '.join(parts)}."


def mass(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Attention to all massive positions against attention to the first token, layer by layer."""
    look = style(theme, width_mm, title)
    frame: Any = scan.profile
    _asked("mass" in frame, "attention to massive positions")
    known = frame["mass"].notna().any()
    heads: Any = scan.heads
    first = heads[heads["key"] == 0].groupby("layer")["value"].mean()
    lines = [("first token", first)]
    if known:
        lines.append(("all massive positions", frame.groupby("layer")["mass"].mean()))
    if "remainder" in frame and frame["remainder"].notna().any():
        lines.append(("learned sink", frame.groupby("layer")["remainder"].mean()))
    traces = [
        go.Scatter(
            x=[int(layer) for layer in line.index],
            y=finite(line),
            name=name,
            mode="lines+markers",
            line={"color": look.theme.lines[index], "dash": DASHES[index], "width": 2},
            marker={"size": 5},
            hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>%{{y:.3f}}<extra></extra>",
        )
        for index, (name, line) in enumerate(lines)
    ]
    words = Words(
        title="Where the sink's attention is",
        subtitle=f"{model_name(scan)}, mean over heads, queries and sequences",
        caption=(
            "Attention to the first token, and to all positions that have a massive activation after "
            "some layer. Where the second line is far above the first the sink is spread, not lost."
        ),
        finding=_mass_sentence(scan, first) if known else "Here no position is massive.",
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis([int(layer) for layer in first.index], "attn.pattern"),
        yaxis={"title": {"text": "mean attention"}, "range": [-0.03, 1.03]},
        showlegend=True,
    )


def _mass_sentence(scan: SinkScan, first: Any) -> str:
    total = float(scan.profile["mass"].mean())
    places = scan.massive["position"].nunique() if len(scan.massive) else 0
    are = "position is" if places == 1 else "positions are"
    return (
        f"Here {places:,} {are} massive in some sequence; heads give them {total:.2f} of their "
        f"attention in the mean, and the first token {float(first.mean()):.2f}."
    )


def secondary(
    scan: SinkScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Sinks on later positions: which share of heads and sequences has one there, layer by layer."""
    look = style(theme, width_mm, title)
    frame: Any = scan.secondary
    _asked("position" in frame, "sinks on later positions")
    traces: list[Any] = []
    if len(frame):
        by_place = frame.groupby(["layer", "position"])["share"].sum().unstack(fill_value=0.0)
        columns = range(1, int(by_place.columns.max()) + 1)
        wide = by_place.reindex(
            columns=columns, index=sorted(scan.provenance["layers"]), fill_value=0.0
        )
        traces.append(
            go.Heatmap(
                x=list(wide.index),
                y=list(columns),
                z=[finite(row) for row in wide.T.to_numpy()],
                zmin=0,
                zmax=max(0.05, float(wide.to_numpy().max())),
                colorscale=list(look.theme.sequential),
                colorbar=colour_bar("share of heads", look.theme, tickformat=".1%"),
                hovertemplate="layer %{x}, position %{y}<br>%{z:.2%} of heads<extra></extra>",
            )
        )
    epsilon = float(scan.provenance.get("epsilon", 0.3))
    words = Words(
        title="Sinks on later positions",
        subtitle=f"{model_name(scan)}, attention above ε = {epsilon:g}",
        caption=(
            "The share of heads and sequences that rest on a position after the first: mean attention "
            f"above ε = {epsilon:g} over at least 16 queries. A dark row is a token that many heads "
            "share as a second sink."
        ),
        finding=_secondary_sentence(frame),
    )
    return build(
        traces,
        look,
        words,
        height=440,
        xaxis={
            **layer_axis(list(scan.layers["layer"]), "attn.pattern", half=True),
            "showgrid": False,
        },
        yaxis={"title": {"text": "position"}, "showgrid": False},
        annotations=[] if traces else [empty("no sink but on the first token", look)],
    )


def _secondary_sentence(frame: Any) -> str:
    if frame.empty:
        return "Here no head rests on a position after the first."
    by_token = frame.groupby("token")["count"].sum().sort_values(ascending=False)
    token = str(by_token.index[0])
    top = frame.loc[frame["share"].idxmax()]
    return (
        f"Here layer {int(top['layer'])} has most of them at position {int(top['position'])} "
        f"({visible(str(top['token']))}), in {top['share']:.1%} of heads and sequences; the token most "
        f"often rested on is {visible(token)}."
    )
