"""What a call would cost: the answer of every `dry_run=True`, and how its parts are measured."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from typing_extensions import Self

from .results import Result

__all__ = ["PeakMemory", "Plan", "free_memory", "measured", "release_freed"]


@dataclass(frozen=True, repr=False, eq=False)
class Plan(Result):
    """The cost of a call that was not run.

    Attributes:
        costs: one row: `documents`, `sequences`, `tokens`, `passes` (forward passes), `seconds`
            (estimated for all of them) and `memory` (bytes of the process at the peak of one pass,
            on a GPU those of the device), both measured on one batch.
    """

    kind: ClassVar[str] = "plan"

    costs: pd.DataFrame

    def summary(self) -> dict[str, float | int | str | bool]:
        """The costs as flat scalars."""
        row = self.costs.iloc[0]
        counts = {name: int(row[name]) for name in ("documents", "sequences", "tokens", "passes")}
        return {
            **super().summary(),
            **counts,
            "seconds": float(row["seconds"]),
            "memory": int(row["memory"]),
        }

    @property
    def seconds(self) -> float:
        """Estimated time of the call."""
        return float(self.costs["seconds"].iloc[0])

    @property
    def memory(self) -> int:
        """Bytes at the peak of one pass."""
        return int(self.costs["memory"].iloc[0])


def measured(
    first: Callable[[], object], batch: Callable[[], object], device: torch.device
) -> tuple[float, int]:
    """Seconds and peak bytes of one batch, after a first pass that warms the process up.

    The first pass of a process also pays for loading kernels and filling pools.
    """
    first()
    with PeakMemory(device) as peak:
        begin = time.perf_counter()
        batch()
        seconds = time.perf_counter() - begin
    return seconds, peak.bytes


class PeakMemory:
    """The largest size of the process inside a `with` block; on CUDA, of its allocations."""

    bytes: int = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, resident())

    def __exit__(self, *details: Any) -> None:
        if self._thread is None:
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident())


def release_freed() -> None:
    """Hand memory that was freed back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where the system does not say.

    In main memory what the machine and the process's control group leave, whichever is less.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(
        (free for free in (_machine_free(), _group_free()) if free is not None), default=None
    )


def _machine_free() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return None


def _group_free() -> int | None:
    """What a container's limit leaves, page cache that could be given back not counted."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        lines = (group / "memory.stat").read_text().splitlines()
        kept = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return int(limit) - int(used) + kept
    except (OSError, StopIteration, ValueError):
        # No control groups of the second kind, or no limit ("max").
        return None


def resident() -> int:
    """Bytes the process holds now; where the system does not say, the most it ever held."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        if sys.platform == "win32":
            return 0
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
