"""What the documentation says about columns, and which columns a result's tables have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lensprobe.results import Result

PAGE = Path(__file__).parents[1] / "docs" / "columns.md"


def documented() -> set[str]:
    """The names that the page defines: those on the lines before its definitions."""
    text = PAGE.read_text(encoding="utf-8")
    return {
        name
        for line in re.findall(r"^(`.*)\n: ", text, re.M)
        for name in re.findall(r"`(\w+)`", line)
    }


def columns(result: Any) -> set[str]:
    """The columns of all tables of a result, and of the results in it."""
    if not isinstance(result, Result):
        return set()
    own = {str(name) for table in result.tables for name in result.to_frame(table).columns}
    return own.union(*(columns(part) for part in vars(result).values()))


def unknown(result: Any) -> set[str]:
    """Columns that the page does not define; `plain_` there stands for all that begin so."""
    known = documented()
    families = tuple(name for name in known if name.endswith("_"))
    return {name for name in columns(result) - known if not name.startswith(families)}
