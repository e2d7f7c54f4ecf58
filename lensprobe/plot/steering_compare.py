"""Figures of comparisons by place: where a vector is added, and what the tokens make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

from .axes import rows_of
from .steering_parts import (
    chosen_text,
    effect_panels,
    side_by_side,
    steered_rows,
    texts_of,
    token_grid,
)
from .theme import Words, number, style
from .tokens import visible
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import DepthComparison, PositionsComparison

__all__ = ["VIEWS", "completions", "effect", "tokens"]


def effect(
    found: PositionsComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Divergence, change in loss and fluency of every place, with intervals over prompts."""
    look = style(theme, width_mm, title)
    frame = found.conditions
    target = found.provenance.get("target")
    how = (
        f"the same vector at scale {number(float(found.provenance['scale']))}"
        if target is None
        else f"each at the scale where its 95th percentile of token KL is {number(float(target))} nats"
    )
    words = Words(
        title="The same vector at different tokens",
        subtitle=f"{model_name(found)}, {texts_of(found)}, {how}",
        caption=(
            "Mean KL from the plain model and change in loss, both read on the plain model's "
            "completion, and the plain model's perplexity of each place's own completion. Bars are "
            "95% bootstrap intervals over prompts; the dashed line is the unsteered model."
        ),
        finding=extremes(frame),
    )
    return effect_panels(frame, look, words)


def tokens(
    found: PositionsComparison | DepthComparison,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Where on the plain model's completion each condition differs from it, token by token.

    Args:
        found: a comparison.
        text: which prompt.

    Raises:
        ArgumentError: the comparison has no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.tokens, text)
    rows = []
    for name in dict.fromkeys(frame["condition"]):
        if name != "plain":
            mine = rows_of(frame, condition=name).sort_values("position")
            rows.append((str(name), list(mine["token"]), list(mine["kl"])))
    steered = steered_rows(frame)
    top = steered.loc[steered["kl"].idxmax()]
    words = Words(
        title="Where the distributions differ",
        subtitle=f"{model_name(found)}, prompt {text}, the plain model's completion",
        caption=(
            "KL from the plain model of the distribution that chose each token, on the plain model's "
            "own completion: the same tokens in every row."
        ),
        finding=(
            f"Here the largest divergence is {number(top['kl'])} nats, for "
            f"{visible(str(top['condition']))} at {visible(str(top['token']))}."
        ),
    )
    return token_grid(rows, look, words, bar="KL (nats)", axis="token of the completion")


def completions(
    found: PositionsComparison | DepthComparison,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What each condition writes after one prompt, side by side.

    Args:
        found: a comparison.
        text: which prompt.

    Raises:
        ArgumentError: the comparison has no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    prompt = visible(str(frame["prompt"].iloc[0])).replace("·", " ")
    plain = rows_of(frame, condition="plain")["completion"].iloc[0]
    steered = steered_rows(frame)
    same = int((steered["completion"] == plain).sum())
    words = Words(
        title="What is written",
        subtitle=f"{model_name(found)}, after “{prompt if len(prompt) < 70 else prompt[:67] + '…'}”",
        caption="Each condition's completion of one prompt, with its perplexity under the plain model.",
        finding=f"Here {same} of {len(steered)} conditions write what the plain model writes.",
    )
    columns = {
        "condition": "condition",
        "scale": "scale",
        "completion": "completion",
        "perplexity": "perplexity",
        "kl": "KL (nats)",
    }
    return side_by_side(frame, look, words, columns)


def extremes(frame: pd.DataFrame) -> str:
    """Which condition moves the distributions most and which least, in one sentence."""
    rows = rows_of(steered_rows(frame), measure="kl")
    most, least = rows.loc[rows["value"].idxmax()], rows.loc[rows["value"].idxmin()]
    return (
        f"Here {visible(str(most['condition'])).replace('·', ' ')} moves the distributions most "
        f"({number(most['value'])} nats a token) and "
        f"{visible(str(least['condition'])).replace('·', ' ')} least ({number(least['value'])})."
    )


VIEWS = {"effect": effect, "tokens": tokens, "completions": completions}
