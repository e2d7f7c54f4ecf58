"""What each position of a text is about, layer by layer, before and after the interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..results import Result
from .generate_result import INTERPOLATED, PLAIN

__all__ = ["KINDS", "Trace"]

LENS = """@misc{nostalgebraist2020logit,
  title = {interpreting {GPT}: the logit lens},
  author = {nostalgebraist},
  year = {2020},
  howpublished = {LessWrong},
  url = {https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens}
}"""

KINDS = ("current", "next", "guess", "top")
"""Tokens that are looked for at a position: its own, the one that came, the one the plain model
guessed, and whichever is read there first."""


@dataclass(frozen=True, repr=False, eq=False)
class Trace(Result):
    """The logit lens over one text: every layer's residual through the final norm and unembedding.

    Attributes:
        lens: one row a condition ("plain" or "interpolated"), layer (its output), position and kind of
            token ("current", "next", "guess" of the plain model, and "top", the lens's own first):
            token, id, probability and rank (1 is the likeliest) that the lens gives it. The last
            position has no next token. Interpolated residuals are the ones that later tokens see.
        tokens: one row a position: token, id, next, guess, the plain model's probability and rank of
            the next token, and whether the position is blended.
    """

    kind: ClassVar[str] = "interpolation.trace"
    citations: ClassVar[tuple[str, ...]] = (LENS,)

    lens: pd.DataFrame
    tokens: pd.DataFrame

    def share(self, kind: str, condition: str, layer: int) -> float:
        """In which share of the blended positions the lens reads that kind of token first."""
        places = self.tokens.loc[self.tokens["blended"], "position"]
        rows = self.lens[
            (self.lens["kind"] == kind)
            & (self.lens["condition"] == condition)
            & (self.lens["layer"] == layer)
            & self.lens["position"].isin(places)
        ]
        return float(np.mean(rows["rank"] == 1)) if len(rows) else float("nan")

    def summary(self) -> dict[str, Any]:
        """Model, tokens, where and how much, and how often next token and guess are read first.

        That is at the deepest layer that later tokens read, before → after.
        """
        blend = self.provenance["blend"]
        deep = int(self.lens["layer"].max()) - 1
        facts = {
            **super().summary(),
            "tokens": len(self.tokens),
            "layers": str(blend["layers"]),
            "weights": str(blend["weights"]),
            "blended": int(self.tokens["blended"].sum()),
        }
        for kind in ("next", "guess"):
            before, after = (self.share(kind, one, deep) for one in (PLAIN, INTERPOLATED))
            facts[f"{kind} first after layer {deep}"] = f"{before:.0%} → {after:.0%}"
        return facts
