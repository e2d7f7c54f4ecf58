"""Texts as coloured tokens that tell their numbers when pointed at: plain HTML without a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from ..plot import generations, score
from ..plot.axes import rows_of
from ..plot.tokens import visible
from ..plot.wording import plural
from .assets import asset, environment

__all__ = ["DRAWN", "notebook", "token_view"]

INK = (46, 134, 200)
MOST = 0.7
"""Opacity of the strongest colour; the token is read on it."""
TOKENS = 4000
"""Tokens that a view shows at most; what is left out is said below it."""


@dataclass(frozen=True)
class _Token:
    text: str
    tip: str
    opacity: float
    ends: bool
    parts: bool = False


@dataclass(frozen=True)
class _One:
    """One text under one condition."""

    name: str
    note: str
    prompt: str
    tokens: tuple[_Token, ...]


@dataclass(frozen=True)
class _View:
    """What the template walks through: groups of texts that stand side by side."""

    groups: tuple[tuple[_One, ...], ...]
    scale: tuple[str, str] | None
    note: str = ""
    ink: tuple[int, ...] = INK
    most: float = MOST


def token_view(found: Any, *, most: int = TOKENS) -> Markup:
    """The texts of a result of `lp.score`, `lp.generate` or `lp.side_by_side`.

    Args:
        found: the result.
        most: tokens that are shown; whole texts beyond it are left out, which the view says.
    """
    texts = list(dict.fromkeys(found.texts["text"]))
    sizes = found.tokens.groupby("text").size().reindex(texts, fill_value=0).cumsum()
    # One text is shown however long it is.
    kept = [text for index, text in enumerate(texts) if index == 0 or sizes[text] <= most]
    view = DRAWN[found.kind](found, kept)
    if len(kept) < len(texts):
        note = f"The first {len(kept):,} of {len(texts):,} texts; the tables have them all."
        view = _View(view.groups, view.scale, note)
    return Markup(environment().get_template("tokens.html.j2").render(view=view))


def notebook(found: Any) -> str:
    """The view with its style, for a notebook's output."""
    return f"<style>{asset('tokens.css')}</style>{token_view(found)}"


def _scored(found: Any, texts: Iterable[Any]) -> _View:
    groups = []
    for text in texts:
        rows = rows_of(found.tokens, text=text)
        tokens = tuple(
            _token(row, f"position {row.position}: {score.token_facts(row)}", row.loss)
            for row in _each(rows)
        )
        note = plural(len(rows), "token")
        for row in _each(rows_of(found.texts, text=text)):
            note += f", {plural(row.count, 'token')} scored: {row.loss:.3f} nats each"
        groups.append((_One(f"Text {text}", note, "", tokens),))
    return _View(tuple(groups), ("Loss: 0", f"{score.DEEP:g} nats and more"))


def _generated(found: Any, texts: Iterable[Any]) -> _View:
    scale = ("Surprise: 0", f"{score.DEEP:g} nats and more")
    groups = tuple(tuple(_conditions(found, text)) for text in texts)
    return _View(groups, scale if "logprob" in found.tokens else None)


def _conditions(found: Any, text: Any) -> Iterator[_One]:
    """One text under each condition, or as it was written where there are none."""
    for row in _each(rows_of(found.texts, text=text)):
        own, name, start = rows_of(found.tokens, text=text), f"Text {text}", None
        if hasattr(row, "condition"):
            own, name = rows_of(own, condition=row.condition), f"{row.condition}, text {text}"
            start = None if row.step != row.step else int(row.step)
        note = plural(row.count, "token")
        note += "" if start is None else f", parts at token {start}"
        yield _One(name, note, _readable(str(row.prompt)), _written(own, start))


def _written(rows: pd.DataFrame, start: int | None) -> tuple[_Token, ...]:
    return tuple(
        _token(
            row,
            f"token {step}, {generations.token_facts(row)}"
            + (" — the first difference" if step == start else ""),
            -getattr(row, "logprob", float("nan")),
            parts=step == start,
        )
        for step, row in enumerate(_each(rows))
    )


def _token(row: Any, facts: str, nats: float, *, parts: bool = False) -> _Token:
    text = visible(str(row.token))
    share = min(max(nats / score.DEEP, 0.0), 1.0) if nats == nats else 0.0
    return _Token(text, f"{text}  {facts}", round(MOST * share, 3), "\n" in str(row.token), parts)


def _readable(text: str) -> str:
    return "".join(char if char == " " else visible(char) for char in text)


def _each(frame: pd.DataFrame) -> Any:
    """The rows; which columns they have, no type knows."""
    return frame.itertuples()


DRAWN: dict[str, Callable[[Any, list[Any]], _View]] = {
    "score": _scored,
    "generate": _generated,
    "generations": _generated,
}
"""How the tokens of each kind of result are shown."""
