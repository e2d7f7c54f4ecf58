"""Figures of additions that stay against additions that are taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .steering_parts import band, chosen_text, side_by_side, texts_of, token_grid
from .theme import Words, build, number, style
from .tokens import visible
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import PersistenceComparison

__all__ = ["VIEWS", "completions", "control", "divergence", "parting"]

LINES = (
    ("kept", "plain", "kept, from plain"),
    ("moving", "plain", "moving, from plain"),
    ("moving", "kept", "moving, from kept"),
)
SYMBOLS = ("circle", "diamond")
FLOOR = 1e-9
"""Divergences at or below this are drawn here: equal up to rounding."""


def divergence(
    found: PersistenceComparison,
    *,
    whose: str = "kept",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How far the distributions are apart at each generated token, on the same tokens.

    Args:
        found: a persistence comparison.
        whose: which condition's completion is read: "kept", "moving" or "plain".

    Raises:
        ArgumentError: another condition.
    """
    look = style(theme, width_mm, title)
    known = list(dict.fromkeys(found.divergence["condition"]))
    if whose not in known:
        raise ArgumentError(f"whose={whose!r}: the completions are {', '.join(known)}.")
    frame = rows_of(found.divergence, condition=whose)
    traces = []
    means = {}
    for index, (steered, reference, name) in enumerate(LINES):
        rows = rows_of(frame, steered=steered, reference=reference).sort_values("step")
        means[name] = float(np.average(rows["value"], weights=rows["count"]))
        hover = (
            f"<b>{name}</b>, generated token %{{x}}<br>%{{y:.3~g}} nats "
            "[%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]"
        )
        dash = ("solid", "dash", "dot")[index]
        traces += band(rows, "step", name, look.theme.lines[index], hover=hover, dash=dash)
    words = Words(
        title="Does it stay?",
        subtitle=f"{_subtitle(found)}, read on the {whose} completions",
        caption=(
            "Kept: every newest token is edited and stays edited, as a cache does by itself. Moving: "
            "only the newest token is edited, and it is plain again when the next one comes. Mean KL "
            "of the next-token distributions at each generated token, all read on the same tokens; "
            "bands are 95% bootstrap intervals over prompts."
        ),
        finding=(
            f"Here kept is {number(means[LINES[0][2]])} nats a token from the plain model, moving "
            f"{number(means[LINES[1][2]])}, and the two are {number(means[LINES[2][2]])} apart."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        xaxis={"title": {"text": "generated token"}},
        yaxis={"title": {"text": "KL (nats)"}, "rangemode": "tozero"},
    )


def parting(
    found: PersistenceComparison,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What is written after one prompt, token by token, with the place where the two part.

    Args:
        found: a persistence comparison.
        text: which prompt.

    Raises:
        ArgumentError: the comparison has no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = rows_of(chosen_text(found.tokens, text), steered="moving", reference="kept")
    rows = []
    for name in dict.fromkeys(frame["condition"]):
        mine = rows_of(frame, condition=name).sort_values("step")
        rows.append((str(name), list(mine["token"]), list(mine["kl"])))
    all_steps = rows_of(found.parting, steered="moving", reference="kept")
    step = float(rows_of(all_steps, text=text)["step"].iloc[0])
    marks = [] if np.isnan(step) else [(step, "kept and moving part")]
    parted = all_steps["step"].dropna().to_numpy(dtype=float)
    middle = float(np.median(parted)) if len(parted) else np.nan
    words = Words(
        title="Where the completions part",
        subtitle=f"{_subtitle(found)}, prompt {text}",
        caption=(
            "The three completions of one prompt. Colour is the KL of moving from kept in the "
            "distribution that chose each token; the line is where those two first write different "
            "tokens."
        ),
        finding=(
            f"Here kept and moving part in {len(parted)} of {len(all_steps)} prompts"
            + (f", in the median at generated token {number(middle)}." if len(parted) else ".")
        ),
    )
    return token_grid(rows, look, words, bar="KL (nats)", axis="generated token", marks=marks)


def completions(
    found: PersistenceComparison,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The three completions of one prompt as texts, with their perplexities under the plain model.

    Args:
        found: a persistence comparison.
        text: which prompt.

    Raises:
        ArgumentError: the comparison has no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    prompt = visible(str(frame["prompt"].iloc[0])).replace("·", " ")
    middle = {
        str(name): float(np.median(rows["perplexity"].to_numpy(dtype=float)))
        for name, rows in found.texts.groupby("condition")
    }
    words = Words(
        title="What is written",
        subtitle=f"{_subtitle(found)}, after “{prompt if len(prompt) < 60 else prompt[:57] + '…'}”",
        caption="The three completions of one prompt, with their perplexity under the plain model.",
        finding=(
            f"Here the median perplexity over prompts is {number(middle['kept'])} kept, "
            f"{number(middle['moving'])} moving and {number(middle['plain'])} plain."
        ),
    )
    columns = {
        "condition": "condition",
        "completion": "completion",
        "perplexity": "perplexity",
        "repetition": "repetition",
    }
    return side_by_side(frame, look, words, columns)


def control(
    found: PersistenceComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Keeping against recomputing: nothing to choose at the front, something at the newest token."""
    look = style(theme, width_mm, title)
    traces = []
    names = {"newest": "at the newest token", "front": "at the front"}
    for index, (kind, name) in enumerate(names.items()):
        rows = rows_of(found.control, kind=kind).sort_values(["text", "step"])
        traces.append(
            go.Scatter(
                x=finite(rows["step"]),
                y=[max(float(v), FLOOR) for v in rows["kl"]],
                mode="markers",
                name=name,
                marker={
                    "size": 8,
                    "color": look.theme.lines[index],
                    "symbol": ["circle", "diamond"][index],
                },
                customdata=finite(rows["kl"]),
                hovertemplate=(
                    f"<b>{name}</b>, generated token %{{x}}<br>%{{customdata:.2~g}} nats"
                    "<extra></extra>"
                ),
            )
        )
    largest = {kind: float(rows_of(found.control, kind=kind)["kl"].max()) for kind in names}
    words = Words(
        title="Keeping against recomputing",
        subtitle=f"{_subtitle(found)}, first tokens of the shortest prompts",
        caption=(
            "KL between a run that keeps what its cache holds and one that reads everything anew at "
            "each step, editing as it goes. With fixed front positions the two are equal up to "
            "rounding: there is nothing to choose. With the newest position they are not, since "
            "older tokens are edited in one and plain in the other."
        ),
        finding=(
            f"Here the largest KL is {number(largest['front'])} nats at the front and "
            f"{number(largest['newest'])} at the newest token."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        showlegend=True,
        xaxis={"title": {"text": "generated token"}},
        yaxis={"title": {"text": "KL (nats, log scale)"}, "type": "log", "exponentformat": "power"},
    )


def _subtitle(found: PersistenceComparison) -> str:
    scale = number(float(found.provenance["scale"]))
    return (
        f"{model_name(found)}, {texts_of(found)}, layer {found.provenance['layer']}, scale {scale}"
    )


VIEWS = {
    "divergence": divergence,
    "parting": parting,
    "completions": completions,
    "control": control,
}
