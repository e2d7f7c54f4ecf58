"""Figures of an interpolation score: the change in loss by text, and token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite
from .interpolation_parts import blend_of
from .interpolation_sweep import change_axis
from .theme import Words, build, number, style
from .tokens import label
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..interpolation import InterpolatedScore

__all__ = ["VIEWS", "texts", "tokens"]

POINTS = 4000
"""Tokens that the scatter shows; more are thinned, which its caption says."""


def tokens(
    score: InterpolatedScore,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each token's change in loss against its plain loss."""
    look = style(theme, width_mm, title)
    known = score.tokens[np.isfinite(score.tokens["plain_loss"])]
    step = max(1, -(-len(known) // POINTS))
    frame = known.iloc[::step]
    names = [
        f"{label(str(token))} (text {text}, position {position})"
        for token, text, position in zip(
            frame["token"], frame["text"], frame["position"], strict=True
        )
    ]
    dots = go.Scattergl(
        x=finite(frame["plain_loss"]),
        y=finite(frame["loss"] - frame["plain_loss"]),
        mode="markers",
        marker={"color": look.theme.lines[0], "size": 5, "opacity": 0.5},
        customdata=names,
        showlegend=False,
        hovertemplate="<b>%{customdata}</b><br>plain %{x:.3~g}<br>change %{y:+.3~g}<extra></extra>",
    )
    thinned = f" Every {step}th token is shown." if step > 1 else ""
    return build(
        [dots],
        look,
        _words(score, f" One point a token.{thinned}"),
        height=420,
        xaxis={"title": {"text": "loss under the plain model (nats)"}},
        yaxis=change_axis(look),
    )


def texts(
    score: InterpolatedScore,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each text's change in mean loss, in order of size."""
    look = style(theme, width_mm, title)
    frame = score.texts.sort_values(by=["change"]).reset_index(drop=True)
    dots: Any = go.Scatter(
        x=list(range(1, len(frame) + 1)),
        y=finite(frame["change"]),
        mode="markers",
        marker={"color": look.theme.lines[0], "size": 7},
        customdata=[[int(text), int(count)] for text, count in frame[["text", "count"]].to_numpy()],
        showlegend=False,
        hovertemplate=(
            "<b>text %{customdata[0]}</b>, %{customdata[1]} tokens<br>"
            "%{y:+.3~g} nats<extra></extra>"
        ),
    )
    return build(
        [dots],
        look,
        _words(score, " One point a text, in order of the change."),
        height=380,
        xaxis={"title": {"text": "text, in order of the change"}, "rangemode": "tozero"},
        yaxis={**change_axis(look), "rangemode": "tozero"},
    )


def _words(score: InterpolatedScore, more: str) -> Words:
    value, low, high = score.change()
    found = "Here the plain model was not scored beside it."
    if np.isfinite(value):
        ends = f" (95% interval {low:+.3g} to {high:+.3g})" if np.isfinite(low) else ""
        found = (
            f"Here the mean loss goes from {number(score.plain_loss)} to {number(score.loss)} nats, "
            f"{value:+.3g}{ends}."
        )
    return Words(
        title="Change in loss when late layers see the next token",
        subtitle=f"{model_name(score)}, {blend_of(score)}, {plural(len(score.texts), 'text')}",
        caption=(
            "Next-token loss when residuals at every position but the newest are blended with the "
            f"token that came next, less the plain model's. Below zero is a gain.{more}"
        ),
        finding=found,
    )


VIEWS = {"tokens": tokens, "texts": texts}
