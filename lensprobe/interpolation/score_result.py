"""Losses of texts whose later tokens saw what really came, beside the plain model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..corpus import Window
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..results import Result
from ..statistics import interval
from ..tokens import token_strings

__all__ = ["KEPT", "InterpolatedScore", "score_result"]

KEPT = 200_000
"""Tokens that a result keeps one by one; losses of texts are those of all tokens."""

TEXTS = ["text", "loss", "perplexity", "plain_loss", "change", "count"]
TOKENS = ["text", "position", "token", "id", "loss", "rank", "probability"]
PLAIN = ["plain_loss", "plain_rank", "plain_probability"]


@dataclass(frozen=True, repr=False, eq=False)
class InterpolatedScore(Result):
    """Losses in nats under an interpolation, and under the plain model.

    Attributes:
        texts: one row a text: text, loss (mean over its predicted tokens), perplexity, plain_loss
            (NaN without a reference), change (loss - plain_loss), count (predicted tokens).
        tokens: one row a predicted token, of the first 200,000: text, position (in the text), token,
            id, loss, rank (1 is the likeliest), probability, and plain_loss, plain_rank and
            plain_probability under the plain model.
    """

    kind: ClassVar[str] = "interpolation.score"

    texts: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def loss(self) -> float:
        """Mean loss over all predicted tokens, in nats."""
        return self._mean("loss")

    @property
    def plain_loss(self) -> float:
        """The plain model's; NaN without a reference."""
        return self._mean("plain_loss")

    def change(self) -> tuple[float, float, float]:
        """Change in mean loss, and the ends of its 95% bootstrap interval over texts."""
        counts = self.texts["count"].to_numpy(float)
        sums = self.texts["change"].to_numpy(float) * counts
        value, low, high = interval(sums, counts, seed=int(self.provenance["seed"]))
        return float(value), float(low), float(high)

    def merge(self, other: InterpolatedScore) -> InterpolatedScore:
        """Both scores as one; the other's texts are numbered on.

        Raises:
            ArgumentError: another model, another interpolation or another length.
        """
        for name in ("model", "blend", "bos", "length"):
            mine, yours = self.provenance.get(name), other.provenance.get(name)
            if mine != yours:
                raise ArgumentError(f"merge: {name} differs ({mine!r} and {yours!r}).")
        shift = 0 if self.texts.empty else int(self.texts["text"].max()) + 1
        tables = []
        for name in ("texts", "tokens"):
            theirs = getattr(other, name)
            moved = theirs.assign(text=theirs["text"] + shift)
            tables.append(pd.concat([getattr(self, name), moved], ignore_index=True))
        added = {
            name: self.provenance[name] + other.provenance[name]
            for name in ("documents", "sequences", "tokens")
        }
        both = (self.provenance, other.provenance)
        return InterpolatedScore(
            provenance={
                **self.provenance,
                **added,
                "complete": all(one["complete"] for one in both),
                "notes": list(dict.fromkeys(note for one in both for note in one["notes"])),
            },
            texts=tables[0],
            tokens=tables[1].iloc[:KEPT],
        )

    def summary(self) -> dict[str, Any]:
        """Model, where and how much, predicted tokens, mean loss with and without."""
        blend = self.provenance["blend"]
        return {
            **super().summary(),
            "layers": str(blend["layers"]),
            "weights": str(blend["weights"]),
            "texts": len(self.texts),
            "tokens": int(self.texts["count"].sum()),
            "loss": self.loss,
            "plain_loss": self.plain_loss,
        }

    def _mean(self, name: str) -> float:
        counts = self.texts["count"].to_numpy(float)
        return float((self.texts[name].to_numpy(float) * counts).sum() / counts.sum())


def score_result(
    adapter: Adapter,
    windows: Sequence[Window],
    answers: Sequence[dict[str, np.ndarray]],
    provenance: dict[str, Any],
) -> InterpolatedScore:
    """Tables of windows in the order of the texts; each answer has numbers of its new tokens."""
    counts = [len(answer["loss"]) for answer in answers]
    text = np.repeat([window.document for window in windows], counts)
    sums = pd.DataFrame({"text": text, "count": 1})
    for name in ("loss", "plain_loss"):
        sums[name] = np.concatenate([answer[name] for answer in answers]).astype(np.float64)
    grouped = sums.groupby("text").agg({"loss": "mean", "plain_loss": "mean", "count": "sum"})
    texts = grouped.reset_index().assign(
        perplexity=np.exp(grouped["loss"].to_numpy()),
        change=(grouped["loss"] - grouped["plain_loss"]).to_numpy(),
    )
    notes = [*provenance["notes"]]
    if sum(counts) > KEPT:
        notes.append(f"of {sum(counts):,} predicted tokens the first {KEPT:,} are kept one by one")
    return InterpolatedScore(
        provenance={**provenance, "notes": notes},
        texts=pd.DataFrame(texts[TEXTS]),
        tokens=_tokens(adapter, windows, answers),
    )


def _tokens(
    adapter: Adapter, windows: Sequence[Window], answers: Sequence[dict[str, np.ndarray]]
) -> pd.DataFrame:
    tokenizer = getattr(adapter.model, "tokenizer", None)
    tables, held = [], 0
    for window, answer in zip(windows, answers, strict=True):
        new = len(answer["loss"])
        ids = np.array(window.ids[len(window.ids) - new :])
        first = len(window.ids) - new - window.again + window.begin
        table = pd.DataFrame(
            {
                "text": window.document,
                "position": first + np.arange(new),
                "token": token_strings(tokenizer, ids),
                "id": ids,
                **{name: answer[name] for name in ("loss", "rank", "plain_loss", "plain_rank")},
            }
        )
        tables.append(table)
        held += new
        if held >= KEPT:
            break
    found = pd.concat(tables, ignore_index=True).iloc[:KEPT]
    found["probability"] = np.exp(-found["loss"])
    found["plain_probability"] = np.exp(-found["plain_loss"])
    return found[[*TOKENS, *PLAIN]]
