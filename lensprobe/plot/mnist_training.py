"""The curve of a network that learns digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import positive
from .theme import Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..mnist import Training

__all__ = ["VIEWS", "curve"]


def curve(
    training: Training,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Training and test log loss against the step, and the target."""
    look = style(theme, width_mm, title)
    frame, steps = training.curve, [int(step) for step in training.curve["step"]]
    traces: list[Any] = []
    for index, (column, name) in enumerate((("loss", "test"), ("training_loss", "training"))):
        traces.append(
            go.Scatter(
                x=steps,
                y=positive(frame[column]),
                name=name,
                mode="lines+markers",
                line={"color": look.theme.lines[index], "dash": ("solid", "dot")[index]},
                marker={"size": 4},
                hovertemplate=f"<b>{name}</b>, step %{{x}}<br>%{{y:.4f}}<extra></extra>",
            )
        )
    target = training.provenance.get("target")
    if target is not None and steps:
        traces.append(
            go.Scatter(
                x=[steps[0], steps[-1]],
                y=[target, target],
                name="target",
                mode="lines",
                line={"color": look.theme.muted, "dash": "dash", "width": 1.5},
            )
        )
    last = frame.iloc[-1]
    words = Words(
        title="How the network learned",
        subtitle=f"{model_name(training)}, {training.provenance.get('data', 'digits')}",
        caption=(
            "Log loss (nats an image) on the test images, and on the training images since the "
            "evaluation before."
        ),
        finding=(
            f"Here the test log loss is {number(float(last['loss']))} after {int(last['step']):,} "
            f"steps, with {float(last['accuracy']):.1%} of the test images right."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=380,
        showlegend=True,
        xaxis={"title": {"text": "step"}},
        yaxis={"title": {"text": "log loss (nats an image, log scale)"}, "type": "log"},
    )


VIEWS = {"curve": curve}
