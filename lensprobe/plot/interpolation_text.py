"""Figures of interpolated sampling: the texts side by side, coloured token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import finite, rows_of
from .facets import facets
from .interpolation_parts import CONDITIONS, blend_of
from .steering_parts import chosen_text, side_by_side
from .theme import Look, Words, build, number, style
from .token_lines import BARE, token_lines
from .tokens import label, visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..interpolation import Interpolation

__all__ = ["VIEWS", "completions", "course", "tokens"]

LINE = 16
"""Tokens in a line; half as many where two texts stand side by side."""
LEAST = 4
"""Lines that there is room for: fewer are not as tall as what is written beside the colours."""
DEEP = 10.0
"""Nats of surprise from which on the colour stays the same."""
MEASURES = {
    "plain_surprise": "surprise of the plain model (nats)",
    "surprise": "surprise of the model that wrote (nats)",
    "change": "log-probability with − without (nats)",
    "entropy": "entropy of the model that wrote (nats)",
}
"""What colours tokens, as the bar names it."""


def tokens(
    found: Interpolation,
    *,
    text: int = 0,
    measure: str = "plain_surprise",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What was written after one prompt, line by line, with the plain model's text beside it.

    Args:
        found: what was generated, with `logprobs=True`.
        text: which prompt.
        measure: "plain_surprise" (minus the plain model's log-probability of each token), "surprise"
            (of the model that wrote), "change" (log-probability with minus without) or "entropy".

    Raises:
        ArgumentError: no such prompt or measure, or nothing was measured.
    """
    look = style(theme, width_mm, title)
    frame = _measured(found, measure)
    frame = chosen_text(frame, text)
    shown = [one for one in CONDITIONS if (frame["condition"] == one).any()]
    wide = LINE if len(shown) == 1 else LINE // 2
    limit = _limit(frame["shown"], measure)
    traces = [
        _lines(rows_of(frame, condition=one), wide, measure, limit, look, panel)
        for panel, one in enumerate(shown)
    ]
    rows = max(-(-int((frame["condition"] == one).sum()) // wide) for one in shown)
    words = Words(
        title="What is written when late layers see what really came",
        subtitle=f"{model_name(found)}, {blend_of(found)}, after “{_start(found, text)}”",
        caption=(
            f"The continuations in lines of {wide} tokens. Colour: {MEASURES[measure]}, before "
            "temperature and filters. Plain is the model without the interpolation, reading the same "
            "tokens."
        ),
        finding=_finding(found, text),
    )
    words.extra["min_width"] = 190 + 56 * wide * len(shown)
    rows = max(rows, LEAST)
    layout = facets(shown, look, BARE, {**BARE, "range": [rows - 0.5, -0.5]})
    layout["margin"] = {"t": 100, "l": 24, "r": 24, "b": 16}
    return build(traces, look, words, height=124 + 34 * rows, **layout)


def course(
    found: Interpolation,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How surprising the written tokens are to the model that wrote them and to the plain one.

    Means over prompts, from the first generated token on.

    Raises:
        ArgumentError: nothing was measured.
    """
    look = style(theme, width_mm, title)
    frame = _measured(found, "surprise")
    own = rows_of(frame, condition=CONDITIONS[0]).copy()
    own["step"] = own.groupby("text").cumcount()
    names = {"logprob": "with the interpolation", "plain_logprob": "without, the same tokens"}
    traces = [
        _mean_line(own, column, name, look, index)
        for index, (column, name) in enumerate(names.items())
    ]
    means = {column: -float(own[column].mean()) for column in names}
    words = Words(
        title="How surprising the written tokens are",
        subtitle=f"{model_name(found)}, {blend_of(found)}, {_prompts(found)}",
        caption=(
            "Minus the log-probability of each token written under the interpolation, by the model "
            "that wrote it and by the plain model reading the same tokens; means over prompts. A "
            "model finds its own choices less surprising than another one's."
        ),
        finding=(
            f"Here a token costs {number(means['logprob'])} nats with the interpolation, and "
            f"{number(means['plain_logprob'])} without it."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        showlegend=True,
        xaxis={"title": {"text": "generated token"}},
        yaxis={"title": {"text": "surprise (nats)"}, "rangemode": "tozero"},
    )


def completions(
    found: Interpolation,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What was written after one prompt, as texts.

    Args:
        found: what was generated.
        text: which prompt.

    Raises:
        ArgumentError: there is no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    words = Words(
        title="What is written",
        subtitle=f"{model_name(found)}, {blend_of(found)}, after “{_start(found, text)}”",
        caption="The continuations of one prompt, and how many tokens each has.",
        finding=_finding(found, text),
    )
    columns = {"condition": "condition", "completion": "completion", "count": "tokens"}
    return side_by_side(frame, look, words, columns)


def _measured(found: Interpolation, measure: str) -> pd.DataFrame:
    """The tokens, with the chosen measure as `shown`."""
    if measure not in MEASURES:
        raise ArgumentError(
            f"measure={measure!r}: {', '.join(MEASURES)}.{nearest(str(measure), MEASURES)}"
        )
    frame = found.tokens
    if "logprob" not in frame:
        raise ArgumentError("nothing was measured: generate with logprobs=True.")
    values = {
        "plain_surprise": -frame["plain_logprob"],
        "surprise": -frame["logprob"],
        "change": frame["logprob"] - frame["plain_logprob"],
        "entropy": frame["entropy"],
    }
    return frame.assign(shown=values[measure])


def _limit(values: Any, measure: str) -> float:
    known = np.abs(np.asarray(values, dtype=float))
    largest = float(known[np.isfinite(known)].max(initial=0.0)) or 1.0
    return largest if measure == "entropy" else min(largest, DEEP)


def _lines(
    rows: pd.DataFrame, wide: int, measure: str, limit: float, look: Look, panel: int
) -> go.Heatmap:
    return token_lines(
        rows["token"],
        rows["shown"],
        [_hover(row) for row in rows.itertuples()],
        look,
        wide=wide,
        limit=limit,
        bar=MEASURES[measure],
        signed=measure == "change",
        panel=panel,
    )


def _hover(row: Any) -> str:
    return (
        f"<b>{label(str(row.token))}</b>, position {row.position}<br>"
        f"log-probability {row.logprob:.2f}, plain {row.plain_logprob:.2f}<br>"
        f"rank {row.rank:,}, plain {row.plain_rank:,}<br>"
        f"entropy {row.entropy:.2f}, plain {row.plain_entropy:.2f}"
    )


def _mean_line(own: pd.DataFrame, column: str, name: str, look: Look, index: int) -> go.Scatter:
    steps = sorted(int(step) for step in own["step"].unique())
    return go.Scatter(
        x=steps,
        y=finite(-float(rows_of(own, step=step)[column].mean()) for step in steps),
        name=name,
        mode="lines+markers",
        marker={"size": 5},
        line={"color": look.theme.lines[index], "width": 2, "dash": ("solid", "dash")[index]},
        hovertemplate=f"generated token %{{x}}<br>{name}<br>%{{y:.3~g}} nats<extra></extra>",
    )


def _start(found: Interpolation, text: int) -> str:
    prompt = str(chosen_text(found.texts, text)["prompt"].iloc[0])
    shown = "".join(char if char == " " else visible(char) for char in prompt)
    return shown if len(shown) < 60 else "…" + shown[-57:]


def _prompts(found: Interpolation) -> str:
    return plural(found.texts["text"].nunique(), "prompt")


def _finding(found: Interpolation, text: int) -> str:
    texts = chosen_text(found.texts, text).set_index("condition")
    own = chosen_text(found.tokens, text)
    parts = []
    if "plain" in texts.index:
        ids = [list(rows_of(own, condition=one)["id"]) for one in CONDITIONS]
        step = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), None)
        where = "say the same" if step is None else f"part at generated token {step}"
        parts.append(f"the two texts {where}")
    if "plain_logprob" in own:
        mine = rows_of(own, condition=CONDITIONS[0])
        with_, without = (-float(mine[name].mean()) for name in ("logprob", "plain_logprob"))
        parts.append(
            f"a token costs {number(with_)} nats with the interpolation and {number(without)} without"
        )
    if not parts:
        return f"Here {plural(texts['count'].iloc[0], 'token')} were written."
    return f"Here {', and '.join(parts)}."


VIEWS = {"tokens": tokens, "completions": completions, "course": course}
