"""The figure of a steering widget: the next token with and without, and where the texts would part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import finite
from .facets import on
from .theme import Look, Words, build, number, style
from .tokens import label, token_axis, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..explore import Steered

__all__ = ["VIEWS", "steered"]

WRITTEN = 24
"""Tokens that have room for a label each; of more, some have one."""


def steered(
    found: Steered,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The likeliest next tokens with and without a vector, and KL along the plain completion."""
    look = style(theme, width_mm, title)
    facts = found.provenance
    words = Words(
        title=f"Steered at layer {facts['layer']}, scale {number(float(facts['scale']))}: "
        f"{facts['positions']}",
        subtitle=f"{model_name(found)}, after “{_start(str(facts['prompt']))}”",
        caption=(
            "Left: probability of the next token after the prompt, plain and steered. Right: KL of the "
            "steered distribution from the plain one for each token that the plain model writes."
        ),
        finding=_sentence(found),
    )
    words.extra["min_width"] = 620
    return build(
        [*_bars(found, look), _course(found, look)],
        look,
        words,
        height=400,
        showlegend=True,
        barmode="group",
        margin={"t": 76, "l": 64, "r": 24, "b": 100},
        **_axes(found),
    )


def _bars(found: Steered, look: Look) -> list[go.Bar]:
    frame = found.next.iloc[::-1]
    names = {
        "probability": ("steered", look.theme.lines[1]),
        "plain_probability": ("plain", look.theme.lines[0]),
    }
    bars = []
    for column, (name, colour) in names.items():
        bars.append(
            go.Bar(
                x=finite(frame[column]),
                y=list(range(len(frame))),
                orientation="h",
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=[label(str(token)) for token in frame["token"]],
                hovertemplate=f"<b>%{{customdata}}</b><br>{name} %{{x:.3~g}}<extra></extra>",
                legendrank=900 if name == "plain" else 1000,
            )
        )
    return bars


def _course(found: Steered, look: Look) -> go.Scatter:
    frame = found.tokens
    return go.Scatter(
        x=list(range(len(frame))),
        y=finite(frame["kl"]),
        mode="lines+markers",
        name="KL from plain",
        showlegend=False,
        line={"color": look.theme.lines[1], "width": 2},
        marker={"size": 6, "color": look.theme.lines[1]},
        customdata=[
            f"<b>{label(str(token))}</b>, position {place}"
            for token, place in zip(frame["token"], frame["position"], strict=True)
        ],
        hovertemplate="%{customdata}<br>%{y:.3~g} nats<extra></extra>",
        **on(1),
    )


def _axes(found: Steered) -> dict[str, Any]:
    tokens = [str(token) for token in found.next["token"]][::-1]
    written = [str(token) for token in found.tokens["token"]]
    along = token_axis(written)
    step = -(-len(written) // WRITTEN)
    return {
        "xaxis": {
            "title": {"text": "probability of the next token"},
            "domain": [0.0, 0.36],
            "anchor": "y",
            "rangemode": "tozero",
            "nticks": 5,
        },
        "yaxis": {
            **token_axis(tokens),
            "title": {"text": "next token"},
            "anchor": "x",
            "range": [-0.6, len(tokens) - 0.4],
        },
        "xaxis2": {
            "title": {"text": "what the plain model writes"},
            "domain": [0.48, 1.0],
            "anchor": "y2",
            "tickmode": "array",
            "tickvals": along["tickvals"][::step],
            "ticktext": along["ticktext"][::step],
            "tickangle": -60,
            "range": [-0.5, len(written) - 0.5],
        },
        "yaxis2": {
            "title": {"text": "KL from plain (nats)"},
            "anchor": "x2",
            "rangemode": "tozero",
        },
    }


def _start(prompt: str) -> str:
    shown = "".join(char if char == " " else visible(char) for char in prompt)
    return shown if len(shown) < 60 else "…" + shown[-57:]


def _sentence(found: Steered) -> str:
    after = found.next
    plain = after.loc[after["plain_probability"].idxmax()]
    mine = after.loc[after["probability"].idxmax()]
    top = found.tokens.loc[found.tokens["kl"].idxmax()]
    first = f"{visible(str(mine['token']))} ({number(float(mine['probability']))})"
    before = f"{visible(str(plain['token']))} ({number(float(plain['plain_probability']))})"
    if found.kl == 0:
        return f"Here nothing changes: the likeliest next token is {before}."
    return (
        f"Here the likeliest next token is {first}, without the vector {before}; the distributions "
        f"differ by {number(found.kl)} nats a token, most at {visible(str(top['token']))} "
        f"({number(float(top['kl']))})."
    )


VIEWS = {"steered": steered}
