"""The figure of an interpolation widget: every written token's log-probability, with and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .axes import finite, rows_of
from .explore_steering import WRITTEN
from .interpolation_parts import CONDITIONS, blend_of
from .theme import Words, build, number, style
from .tokens import label, token_axis
from .wording import model_name

if TYPE_CHECKING:
    from ..interpolation import Interpolation

__all__ = ["written"]

NAMES = {"logprob": "with the interpolation", "plain_logprob": "plain, the same tokens"}


def written(
    found: Interpolation,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Log-probability of each token written under the interpolation, by both models.

    Raises:
        KeyError: nothing was measured; generate with `logprobs=True`.
    """
    look = style(theme, width_mm, title)
    own = rows_of(found.tokens, condition=CONDITIONS[0])
    tokens = [str(token) for token in own["token"]]
    places = [
        f"<b>{label(token)}</b>, position {place}"
        for token, place in zip(tokens, own["position"], strict=True)
    ]
    traces = [
        go.Scatter(
            x=list(range(len(own))),
            y=finite(own[column]),
            name=name,
            mode="lines+markers",
            line={"color": look.theme.lines[index], "width": 2, "dash": ("solid", "dash")[index]},
            marker={"size": 6, "color": look.theme.lines[index]},
            cliponaxis=False,
            customdata=places,
            hovertemplate=f"%{{customdata}}<br>{name} %{{y:.3~f}} nats<extra></extra>",
        )
        for index, (column, name) in enumerate(NAMES.items())
    ]
    means = {column: float(own[column].mean()) for column in NAMES}
    words = Words(
        title=blend_of(found).capitalize(),
        subtitle=f"{model_name(found)}, what is written with the interpolation",
        caption=(
            "Log-probability of each token that was written while late layers saw the next token, by "
            "the model that wrote it and by the plain model reading the same tokens."
        ),
        finding=(
            f"Here a written token has {number(means['logprob'])} nats on average, and "
            f"{number(means['plain_logprob'])} under the plain model."
        ),
    )
    axis, step = token_axis(tokens), -(-len(tokens) // (2 * WRITTEN))
    return build(
        traces,
        look,
        words,
        height=400,
        showlegend=True,
        margin={"t": 76, "l": 64, "r": 24, "b": 110},
        xaxis={
            "title": {"text": "written token"},
            "tickmode": "array",
            "tickvals": axis["tickvals"][::step],
            "ticktext": axis["ticktext"][::step],
            "tickangle": -60,
            "range": [-0.5, len(tokens) - 0.5],
        },
        yaxis={"title": {"text": "log-probability (nats)"}, "rangemode": "tozero"},
    )
