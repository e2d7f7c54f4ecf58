"""Figures of generated texts: of one run, and of several side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import rows_of
from .steering_parts import chosen_text, side_by_side, token_grid
from .theme import Words, number, style
from .tokens import visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..comparing import Generations
    from ..running import Generation

__all__ = ["VIEWS", "completions", "parting_sentence", "token_facts", "tokens"]


def completions(
    found: Generation | Generations,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What was written after one prompt, a row a condition.

    Args:
        found: what was generated.
        text: which prompt.

    Raises:
        ArgumentError: there is no such prompt.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    columns = {"completion": "completion", "count": "tokens"}
    if "condition" in frame:
        parts = [f"{step:.0f}" if step == step else "–" for step in frame["step"]]
        frame = frame.assign(parts=parts)
        columns = {"condition": "condition", **columns, "parts": "parts at token"}
    words = Words(
        title="What is written",
        subtitle=f"{model_name(found)}, after “{_start(found, text)}”",
        caption="The continuations of one prompt, and how many tokens each has. Tokens count from 0.",
        finding=parting_sentence(found, text),
    )
    return side_by_side(frame, look, words, columns)


def tokens(
    found: Generation | Generations,
    *,
    text: int = 0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What was written after one prompt token by token, in the colour of its surprise.

    A line stands where a condition first parts from the first one.

    Args:
        found: what was generated, with `logprobs=True`.
        text: which prompt.

    Raises:
        ArgumentError: no such prompt, or no log-probabilities.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.tokens, text)
    if "logprob" not in frame:
        raise ArgumentError("nothing was measured: generate with logprobs=True.")
    rows = [
        (name, list(own["token"]), list(-own["logprob"].astype(float)))
        for name, own in _by_condition(frame)
    ]
    words = Words(
        title="What is written, token by token",
        subtitle=f"{model_name(found)}, after “{_start(found, text)}”",
        caption=(
            "Colour: minus the log-probability of the token under the model that wrote it, before "
            "temperature and filters."
        ),
        finding=parting_sentence(found, text),
    )
    marks: list[tuple[float, str]] = []
    if "condition" in found.texts:
        known = chosen_text(found.texts, text).dropna(subset=["step"])
        pairs = zip(known["step"], known["condition"], strict=True)
        marks = [(float(step), f"{name} parts") for step, name in pairs]
    return token_grid(rows, look, words, bar="surprise (nats)", axis="generated token", marks=marks)


def token_facts(row: Any) -> str:
    """What was measured of one generated token, in words; plain text."""
    logprob = getattr(row, "logprob", float("nan"))
    told = f"position {row.position}"
    if logprob == logprob:
        told += f": log-probability {logprob:.3f}, probability {number(float(np.exp(logprob)))}"
    rank = getattr(row, "rank", float("nan"))
    return told + (f", rank {int(rank):,}" if rank == rank else "")


def parting_sentence(found: Generation | Generations, text: int) -> str:
    """Where the conditions part, or how much was written."""
    frame = chosen_text(found.texts, text)
    if "condition" not in frame:
        return f"Here {plural(frame['count'].iloc[0], 'token')} were written."
    rows: list[Any] = list(frame.itertuples())
    base, *others = rows
    told = [
        f"{row.condition} says the same as {base.condition}"
        if row.step != row.step
        else f"{row.condition} parts from {base.condition} at generated token {int(row.step)}"
        for row in others
    ]
    return f"Here {', '.join(told)}."


def _by_condition(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "condition" not in frame:
        return [("written", frame)]
    names = list(dict.fromkeys(frame["condition"]))
    return [(str(name), rows_of(frame, condition=name)) for name in names]


def _start(found: Generation | Generations, text: int) -> str:
    prompt = str(chosen_text(found.texts, text)["prompt"].iloc[0])
    shown = "".join(char if char == " " else visible(char) for char in prompt)
    return shown if len(shown) < 60 else "…" + shown[-57:]


VIEWS = {"completions": completions, "tokens": tokens}
