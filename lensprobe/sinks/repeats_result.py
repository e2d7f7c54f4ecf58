"""What repeated tokens do to a model's sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU
from ..results import Result
from .citations import YONA

__all__ = ["Repeats"]


@dataclass(frozen=True, repr=False, eq=False)
class Repeats(Result):
    """Copies of single tokens, and whether the model takes them for first tokens.

    Attributes:
        words: one row a word (`token`, `id`) and `bos`: `first`, the least number of copies at which
            the last one is treated like a first token (-1: at none that was tried); `fooled`, whether
            it is at the largest number; `share`, `sink_rate` and `mass` there.
        copies: one row a word, `bos` and `count` of copies: `value`, the largest magnitude in the last
            copy's residual after the sink layer; `share` of a first token's; `norm` of that residual;
            `sink_rate` of key 0; `mass`, the share of all attention that goes to tokens with a massive
            value, wherever they stand; `massive`, the share of tokens that have one; `loss` in nats a
            predicted token (NaN where none is predicted).
    """

    kind: ClassVar[str] = "sinks.repeats"
    citations: ClassVar[tuple[str, ...]] = (YONA, GU)

    words: pd.DataFrame
    copies: pd.DataFrame

    def fooled(self, *, bos: bool) -> list[str]:
        """The words that fool the model at the largest number of copies, with BOS or without."""
        rows = self.words[(self.words["bos"] == bos) & self.words["fooled"]]
        return [str(token) for token in rows["token"]]

    def summary(self) -> dict[str, Any]:
        """Model, its kind of positions, and how many words fool it with BOS and without."""
        facts: dict[str, Any] = {
            **super().summary(),
            "positions": str(self.provenance["position_kind"]),
            "words": int(self.words["id"].nunique()),
        }
        for front in sorted(set(self.words["bos"])):
            facts["fooled_with_bos" if front else "fooled_without_bos"] = len(
                self.fooled(bos=bool(front))
            )
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
