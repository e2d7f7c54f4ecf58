"""Figures of learned interpolation weights: by layer, on their way, and the loss meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import finite
from .interpolation_sweep import named_layers
from .theme import Words, build, colour_bar, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..interpolation import LearnedWeights

__all__ = ["VIEWS", "path", "steps", "weights"]


def weights(
    learned: LearnedWeights,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The learned weight of each layer, beside the one it started from."""
    look = style(theme, width_mm, title)
    frame = learned.weights
    layers = [int(layer) for layer in frame["layer"]]
    names = [str(layer) for layer in layers]
    traces: list[Any] = [
        go.Bar(
            x=names,
            y=finite(frame["weight"]),
            name="learned",
            marker={"color": look.theme.lines[0]},
            hovertemplate="<b>layer %{x}</b><br>weight %{y:.3~g}<extra></extra>",
        ),
        go.Scatter(
            x=names,
            y=finite(frame["first"]),
            name="at the start",
            mode="lines",
            line={"color": look.theme.muted, "dash": "dash", "width": 1.5},
            hovertemplate="at the start %{y:.3~g}<extra></extra>",
        ),
    ]
    return build(
        traces,
        look,
        _words(learned),
        height=380,
        xaxis=named_layers(layers),
        yaxis={"title": {"text": "weight of the next token"}, "zeroline": True},
    )


def path(
    learned: LearnedWeights,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How the weights came there: layers by steps."""
    look = style(theme, width_mm, title)
    wide = learned.path.pivot(index="layer", columns="step", values="weight")
    layers = [int(layer) for layer in wide.index]
    values = wide.to_numpy(dtype=float)
    cells = go.Heatmap(
        x=[int(step) for step in wide.columns],
        y=[str(layer) for layer in layers],
        z=[finite(row) for row in values],
        zmin=min(0.0, float(values.min())),
        colorscale=list(look.theme.sequential),
        colorbar=colour_bar("weight", look.theme),
        hovertemplate="<b>layer %{y}, step %{x}</b><br>weight %{z:.3~g}<extra></extra>",
    )
    return build(
        [cells],
        look,
        _words(learned),
        height=max(340, 160 + 14 * len(layers)),
        xaxis={"title": {"text": "step"}},
        yaxis=named_layers(layers),
    )


def steps(
    learned: LearnedWeights,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The change in loss of each step's batch from the plain model."""
    look = style(theme, width_mm, title)
    frame = learned.steps
    line = go.Scatter(
        x=[int(step) for step in frame["step"]],
        y=finite(frame["loss"] - frame["plain_loss"]),
        mode="lines+markers",
        line={"color": look.theme.lines[0], "width": 2},
        marker={"size": 5},
        showlegend=False,
        hovertemplate="<b>step %{x}</b><br>%{y:+.3~g} nats<extra></extra>",
    )
    return build(
        [line],
        look,
        _words(learned),
        height=360,
        xaxis={"title": {"text": "step"}},
        yaxis={
            "title": {"text": "change in loss of the batch (nats a token)"},
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
    )


def _words(learned: LearnedWeights) -> Words:
    frame = learned.weights
    top = frame.iloc[int(frame["weight"].abs().to_numpy().argmax())]
    zero = int((frame["weight"] <= 0).sum())
    found = (
        f"Here {zero} of {len(frame)} layers end without any; the largest weight is "
        f"{top['weight']:.2g}, at layer {int(top['layer'])}."
    )
    if len(learned.held_out):
        row = learned.held_out.iloc[0]
        found += (
            f" On held-out texts the loss changes by {row['change']:+.3g} nats "
            f"({row['low']:+.3g} to {row['high']:+.3g})."
        )
    return Words(
        title="How much of the next token each layer is better off seeing",
        subtitle=f"{model_name(learned)}, {plural(len(learned.steps), 'gradient step')}",
        caption=(
            "The weight with which the residual after each layer is blended with the actual next "
            "token, learned by gradient descent on the next-token loss with the model itself fixed."
        ),
        finding=found,
    )


VIEWS = {"weights": weights, "path": path, "steps": steps}
