"""A run that is killed: a scan, a steering difference, interpolated scores, surprise or sweeps."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from pathlib import Path

from . import Fault
from .scans import KINDS, equal, finished, forked, pieces, scan, whole

__all__ = ["FAULTS"]

PROMISE = (
    "the same call goes on and gives the uninterrupted result, bit for bit; nothing half-written"
)


class _Dying(io.BufferedWriter):
    """A file in whose middle the process dies, when so many bytes have been written in all."""

    left = 0

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # pyright: ignore[reportArgumentType]
        if _Dying.left < len(view):
            super().write(view[: _Dying.left])
            self.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        _Dying.left -= len(view)
        return super().write(view)


def any_moment(chance: random.Random, folder: Path) -> str:
    """Killed from outside, after a random time."""
    kind = chance.choice(KINDS)
    moment = chance.uniform(0, whole(kind)[1])
    process = forked(lambda: scan(kind, folder / "run") and 0)
    time.sleep(moment)
    os.kill(process, signal.SIGKILL)
    finished(process)
    return _goes_on(kind, folder / "run")


def while_writing(chance: random.Random, folder: Path) -> str:
    """Killed at a random byte of what a scan writes: manifest, pieces, or result."""
    kind = chance.choice(KINDS)
    _Dying.left = chance.randrange(whole(kind)[2])

    def work() -> None:
        os.fdopen = lambda number, mode: _Dying(io.FileIO(number, mode))
        scan(kind, folder / "run")

    # The last bytes may be a repetition that the first run did not write; that one then finishes.
    assert finished(forked(work)) in (-signal.SIGKILL, 0)
    return _goes_on(kind, folder / "run")


def before_the_name(chance: random.Random, folder: Path) -> str:
    """Killed when a file is whole on the disk, and has not got its name."""
    kind = chance.choice(KINDS)
    left = chance.randrange(12)
    rename = os.replace

    def replace(*names: str) -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        rename(*names)

    def work() -> None:
        os.replace = replace
        scan(kind, folder / "run")

    assert finished(forked(work)) in (-signal.SIGKILL, 0)
    return _goes_on(kind, folder / "run")


def again_and_again(chance: random.Random, folder: Path) -> str:
    """One scan that is killed up to twelve times."""
    kind = chance.choice(KINDS)
    killed = 0
    for _ in range(12):
        moment = chance.uniform(0, 0.4 * whole(kind)[1])
        process = forked(lambda: scan(kind, folder / "run") and 0)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        killed += finished(process) == -signal.SIGKILL
    assert killed
    _goes_on(kind, folder / "run")
    return "went on each time, and equal"


def _goes_on(kind: str, out: Path) -> str:
    kept = pieces(out)
    done = any(out.glob("result.*"))
    equal(scan(kind, out), whole(kind)[0])
    left = [file.name for file in out.rglob("*.part")]
    assert not left, f"half-written files stay: {left}"
    when = "after the end" if done else "some pieces kept" if kept else "no piece kept yet"
    return f"{when}: went on, and equal"


FAULTS = (
    Fault("`kill -9` at a random moment of a scan", PROMISE, any_moment, 20, 2),
    Fault("`kill -9` at a random byte of a file being written", PROMISE, while_writing, 20, 2),
    Fault("`kill -9` between writing a file and naming it", PROMISE, before_the_name, 10, 1),
    Fault("`kill -9` again and again", PROMISE, again_and_again, 3, 0),
)
