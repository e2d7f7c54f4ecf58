"""What `train_and_watch` returns."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from typing_extensions import Self

from ...citations import GU
from ...parquet import read_folder, write_folder
from ...results import Result
from ..result import SUN

__all__ = ["TrainingWatch"]

KINGMA = """@inproceedings{kingma2015adam,
  title = {Adam: A Method for Stochastic Optimization},
  author = {Kingma, Diederik P. and Ba, Jimmy},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2015},
  eprint = {1412.6980},
  archivePrefix = {arXiv}
}"""
LOSHCHILOV = """@inproceedings{loshchilov2019decoupled,
  title = {Decoupled Weight Decay Regularization},
  author = {Loshchilov, Ilya and Hutter, Frank},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2019},
  eprint = {1711.05101},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True, repr=False, eq=False)
class TrainingWatch(Result):
    """A value through training, run by run, and why it moved.

    `run` and `seed` name a run in every table. A row of `steps` and `peaks` is the model after that
    many optimizer steps; a row of the other tables is that step itself, from 1.

    Attributes:
        steps: one row a look: `layer`, `dim`, `position` of the coordinate; `value` (signed, mean over
            the watched sequences), `median` magnitude of that layer's hidden state, `ratio`
            |value| / median; `loss` on the watched sequences, in nats; `sink_rate`.
        changes: one row a step taken apart: the `value` before it, its change as `predicted` to first
            order and as `measured`, and the `remainder`, measured less predicted: what is beyond
            first order.
        account: what `predicted` is made of: one row a `component` ("gradient" of this step,
            "momentum" carried over, weight "decay", "update" where these cannot be told apart,
            "rounding"), `tensor` and `kind` ("writer": the entries that write the value, "other"):
            `value` ⟨∇v, that part of the step⟩.
        writers: the weights into the dimension as one vector: norm of `weight`, `gradient`, `update`,
            `momentum` (first moment), mean of the `second` moment, and `value`, what the update of
            these weights alone does to the value, to first order; `layer` and `component` say which.
        neurons: the same for the single weights that write most, by `neuron`.
        losses: one row a step: training `loss` before it, in nats, and its `learning_rate`.
        peaks: the largest magnitude anywhere in the stream, after any layer, on the watched sequences:
            `layer`, `dim`, `position`, `value`, `median`, `ratio`, and whether that is `massive`.
        spread: over seeds, by `run`, `step` and `kind` ("value", "ratio", "loss", "sink_rate"): `mean`,
            `std`, `low` and `high` (smallest and largest), `count`.
        paired: the same for differences to the first run at the same seed, which met the same batches.
        runs: one row a run: `step` it reached, `status`, what the optimizer was given, and value and
            loss at its first and last look.
        order: which sequences each step trained on: `seed`, `step`, `row` of the batch, `document`,
            `index` of the piece of it.
        checkpoints: `step` and `path` of each folder that was kept.
    """

    kind: ClassVar[str] = "massive.training"
    citations: ClassVar[tuple[str, ...]] = (SUN, GU, KINGMA, LOSHCHILOV)

    steps: pd.DataFrame
    changes: pd.DataFrame
    account: pd.DataFrame
    writers: pd.DataFrame
    neurons: pd.DataFrame
    losses: pd.DataFrame
    peaks: pd.DataFrame
    spread: pd.DataFrame
    paired: pd.DataFrame
    runs: pd.DataFrame
    order: pd.DataFrame
    checkpoints: pd.DataFrame

    def to_folder(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write small Parquet files, one a table, and the provenance as JSON beside them.

        For a repository: readable without lensprobe, and by `from_folder`. Tables of more than a few
        thousand rows are kept in float32.

        Raises:
            OutputError: the folder holds a result already, or cannot be written.
        """
        tables = {name: getattr(self, name) for name in self.tables}
        return write_folder(folder, tables, self.provenance, overwrite=overwrite, narrow=True)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> Self:
        """The result that `to_folder` wrote.

        Raises:
            OutputError: there is none, or it is not whole.
        """
        names = [field.name for field in fields(cls) if field.name != "provenance"]
        tables, provenance = read_folder(folder, tuple(names))
        return cls(provenance=provenance, **tables)

    def contributions(self) -> pd.DataFrame:
        """The account by component alone: `run`, `seed`, `step`, `component`, `value`.

        At each step its sum over components is `predicted` of `changes`.
        """
        keys = ["run", "seed", "step", "component"]
        return pd.DataFrame(self.account.groupby(keys, as_index=False, sort=False)[["value"]].sum())

    def summary(self) -> dict[str, Any]:
        """Model, runs, and how far the value went in each run, mean over seeds."""
        facts: dict[str, Any] = {
            **super().summary(),
            "runs": int(self.runs["run"].nunique()),
            "seeds": int(self.runs["seed"].nunique()),
            "steps": int(self.runs["step"].max()),
        }
        rows = self.spread[self.spread["kind"] == "value"]
        for run, own in rows.groupby("run", sort=False):
            first, last = own.iloc[0], own.iloc[-1]
            facts[f"{run}: value"] = f"{first['mean']:.5g} → {last['mean']:.5g}"
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
