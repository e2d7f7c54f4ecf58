"""How far a long call is: a bar for people, or lines of JSON for other programs."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm
from typing_extensions import Self

from ..errors import ArgumentError
from ..settings import Progress, current

__all__ = ["progress_bar"]

PATIENCE = 5.0
"""Seconds before a progress bar shows itself."""
EVERY = 1.0
"""Seconds between two lines of JSON."""
RECENT = 60
"""Lines over which the rate is taken."""


class _Lines:
    """The part of tqdm's face that analyses use, as JSON on standard error."""

    def __init__(self, unit: str, total: float | None = None) -> None:
        self.unit = unit
        self.total = total
        self.n: float = 0
        self._note = ""
        # The rate is that of the last lines: what an earlier run had done is not counted as fast.
        self._told: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._told or self._told[-1][1] != self.n:
            self._tell()

    def update(self, n: float = 1) -> None:
        """So much more is done."""
        self.n += n
        if not self._told or time.monotonic() - self._begin - self._told[-1][0] >= EVERY:
            self._tell()

    def set_postfix_str(self, note: str) -> None:
        """Words on what is being done now."""
        self._note = note

    def set_postfix(self, **values: Any) -> None:
        """Numbers beside the count."""
        self._note = ", ".join(f"{name}={value}" for name, value in values.items())

    def _tell(self) -> None:
        seconds = time.monotonic() - self._begin
        before, done = self._told[0] if self._told else (0.0, 0.0)
        self._told.append((seconds, self.n))
        rate = (self.n - done) / (seconds - before) if seconds > before else None
        left = None
        if rate and self.total is not None:
            left = max(0.0, self.total - self.n) / rate
        facts = {
            "done": self.n,
            "total": self.total,
            "unit": self.unit,
            "rate": _rounded(rate),
            "seconds": _rounded(seconds),
            "seconds_left": _rounded(left),
            **({"note": self._note} if self._note else {}),
        }
        print(json.dumps(facts), file=sys.stderr, flush=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def progress_bar(unit: str, progress: Progress | None, **options: Any) -> Any:
    """A tqdm bar: shown, not shown, with None shown once a call takes long; or lines of JSON.

    A line has `done` and `total` (None while it is not known) in `unit`, `rate` (units a second, of
    late), `seconds` and `seconds_left`. It is written at most once a second, and at the end.

    Raises:
        ArgumentError: `progress` is neither True, False, None nor "json".
    """
    shown = current("progress", progress)
    if shown not in (True, False, None, "json"):
        raise ArgumentError(f'progress={shown!r}: True, False, None or "json".')
    if shown == "json":
        return _Lines(unit, options.get("total"))
    # tqdm's own rule for None: silent where the output is not a terminal.
    disable = None if shown is None else not shown
    delay = PATIENCE if shown is None else 0.0
    return tqdm(unit=unit, disable=disable, delay=delay, leave=False, **options)
