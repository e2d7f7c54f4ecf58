"""The figure of the test by surprise: change in loss by the surprisal of earlier tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .interpolation_parts import blend_of
from .interpolation_sweep import change_axis
from .steering_parts import band
from .theme import Words, build, style
from .wording import model_name

if TYPE_CHECKING:
    from ..interpolation import Surprise

__all__ = ["VIEWS", "deciles"]

NAMES = {1: "the token before", 2: "two before", 3: "three before", 4: "four before"}


def deciles(
    surprise: Surprise,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Change in loss by decile of an earlier token's surprisal, a line a lag, with intervals."""
    look = style(theme, width_mm, title)
    traces: list[Any] = []
    lags = sorted(int(lag) for lag in surprise.deciles["lag"].unique())
    for index, lag in enumerate(lags):
        rows = surprise.deciles.query("lag == @lag")
        name = NAMES.get(lag, f"{lag} before")
        traces += band(
            rows.assign(value=rows["change"]),
            "decile",
            name,
            look.theme.lines[index % len(look.theme.lines)],
            hover=f"<b>{name}, decile %{{x}}</b><br>%{{y:+.3~g}} nats "
            "[%{customdata[0]:+.3~g}, %{customdata[1]:+.3~g}]",
            dash="solid" if index == 0 else "dot",
        )
        if index:
            # The first lag is the question; the bands of the others would hide it.
            del traces[-3:-1]
    return build(
        traces,
        look,
        _words(surprise),
        height=420,
        xaxis={
            "title": {"text": "surprisal of the earlier token (decile, 10 is most surprising)"},
            "dtick": 1,
        },
        yaxis=change_axis(look),
    )


def _words(surprise: Surprise) -> Words:
    near = surprise.deciles.query("lag == 1").sort_values(by=["decile"])
    low, top = near.iloc[0], near.iloc[-1]
    gap = surprise.contrasts.query("lag == 1").iloc[0]
    verdict = (
        "the gain sits after surprising tokens, as the hypothesis says"
        if surprise.supported
        else "the hypothesis, a gain after surprising tokens, is not borne out here"
    )
    return Words(
        title="Does seeing what really came help after surprising tokens?",
        subtitle=f"{model_name(surprise)}, {blend_of(surprise)}, {int(near['count'].sum()):,} tokens",
        caption=(
            "Change in a token's loss when late layers see the actual next token, by how surprising "
            "an earlier token was to the plain model. Below zero is a gain. The band is the 95% "
            "interval over texts for the token right before."
        ),
        finding=(
            f"Here the change is {top['change']:+.3g} nats after the most surprising tokens and "
            f"{low['change']:+.3g} after the least (difference {gap['change']:+.3g}, "
            f"{gap['low']:+.3g} to {gap['high']:+.3g}): {verdict}."
        ),
    )


VIEWS = {"deciles": deciles}
