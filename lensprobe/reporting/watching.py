"""Which tables a figure is drawn from, found by looking on while it is drawn."""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["Watched"]


class Watched:
    """A result that remembers which of its tables were asked for."""

    def __init__(self, result: Any) -> None:
        self._result = result
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._result, name)
        if isinstance(value, pd.DataFrame):
            self.read.add(name)
        return value
