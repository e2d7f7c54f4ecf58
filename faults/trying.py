"""One fault, tried n times: outcomes counted, broken promises kept as words."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import Fault, NotHereError

__all__ = ["Outcome", "attempt"]


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        fault: which.
        outcomes: words to how often they came back.
        broken: what was raised where the promise did not hold, one line each.
        missing: why it could not be tried; "" where it could.
        seconds: all trials together.
    """

    fault: Fault
    outcomes: Counter[str]
    broken: tuple[str, ...]
    missing: str
    seconds: float

    @property
    def tried(self) -> int:
        """Trials that were made."""
        return self.outcomes.total() + len(self.broken)


def attempt(fault: Fault, trials: int) -> Outcome:
    """Try a fault so many times; only Ctrl-C of the person at the keyboard ends it early."""
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    missing = ""
    begin = time.monotonic()
    for number in range(trials):
        try:
            with tempfile.TemporaryDirectory(prefix="fault-") as folder, _limited(fault.limit):
                outcomes[fault.trial(random.Random(f"{fault.name} {number}"), Path(folder))] += 1
        except NotHereError as reason:
            missing = str(reason)
            break
        except Exception as error:
            # A broken promise is a finding, and belongs in the table.
            broken.append(f"trial {number}: {type(error).__name__}: {error}".splitlines()[0])
    return Outcome(fault, outcomes, tuple(broken), missing, time.monotonic() - begin)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def hanging(*_: Any) -> None:
        raise TimeoutError(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, hanging)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
