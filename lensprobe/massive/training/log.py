"""What one run has recorded so far, as rows of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["TABLES", "Log"]

TABLES = ("steps", "peaks", "losses", "account", "changes", "writers", "neurons", "checkpoints")


@dataclass
class Log:
    """Rows by table, all of them of steps that are over.

    Attributes:
        step: optimizer steps taken.
        status: `"running"`, `"finished"`, or `"diverged"` where the loss stopped being finite.
        notes: what a reader of the result should know.
        tables: rows by the name of their table.
    """

    step: int = 0
    status: str = "running"
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in TABLES}
    )
