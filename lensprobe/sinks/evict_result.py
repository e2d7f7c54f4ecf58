"""What a cache with little room does to the loss, and to the sink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import GU
from ..errors import ArgumentError
from ..results import Result

__all__ = ["XIAO", "Evict"]

XIAO = """@inproceedings{xiao2024efficient,
  title = {Efficient Streaming Language Models with Attention Sinks},
  author = {Xiao, Guangxuan and Tian, Yuandong and Chen, Beidi and Han, Song and Lewis, Mike},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2024},
  eprint = {2309.17453},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True, repr=False, eq=False)
class Evict(Result):
    """Streaming perplexity, after Xiao et al. (2309.17453), and the same keys masked from the start.

    Every number is over the tokens that are predicted once the first key has left the cache (queries
    at position `window` and after), the same tokens for every run. Losses are in nats a token.

    Attributes:
        effects: one row a `measure`, `kind` and `keep`: `value`, `low`, `high`, and the `change` from
            the plain run with `change_low`, `change_high`; 95% bootstrap over documents. Kinds:
            "plain", every key stays; "evicted", the cache holds the first `keep` keys and the latest
            ones, `window` together; "masked", the first `keep` keys were never visible to any later
            token and everything else is. Measures: "loss"; "perplexity"; "attention", which a
            query pays to the oldest key that it sees, mean over queries and heads; "sink_rate", the
            share of heads in which that mean exceeds epsilon.
        curve: mean `loss` of each `kind` and `keep` by `position` of the query, from 0 on, over the
            `count` sequences that have a token to predict there.
        documents: one row a `measure`, `kind`, `keep` and `document`: `value`.
    """

    kind: ClassVar[str] = "sinks.evict"
    citations: ClassVar[tuple[str, ...]] = (XIAO, GU)

    effects: pd.DataFrame
    curve: pd.DataFrame
    documents: pd.DataFrame

    def effect(self, measure: str, kind: str, keep: int = 0) -> pd.Series:
        """The row of `effects` of one measure and run.

        Raises:
            ArgumentError: it was not measured.
        """
        frame = self.effects
        own = (frame["measure"] == measure) & (frame["kind"] == kind) & (frame["keep"] == keep)
        if not own.any():
            runs = frame[["kind", "keep"]].drop_duplicates().itertuples(index=False)
            raise ArgumentError(
                f"effect({measure!r}, {kind!r}, {keep!r}): the measures are "
                f"{', '.join(frame['measure'].unique())}, the runs "
                f"{', '.join(f'{kind} {keep}' for kind, keep in runs)}."
            )
        return frame[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, window, the plain perplexity and that of every run."""
        rows = self.effects[self.effects["measure"] == "perplexity"]
        runs = {
            "plain" if row.kind == "plain" else f"{row.kind} {row.keep}": float(row.value)
            for row in rows.itertuples(index=False)
        }
        facts: dict[str, Any] = {
            **super().summary(),
            "window": int(self.provenance["window"]),
            "documents": int(self.documents["document"].nunique()),
            **runs,
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
