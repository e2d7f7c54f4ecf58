"""Different tokens that a model takes for first tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..errors import ArgumentError
from ..results import Result
from .citations import YONA

__all__ = ["Clusters"]


@dataclass(frozen=True, repr=False, eq=False)
class Clusters(Result):
    """A set of different tokens that was searched for, and how often it fools the model.

    Attributes:
        trials: one row a sequence without a repeat: `kind` ("cluster", the set in a random order, or
            "random", as many tokens drawn at random), `draw`, `text`, `success` (share of the tokens
            behind the first that have a first token's massive value), `value` of the last token,
            `sink_rate` of key 0, `mass` (share of attention to tokens with a massive value), `loss`.
        members: the set, in the order it was found: `rank`, `token`, `id`, `value` behind those before
            it, and its `share` of a first token's.
        candidates: one row a candidate: `token`, `id`, `kind` ("similar" or "random"), `similarity` to
            the word, `value` and `share` behind the word, and whether it is a `member`.
    """

    kind: ClassVar[str] = "sinks.clusters"
    citations: ClassVar[tuple[str, ...]] = (YONA,)

    trials: pd.DataFrame
    members: pd.DataFrame
    candidates: pd.DataFrame

    def success(self, kind: str = "cluster") -> float:
        """Mean share of tokens behind the first that are taken for first tokens.

        Raises:
            ArgumentError: neither "cluster" nor "random".
        """
        if kind not in ("cluster", "random"):
            raise ArgumentError(f'kind={kind!r}: "cluster" or "random".')
        return float(self.trials.loc[self.trials["kind"] == kind, "success"].mean())

    def summary(self) -> dict[str, Any]:
        """Model, the set, and how often it and random sets succeed."""
        return {
            **super().summary(),
            "word": str(self.provenance["word"]),
            "members": " ".join(repr(str(token)) for token in self.members["token"]),
            "success": self.success(),
            "random_success": self.success("random"),
        }
