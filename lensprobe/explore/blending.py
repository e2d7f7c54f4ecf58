"""What is written after one prompt while late layers see the next token, at one layer and weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..interpolation.generate import generate
from ..interpolation.generate_result import INTERPOLATED, PLAIN, Interpolation
from .explored import Control, Explored

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Blending"]


class Blending(Explored):
    """Prompt, layer and weight → `Interpolation`, with the plain model's continuation beside it.

    The plain continuation is written once a prompt.

    Args:
        model: a TransformerLens model.
        options: of `lp.interpolation.generate`, but for layer and weight; their seed is drawn.
        controls: what can be set.
    """

    def __init__(
        self, model: Any, options: Mapping[str, Any], controls: tuple[Control, ...]
    ) -> None:
        super().__init__(model, "lp.explore.interpolation")
        self.options, self.controls = dict(options), controls

    def answer(self, settings: Mapping[str, Any]) -> Interpolation:
        """Compute what is not known yet.

        Raises:
            ArgumentError: an empty prompt or one that leaves no room for the new tokens.
        """
        prompt = settings["prompt"]
        plain = self.parts.of(prompt, lambda: self._write({**settings, "weight": 0.0}))
        # At weight 0 no layer matters, and the plain model has answered already.
        mine = self._write(settings) if settings["weight"] else plain
        notes = dict.fromkeys([*mine.provenance["notes"], *plain.provenance["notes"]])
        blend = {**mine.provenance["blend"], "layers": [settings["layer"]]}
        facts = {**mine.provenance, "prompt": prompt, "blend": blend, "notes": list(notes)}
        return replace(
            mine,
            provenance=facts,
            texts=_both(mine.texts, plain.texts),
            tokens=_both(mine.tokens, plain.tokens),
        )

    def figure(self, answer: Interpolation, theme: str) -> go.Figure:
        """Each written token's log-probability with and without the interpolation."""
        from ..plot.explore_interpolation import written

        return written(answer, theme=theme)

    def texts(self, answer: Interpolation) -> list[tuple[str, str, str]]:
        """Both continuations, the plain one first."""
        rows = answer.texts.sort_values("condition", ascending=False).to_dict("records")
        return [(row["condition"], row["prompt"], row["completion"]) for row in rows]

    def _write(self, settings: Mapping[str, Any]) -> Interpolation:
        return generate(self.model, **settings, **self.options)


def _both(mine: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The rows of both runs, told apart by their condition."""
    runs = [mine.assign(condition=INTERPOLATED), plain.assign(condition=PLAIN)]
    return pd.concat(runs, ignore_index=True)
