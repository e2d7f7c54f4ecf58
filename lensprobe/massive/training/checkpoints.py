"""One analysis over the checkpoints of a training, one model at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ...errors import ArgumentError, Interrupted
from ...models.turns import named, used
from ...results import Result
from ...running.batching import progress_bar
from ..result import SUN
from ..scan import scan

__all__ = ["CheckpointSeries", "over_checkpoints"]

STEP = re.compile(r"step[-_ ]?(\d+)")
"""How Pythia's revisions (`step1000`) and this library's folders (`step-00001000`) say their step."""

BIDERMAN = """@inproceedings{biderman2023pythia,
  title = {Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling},
  author = {Biderman, Stella and Schoelkopf, Hailey and Anthony, Quentin and Bradley, Herbie and
    O'Brien, Kyle and Hallahan, Eric and Khan, Mohammad Aflah and Purohit, Shivanshu and
    Prashanth, USVSN Sai and Raff, Edward and Skowron, Aviya and Sutawika, Lintang and
    van der Wal, Oskar},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2023},
  eprint = {2304.01373},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True, repr=False, eq=False)
class CheckpointSeries(Result):
    """The same analysis of several checkpoints.

    Attributes:
        checkpoints: one row a checkpoint, in the order given: `source`, `revision`, `step` (NaN where
            the name says none), `error` (empty where it worked), and the numbers of the analysis's
            `summary()`.
        values: one table of each analysis, one under the other, with `source` and `step` in front.
        table: which table that is.
        analysis: the kind of result the analysis gave.
    """

    kind: ClassVar[str] = "massive.checkpoints"
    citations: ClassVar[tuple[str, ...]] = (SUN, BIDERMAN)

    checkpoints: pd.DataFrame
    values: pd.DataFrame
    table: str
    analysis: str

    def summary(self) -> dict[str, Any]:
        """How many checkpoints there are and how many failed."""
        failed = int((self.checkpoints["error"] != "").sum())
        facts: dict[str, Any] = {
            **super().summary(),
            "analysis": self.analysis,
            "checkpoints": len(self.checkpoints),
            "failed": failed,
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


def over_checkpoints(
    sources: Any,
    texts: Any,
    *,
    analysis: Callable[[Any, Any], Result] | None = None,
    table: str | None = None,
    device: Any = None,
    dtype: Any = "auto",
    progress: bool | None = None,
) -> CheckpointSeries:
    """Load one checkpoint after another, run an analysis on it, and let it go again.

    Args:
        sources: names or folders as `lp.load` takes them, a hub id with its revision as
            "name@revision" ("EleutherAI/pythia-70m@step1000"), or the folder of one run of
            `train_and_watch`, which stands for the checkpoints in it.
        texts: handed to the analysis; texts that can be read only once are kept.
        analysis: a function of a model and texts that returns a result; None is `lp.massive.scan`.
            Options go in with `functools.partial`.
        table: which of the result's tables is kept for every checkpoint; None is its first.
        device: as in `lp.load`.
        dtype: as in `lp.load`.
        progress: True, False, or None for a bar when it takes long.

    A checkpoint that cannot be loaded or analysed becomes a row with its error.

    Raises:
        ArgumentError: no sources, or something that names none; an `analysis` that is no function, or
            gives no result; a table it does not have.
        Interrupted: Ctrl-C; `.partial` holds the checkpoints that were finished.

    Examples:
        >>> series = lp.massive.over_checkpoints(["planted"], "The cat sat on the mat.")
        >>> series.to_frame()[["source", "dim", "layer"]].values.tolist()
        [['planted', 447, 1]]
    """
    names = _listed(sources)
    if analysis is not None and not callable(analysis):
        raise ArgumentError(
            f"analysis={analysis!r}: a function of a model and texts, such as lp.sinks.scan."
        )
    if isinstance(texts, Iterable) and not hasattr(texts, "__len__"):
        texts = list(texts)
    series = _Series(analysis or scan, table, len(names))
    with progress_bar("checkpoint", progress, total=len(names)) as bar:
        for name in names:
            bar.set_postfix_str(Path(name).name)
            try:
                series.add(name, texts, device, dtype)
            except KeyboardInterrupt as interrupt:
                raise Interrupted(
                    f"interrupted after {len(series.rows)} of {len(names)} checkpoints.",
                    partial=series.result(),
                ) from interrupt
            bar.update(1)
    return series.result()


class _Series:
    """What the checkpoints so far have left: rows and frames, no model."""

    def __init__(self, analysis: Callable[[Any, Any], Any], table: str | None, total: int):
        self.analysis = analysis
        self.table = table
        self.total = total
        self.kind = ""
        self.rows: list[dict[str, Any]] = []
        self.frames: list[pd.DataFrame] = []
        self.provenance: dict[str, Any] = {}

    def add(self, name: str, texts: Any, device: Any, dtype: Any) -> None:
        """Analyse one checkpoint; whatever goes wrong with it is its row."""
        source, revision = named(name)
        found = STEP.search(revision or Path(source).name)
        row: dict[str, Any] = {
            "source": source,
            "revision": revision or "",
            "step": float(found.group(1)) if found else np.nan,
            "error": "",
        }
        try:
            result = used(
                name, lambda model: self.analysis(model, texts), device=device, dtype=dtype
            )
        except KeyboardInterrupt:
            # An analysis that says what it had so far is an exception of both kinds.
            raise
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        else:
            self._take(name, row, result)
        self.rows.append(row)

    def _take(self, name: str, row: dict[str, Any], result: Any) -> None:
        if not isinstance(result, Result):
            raise ArgumentError(f"analysis: it returned {type(result).__name__}, not a result.")
        frame = result.to_frame(self.table)
        row |= {key: fact for key, fact in result.summary().items() if key != "model"}
        frame.insert(0, "source", name)
        # A table of steps of its own keeps them.
        if "step" not in frame:
            frame.insert(1, "step", row["step"])
        self.frames.append(frame)
        self.kind = result.kind
        self.provenance = self.provenance or dict(result.provenance)
        self.table = self.table or result.tables[0]

    def result(self) -> CheckpointSeries:
        """What there is by now."""
        values = pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame()
        facts = {
            key: value
            for key, value in self.provenance.items()
            if key not in ("model", "revision", "source", "complete")
        }
        return CheckpointSeries(
            provenance={
                "notes": [],
                **facts,
                "model": self.rows[0]["source"] if self.rows else "none",
                "sources": [row["source"] for row in self.rows],
                "complete": len(self.rows) == self.total,
            },
            checkpoints=pd.DataFrame(self.rows, columns=_columns(self.rows)),
            values=values,
            table=self.table or "",
            analysis=self.kind,
        )


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    first = ["source", "revision", "step", "error"]
    return list(dict.fromkeys([*first, *(key for row in rows for key in row)]))


def _listed(sources: Any) -> list[str]:
    if isinstance(sources, str | os.PathLike):
        inside = _kept_in(Path(sources))
        found: list[Any] = inside or [sources]
    elif isinstance(sources, Iterable):
        found = list(sources)
    else:
        found = []
    if not found:
        raise ArgumentError("sources: names or folders of checkpoints, at least one.")
    for one in found:
        if not isinstance(one, str | os.PathLike):
            raise ArgumentError(f"sources: {one!r} is neither a name nor a folder.")
    return [os.fspath(one) for one in found]


def _kept_in(folder: Path) -> list[Path]:
    """The checkpoints in the folder of a run, in order."""
    try:
        if not folder.is_dir() or (folder / "config.json").exists():
            return []
        return sorted(path for path in folder.iterdir() if STEP.fullmatch(path.name))
    except OSError:
        return []
