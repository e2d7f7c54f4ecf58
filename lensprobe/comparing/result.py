"""What a comparison holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..results import Result

__all__ = ["Comparison"]


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(Result):
    """The same analysis of several models, or of one model under several settings.

    `model` is the label that the caller gave, everywhere.

    Attributes:
        values: one row a cell, `measure` and `model`. A cell is what the compared table tells apart
            (`layer`, `head`, `factor`, ...). `depth` is layer / (layers - 1): 0 at a model's first
            block, 1 at its last. `value` with `low`, `high`, and its `change` from the first model
            with `change_low`, `change_high`: 95% bootstrap over `count` documents, paired in the
            change. Of a result without rows by document, `low` and `high` are its own where it has
            them, the change has none, and `count` is 0.
        models: one row a model, in order: `model`, its `source` and `revision`, `error` (empty where
            all went well), and the scalars of its result's `summary()`.
        settings: what was not the same for all: `setting`, `model`, `value`, as text.
        citations_of: the BibTeX of the compared results.
        analysis: their kind.
        table: which of their tables it is.
    """

    kind: ClassVar[str] = "comparison"

    values: pd.DataFrame
    models: pd.DataFrame
    settings: pd.DataFrame
    citations_of: list[str]
    analysis: str
    table: str

    def summary(self) -> dict[str, Any]:
        """The models, what was compared, and how many failed."""
        facts: dict[str, Any] = {
            **super().summary(),
            "analysis": self.analysis,
            "table": self.table,
            "models": len(self.models),
            "measures": ", ".join(dict.fromkeys(self.values["measure"])),
        }
        failed = int((self.models["error"] != "").sum())
        return {**facts, "failed": failed} if failed else facts

    def cite(self) -> str:
        """BibTeX of the papers whose definitions the compared results follow."""
        return "\n\n".join(self.citations_of)
