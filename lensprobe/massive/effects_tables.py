"""Measured runs of sequences → tables with intervals over documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import pandas as pd

from ..running.measures import perplexity
from ..statistics import difference, interval
from .effects import Measured

__all__ = ["Documents"]

ENDS = ("value", "low", "high")


class Documents:
    """Runs of some sequences, summed by the document that each sequence is a piece of.

    Args:
        answers: what was measured of each finished sequence, by its index.
        plain: the same sequences in the plain run, one run each.
        documents: which document each sequence belongs to.
        epsilon: least attention of a sink, exclusive.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        answers: Mapping[int, Measured],
        plain: Mapping[int, Measured],
        documents: Sequence[int],
        *,
        epsilon: float,
        seed: int,
    ) -> None:
        order = sorted(answers)
        self.names, self._place = np.unique([documents[i] for i in order], return_inverse=True)
        self.seed = seed
        self.tokens = self._summed([answers[i].count for i in order])
        self.sequences = self._summed([1.0] * len(order))
        self.heads = self._heads([answers[i] for i in order])
        self.edited = dict(self._sums([answers[i] for i in order], epsilon))
        self.plain = dict(self._sums([plain[i] for i in order], epsilon))

    def _summed(self, values: Sequence[Any]) -> np.ndarray:
        """Over the sequences of each document, `[... document]`."""
        array = np.stack([np.asarray(value) for value in values])
        total = np.zeros((len(self.names), *array.shape[1:]))
        np.add.at(total, self._place, array)
        return np.moveaxis(total, 0, -1)

    def _heads(self, runs: Sequence[Measured]) -> dict[str, np.ndarray]:
        names = ("attention", "value_norm", "other_norm")
        return {name: self._summed([getattr(run, name) for run in runs]) for name in names}

    def _sums(
        self, runs: Sequence[Measured], epsilon: float
    ) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
        """Each measure's sums `[run document]` and what they are divided by."""
        for name in ("loss", "kl"):
            yield name, (self._summed([getattr(run, name) for run in runs]), self.tokens)
        sinks = [(run.attention > epsilon).mean((1, 2)) for run in runs]
        means = {
            name: self._summed([getattr(run, name).mean((1, 2)) for run in runs])
            for name in ("attention", "value_norm", "other_norm")
        }
        for name, sums in {**means, "sink_rate": self._summed(sinks)}.items():
            if np.isfinite(sums).any():
                yield name, (sums, self.sequences)

    def pooled(self, groups: Sequence[Sequence[int]]) -> Documents:
        """The same documents with runs averaged group by group, as draws of one control are."""

        def mean(sums: np.ndarray) -> np.ndarray:
            return np.stack([sums[list(group)].mean(0) for group in groups])

        other = copy(self)
        other.edited = {name: (mean(sums), by) for name, (sums, by) in self.edited.items()}
        other.heads = {name: mean(sums) for name, sums in self.heads.items()}
        return other

    def effects(self, labels: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """One row a measure and run: the labels of the run, value and change with their intervals."""
        frames = []
        for name, (sums, counts) in self.edited.items():
            value = interval(sums, counts, seed=self.seed)
            change = interval(sums - self.plain[name][0], counts, seed=self.seed)
            frames.append(self._frame(name, labels, value, change))
            if name == "loss":
                base = self.plain["loss"][0]
                lost = difference(sums, base, counts, of=perplexity, seed=self.seed)
                frames.append(self._frame("perplexity", labels, map(perplexity, value), lost))
        return pd.concat(frames, ignore_index=True)

    def notes(self) -> list[str]:
        """How many documents are left out of a measure, because it is not finite in some run."""
        found = []
        for name, (sums, counts) in self.edited.items():
            lost = int((~np.isfinite(sums) & (counts > 0)).any(0).sum())
            if lost:
                found.append(
                    f"{name} is not finite somewhere in {lost} documents, and leaves them out"
                )
        return found

    def means(self, labels: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """One row a measure and run: value and change, without intervals."""
        frames = []
        for name, (sums, counts) in self.edited.items():
            changes = sums - self.plain[name][0]
            value, change = (part.sum(-1) / counts.sum() for part in (sums, changes))
            columns = {"measure": name, **labels, "value": value, "change": change}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _frame(
        self, measure: str, labels: Mapping[str, Sequence[Any]], value: Any, change: Any
    ) -> pd.DataFrame:
        changed = zip(("change", "change_low", "change_high"), change, strict=True)
        ends = dict(zip(ENDS, value, strict=True))
        return pd.DataFrame({"measure": measure, **labels, **ends, **dict(changed)})

    def plain_table(self) -> pd.DataFrame:
        """One row a measure of the plain run."""
        rows = []
        for name, (sums, counts) in self.plain.items():
            value = [float(part[0]) for part in interval(sums, counts, seed=self.seed)]
            rows.append((name, *value))
            if name == "loss":
                rows.append(("perplexity", *map(float, perplexity(value))))
        return pd.DataFrame(rows, columns=["measure", *ENDS])

    def heads_table(self, labels: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """One row a run, layer and head: attention with its interval, and the norms."""
        sums = self.heads["attention"]
        run, layer, head = (index.reshape(-1) for index in np.indices(sums.shape[:-1]))
        ends = interval(sums, self.sequences, seed=self.seed)
        norms = {
            name: (self.heads[name].sum(-1) / self.sequences.sum()).reshape(-1)
            for name in ("value_norm", "other_norm")
        }
        return pd.DataFrame(
            {
                **{name: np.asarray(values)[run] for name, values in labels.items()},
                "layer": layer,
                "head": head,
                **{name: part.reshape(-1) for name, part in zip(ENDS, ends, strict=True)},
                **norms,
            }
        )

    def documents_table(self, labels: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """One row a measure, run and document: its value, the change from plain, and its weight."""
        frames = []
        for name, (sums, counts) in self.edited.items():
            run, place = (index.reshape(-1) for index in np.indices(sums.shape))
            with np.errstate(invalid="ignore"):
                value, change = sums / counts, (sums - self.plain[name][0]) / counts
            frames.append(
                pd.DataFrame(
                    {
                        "measure": name,
                        **{label: np.asarray(values)[run] for label, values in labels.items()},
                        "document": self.names[place],
                        "value": value.reshape(-1),
                        "change": change.reshape(-1),
                        "count": counts[place].astype(int),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)
