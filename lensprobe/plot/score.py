"""The figure of a score: a text whose tokens are coloured by what each of them cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from .axes import rows_of
from .steering_parts import chosen_text
from .theme import Words, build, number, style
from .token_lines import BARE, token_lines
from .tokens import label, visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..running import Score

__all__ = ["DEEP", "VIEWS", "score_sentence", "token_facts", "tokens"]

LINE = 16
DEEP = 10.0
"""Nats from which on the colour stays the same."""


def tokens(
    found: Score,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """One text line by line, each token in the colour of its loss; probability and rank on hover.

    Args:
        found: the score.
        text: which text.

    Raises:
        ArgumentError: there is no such text.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.tokens, text)
    limit = float(min(frame["loss"].max(skipna=True), DEEP)) if frame["loss"].notna().any() else 1.0
    rows = -(-len(frame) // LINE)
    words = Words(
        title="What each token cost",
        subtitle=f"{model_name(found)}, text {text}, {plural(len(frame), 'token')}",
        caption=(
            f"The text in lines of {LINE} tokens. Colour: the loss of the token, minus the log of "
            "the probability that the model gave it. The first token is not predicted and has none."
        ),
        finding=score_sentence(found, text),
    )
    words.extra["min_width"] = 190 + 56 * LINE
    trace = token_lines(
        frame["token"],
        # A token that nothing predicted is still read.
        frame["loss"].fillna(0.0),
        [_hover(row) for row in frame.itertuples()],
        look,
        wide=LINE,
        limit=limit or 1.0,
        bar="loss (nats)",
    )
    return build(
        [trace],
        look,
        words,
        height=124 + 34 * rows,
        xaxis=BARE,
        yaxis={**BARE, "range": [rows - 0.5, -0.5]},
        margin={"t": 76, "l": 24, "r": 24, "b": 16},
    )


def token_facts(row: Any) -> str:
    """Loss, probability and rank of one scored token, in words; plain text."""
    if row.loss != row.loss:
        return "not predicted"
    # Scores saved by an earlier version have no ranks.
    rank = getattr(row, "rank", float("nan"))
    told = f"loss {row.loss:.3f} nats, probability {number(float(row.probability))}"
    return told + (f", rank {int(rank):,}" if rank == rank else "")


def score_sentence(found: Score, text: int) -> str:
    """The mean loss of a text and the token that cost most."""
    frame: pd.DataFrame = rows_of(found.tokens, text=text).dropna(subset=["loss"])
    frame = rows_of(frame, kind="text")
    if frame.empty:
        return "Here no token was scored."
    top = frame.loc[frame["loss"].idxmax()]
    return (
        f"Here a token costs {number(float(frame['loss'].mean()))} nats on average; the most "
        f"surprising is {visible(str(top['token']))} at position {int(top['position'])}, with "
        f"{number(float(top['loss']))}."
    )


def _hover(row: Any) -> str:
    place = f"<b>{label(str(row.token))}</b>, position {row.position}"
    return f"{place}{' (prompt)' if row.kind == 'prompt' else ''}<br>{token_facts(row)}"


VIEWS = {"tokens": tokens}
