"""Which kinds of result a page shows as plain HTML and not as figures, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..plot.attention import first_sentence
from .attention_view import attention_view
from .parts import ViewPart

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


VIEWERS: dict[str, Callable[[Any, str], tuple[ViewPart, ...]]] = {"attention": _attention}


def views_of(result: Any, anchor: str) -> tuple[ViewPart, ...]:
    """The views of a result; none of a kind whose page is made of figures."""
    return VIEWERS[result.kind](result, anchor) if result.kind in VIEWERS else ()
