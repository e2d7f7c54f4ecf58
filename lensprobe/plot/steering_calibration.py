"""Figures of a calibration: divergence against scale, and over tokens at the scale that was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .axes import finite, log_axis, positive
from .steering_parts import texts_of
from .theme import Look, Words, build, number, style
from .tokens import label
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import Calibration

__all__ = ["VIEWS", "curve", "tokens"]

DASHES = ("solid", "dash", "dot")


def curve(
    found: Calibration,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Token KL against the scale, both on log axes, with the target and the scale that reaches it."""
    look = style(theme, width_mm, title)
    rows = found.curve[found.curve["scale"] > 0]
    name = f"{found.percentile:g}th percentile"
    traces = []
    for index, (column, text) in enumerate(
        (("value", name), ("mean", "mean"), ("median", "median"))
    ):
        traces.append(
            go.Scatter(
                x=finite(rows["scale"]),
                y=positive(rows[column]),
                mode="lines+markers",
                name=text,
                line={"color": look.theme.lines[index], "width": 2, "dash": DASHES[index]},
                marker={"size": 5},
                hovertemplate=f"<b>{text}</b>, scale %{{x:.4~g}}<br>%{{y:.3~g}} nats<extra></extra>",
            )
        )
    ends = [float(rows["scale"].min()), float(rows["scale"].max())]
    traces += _marks(found, ends, look)
    shown = [y for trace in traces for y in trace.y]
    words = Words(
        title="How strong it must be",
        subtitle=f"{model_name(found)}, layer {found.place['layer']}, {texts_of(found)}",
        caption=(
            "KL(steered ‖ plain) of the next-token distribution over the tokens of the steered "
            "model's greedy continuations, at each scale that was tried. The ring is the smallest "
            f"scale found whose {name} reaches the target; the cross is the same scale with the "
            "other sign."
        ),
        finding=(
            f"Here the {name} of token KL, in nats, reaches {number(found.reached)} at scale "
            f"{number(found.scale)} (target {number(found.target)}); at minus that scale it is "
            f"{number(found.opposite)}."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=430,
        showlegend=True,
        xaxis=log_axis(ends, "scale (log scale)"),
        yaxis=log_axis(shown, "token KL (nats, log scale)"),
    )


def _marks(found: Calibration, ends: list[float], look: Look) -> list[go.Scatter]:
    """The target, the scale that reaches it, and the same scale with the other sign."""
    return [
        go.Scatter(
            x=ends,
            y=[found.target] * 2,
            mode="lines",
            name="target",
            line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
            hovertemplate=f"target {number(found.target)} nats<extra></extra>",
        ),
        go.Scatter(
            x=[found.scale],
            y=positive([found.reached]),
            mode="markers",
            name="calibrated",
            marker={"size": 14, "symbol": "circle-open", "color": look.theme.lines[0]}
            | {"line": {"width": 2.5}},
            hovertemplate="scale %{x:.4~g}<br>%{y:.3~g} nats<extra></extra>",
        ),
        go.Scatter(
            x=[found.scale],
            y=positive([found.opposite]),
            mode="markers",
            name="the other way",
            marker={"size": 10, "symbol": "x", "color": look.theme.lines[3]},
            hovertemplate="scale −%{x:.4~g}<br>%{y:.3~g} nats<extra></extra>",
        ),
    ]


def tokens(
    found: Calibration,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How token KL is spread at the calibrated scale: each token's, in order of size."""
    look = style(theme, width_mm, title)
    rows = found.tokens.sort_values(by=["kl"])
    count = len(rows)
    share = (np.arange(count) + 1) / max(1, count)
    names = [label(str(token)) for token in rows["token"]]
    traces = [
        go.Scatter(
            x=finite(rows["kl"]),
            y=share.tolist(),
            mode="lines+markers",
            name="tokens",
            line={"color": look.theme.lines[0], "width": 1.5, "shape": "hv"},
            marker={"size": 5},
            # Tokens travel as data: inside a template one such as "%{x}" would be filled in.
            text=names,
            hovertemplate="%{text}<br>%{x:.3~g} nats<extra></extra>",
        ),
        go.Scatter(
            x=[found.target] * 2,
            y=[0, 1],
            mode="lines",
            name="target",
            line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
            hovertemplate=f"target {number(found.target)} nats<extra></extra>",
        ),
    ]
    top = rows.iloc[-1]
    words = Words(
        title="Divergence token by token",
        subtitle=f"{model_name(found)}, {count} tokens at scale {number(found.scale)}",
        caption=(
            "The share of generated tokens whose KL from the plain model is at most x. Most tokens "
            "are decided by what was written before and hardly move; a few carry the change."
        ),
        finding=(
            f"Here the median token moves by {number(float(np.median(rows['kl'].to_numpy())))} nats "
            f"and the most moved by {number(float(top['kl']))}."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        showlegend=True,
        xaxis={"title": {"text": "token KL (nats)"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "share of tokens"}, "tickformat": ".0%", "range": [0, 1.03]},
    )


VIEWS = {"curve": curve, "tokens": tokens}
