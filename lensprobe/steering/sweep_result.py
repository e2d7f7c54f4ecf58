"""The tables of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..results import Result
from ..statistics import difference, interval
from ..tokens import token_strings
from .citations import ACTADD, CAA

if TYPE_CHECKING:
    from .sweep_run import Run

__all__ = ["Sweep", "sweep_result"]

MOVED = 8
"""Tokens that are kept for each layer and scale, in each direction."""


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(Result):
    """What steering does by layer and scale.

    Attributes:
        effects: one row a group of documents, measure, layer and scale: group, measure, layer,
            scale, value, low, high (95% bootstrap over documents), change, change_low, change_high
            (paired with the plain run of the same documents), count (documents that are finite
            there; the others are left out, which a note in provenance says). Measures: "probability"
            and "log_odds" of the matching answer, "kl" (steered ‖ plain, nats), "loss" (nats a token),
            "perplexity", "ratio" (its perplexity over the plain one's).
        plain: the unsteered model: group, measure, value, low, high.
        documents: one row a document and cell: group, measure, text, layer, scale, value, count.
        tokens: with `measure="tokens"`, the next tokens that move most: group, layer, scale, token,
            id, probability, change (both means over documents).
    """

    kind: ClassVar[str] = "steering.sweep"
    citations: ClassVar[tuple[str, ...]] = (CAA, ACTADD)

    effects: pd.DataFrame
    plain: pd.DataFrame
    documents: pd.DataFrame
    tokens: pd.DataFrame

    def best(self, measure: str = "probability", *, sign: int = 1) -> pd.Series:
        """The row of `effects` whose change is largest (`sign=-1`: most negative).

        Raises:
            ArgumentError: this sweep has no such measure.
        """
        rows = self.effects.query("measure == @measure")
        if rows.empty:
            known = ", ".join(self.effects["measure"].unique())
            raise ArgumentError(f"measure={measure!r}: this sweep has {known}.")
        return rows.iloc[int(np.nanargmax(sign * rows["change"].to_numpy()))]

    def summary(self) -> dict[str, Any]:
        """Model, layers and scales, and for each group the strongest change of its first measure."""
        facts: dict[str, Any] = {
            **super().summary(),
            "layers": self.effects["layer"].nunique(),
            "scales": self.effects["scale"].nunique(),
        }
        for group, rows in self.effects.groupby("group", sort=False):
            measure = rows["measure"].iloc[0]
            rows = rows.query("measure == @measure")
            row = rows.iloc[int(np.nanargmax(np.abs(rows["change"].to_numpy())))]
            base = self.plain.query("group == @group and measure == @measure").iloc[0]
            facts[f"{group}: {measure}"] = (
                f"{base['value']:.4g} → {row['value']:.4g} "
                f"(layer {row['layer']}, scale {row['scale']:g})"
            )
        return facts


def sweep_result(
    adapter: Adapter, runs: Sequence[Run], wanted: Sequence[str], provenance: dict[str, Any]
) -> Sweep:
    """Tables of the finished documents of each run."""
    effects, plain, documents, tokens = [], [], [], []
    for run in runs:
        cells = np.stack([run.outcome.answers[i]["cells"] for i in sorted(run.outcome.answers)])
        base = np.stack([run.outcome.answers[i]["plain"] for i in sorted(run.outcome.answers)])
        counts = np.stack([run.outcome.answers[i]["counts"] for i in sorted(run.outcome.answers)])
        for m, measure in enumerate(run.names):
            if measure not in wanted:
                continue
            seed = provenance["seed"]
            found = _Cells(run, measure, cells[:, m], base[:, m], counts[:, m], seed)
            effects += found.effects()
            plain += found.plain()
            documents.append(found.documents())
        if run.tokens:
            tokens.append(_moved(adapter, run))
    place = ["group", "measure", "layer", "scale"]
    numbers = ["value", "low", "high", "change", "change_low", "change_high", "count"]
    return Sweep(
        provenance={**provenance, "notes": [*provenance["notes"], *_lost(documents)]},
        effects=_joined(effects, [*place, *numbers]),
        plain=_joined(plain, ["group", "measure", "value", "low", "high"]),
        documents=_joined(
            documents, ["group", "measure", "text", "layer", "scale", "value", "count"]
        ),
        tokens=_joined(tokens, ["group", "layer", "scale", "token", "id", "probability", "change"]),
    )


class _Cells:
    """One measure of one group: totals `[document layer scale]`, plain totals, counts `[document]`."""

    def __init__(
        self,
        run: Run,
        measure: str,
        sums: np.ndarray,
        plain: np.ndarray,
        counts: np.ndarray,
        seed: int,
    ) -> None:
        self.run = run
        self.measure = measure
        self.sums = np.moveaxis(sums, 0, -1)
        self.base = plain
        self.counts = counts
        self.seed = seed

    def effects(self) -> list[pd.DataFrame]:
        """`effects` rows; a loss also as perplexity and as ratio to the plain one's."""
        value = interval(self.sums, self.counts, seed=self.seed)
        change = interval(self.sums - self.base, self.counts, seed=self.seed)
        frames = [self._frame(self.measure, value, change)]
        if self.measure == "loss":
            ratio = tuple(np.exp(part) for part in change)
            lost = difference(self.sums, self.base, self.counts, of=np.exp, seed=self.seed)
            frames.append(self._frame("perplexity", tuple(map(np.exp, value)), lost))
            frames.append(self._frame("ratio", ratio, tuple(part - 1 for part in ratio)))
        return frames

    def plain(self) -> list[pd.DataFrame]:
        """`plain` rows."""
        value = interval(self.base, self.counts, seed=self.seed)
        rows = {self.measure: value}
        if self.measure == "loss":
            rows |= {"perplexity": tuple(map(np.exp, value)), "ratio": (1.0, 1.0, 1.0)}
        names = ("value", "low", "high")
        return [
            pd.DataFrame([{"group": self.run.subject.name, "measure": measure}]).assign(
                **dict(zip(names, map(float, ends), strict=True))
            )
            for measure, ends in rows.items()
        ]

    def documents(self) -> pd.DataFrame:
        """`documents` rows."""
        layer, scale, text = np.indices(self.sums.shape).reshape(3, -1)
        with np.errstate(invalid="ignore"):
            values = (self.sums / self.counts).reshape(-1)
        return pd.DataFrame(
            {
                "group": self.run.subject.name,
                "measure": self.measure,
                "text": np.array(sorted(self.run.outcome.answers))[text],
                "layer": np.array(list(self.run.vectors))[layer],
                "scale": np.array(self.run.scales)[scale],
                "value": values,
                "count": self.counts[text].astype(int),
            }
        )

    def _frame(self, measure: str, value: Any, change: Any) -> pd.DataFrame:
        layer, scale = np.indices(self.sums.shape[:2]).reshape(2, -1)
        names = ("value", "low", "high", "change", "change_low", "change_high")
        parts = {n: part.reshape(-1) for n, part in zip(names, (*value, *change), strict=True)}
        return pd.DataFrame(
            {
                "group": self.run.subject.name,
                "measure": measure,
                "layer": np.array(list(self.run.vectors))[layer],
                "scale": np.array(self.run.scales)[scale],
                **parts,
                "count": np.isfinite(self.sums).sum(-1).reshape(-1),
            }
        )


def _moved(adapter: Adapter, run: Run) -> pd.DataFrame:
    assert run.moved is not None and run.after is not None
    count = len(run.outcome.answers)
    tokenizer = getattr(adapter.model, "tokenizer", None)
    frames = []
    for at, layer in enumerate(run.vectors):
        for k, scale in enumerate(run.scales):
            change = (run.moved[at, k] - run.after) / count
            order = np.argsort(change, kind="stable")
            chosen = [*order[::-1][:MOVED], *order[:MOVED]]
            chosen = [i for i in chosen if change[i] != 0]
            frames.append(
                pd.DataFrame(
                    {
                        "group": run.subject.name,
                        "layer": layer,
                        "scale": scale,
                        "token": token_strings(tokenizer, chosen),
                        "id": np.array(chosen, dtype=int),
                        "probability": run.moved[at, k][chosen] / count,
                        "change": change[chosen],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _lost(documents: Sequence[pd.DataFrame]) -> list[str]:
    """A note for each group and measure that is not finite in some document."""
    notes = []
    for frame in documents:
        lost = frame.loc[~np.isfinite(frame["value"]) & (frame["count"] > 0), "text"].nunique()
        if lost:
            group, measure = frame[["group", "measure"]].iloc[0]
            notes.append(f"{group}: {measure} is not finite somewhere in {lost} documents")
    return notes


def _joined(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    known = [frame for frame in frames if len(frame)]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=columns)
