"""Which kinds of result a page shows as plain HTML and not as figures, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plot.attention import first_sentence
from ..plot.generations import parting_sentence
from ..plot.score import score_sentence
from .attention_view import attention_view
from .parts import ViewPart
from .token_view import DRAWN, token_view

__all__ = ["VIEWERS", "views_of"]


def _attention(found: Any, anchor: str) -> tuple[ViewPart, ...]:
    return (
        ViewPart(
            anchor=f"{anchor}-grid",
            title="Every head at a glance",
            caption=(
                "One small picture a head, a row a layer. Opacity is the square root of the weight, so "
                "that small weights are seen beside a sink's. Weights are kept in steps of 1/255; the "
                "table is exact."
            ),
            finding=first_sentence(found),
            body=attention_view(found),
            style="attention.css",
            script="attention.js",
        ),
    )


def _tokens(found: Any, anchor: str) -> tuple[ViewPart, ...]:
    scored = found.kind == "score"
    text = int(found.texts["text"].iloc[0])
    return (
        ViewPart(
            anchor=f"{anchor}-tokens",
            title="Token by token",
            caption=(
                "Colour: minus the log-probability of each token under the model that "
                f"{'read' if scored else 'wrote'} it. Spaces show as ·, line breaks as ↵."
            ),
            finding=(score_sentence if scored else parting_sentence)(found, text),
            body=token_view(found),
            style="tokens.css",
        ),
    )


VIEWERS: dict[str, Callable[[Any, str], tuple[ViewPart, ...]]] = {
    "attention": _attention,
    **dict.fromkeys(DRAWN, _tokens),
}


def views_of(result: Any, anchor: str) -> tuple[ViewPart, ...]:
    """The views of a result; none of a kind whose page is made of figures."""
    return VIEWERS[result.kind](result, anchor) if result.kind in VIEWERS else ()
