"""Readers for the processes of `test_workers.py`; without a model, so that a process is up soon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lensprobe.errors import ModelError

Read = Callable[[Sequence[Any]], tuple[dict[str, np.ndarray], list[str]]]


def summing(number: int) -> Read:
    """The sum of what it is given, and who did it."""

    def read(windows: Sequence[int]) -> tuple[dict[str, np.ndarray], list[str]]:
        if 13 in windows:
            raise ValueError("13 of all numbers")
        return {"sum/value": np.array(sum(windows))}, [f"worker {number}"]

    return read


def dying(folder: str, at: int, number: int) -> Read:
    """The same, but killed over the piece that holds `at`, as often as there are files in a folder."""
    read = summing(number)

    def killed(windows: Sequence[int]) -> tuple[dict[str, np.ndarray], list[str]]:
        left = sorted(Path(folder).iterdir())
        if at in windows and left:
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(windows)

    return killed


def missing(number: int) -> Read:
    """A model that cannot be loaded."""
    raise ModelError("no such model here")


def interrupted() -> None:
    """Ctrl-C, before anything here has said what happens then."""
    os.kill(os.getpid(), signal.SIGINT)
