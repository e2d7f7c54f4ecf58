"""Interleaved timing, and the sections of RESULTS.md."""

from __future__ import annotations

import datetime
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "RESULTS.md"


def interleaved(
    rivals: dict[str, Callable[[], object]], repeats: int, *, warm: bool = True
) -> dict[str, float]:
    """Median seconds of each rival, run in turn so that a drift of the machine meets all alike.

    One unrecorded round comes first, but for runs so long that it would not show.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(0 if warm else 1, repeats + 1):
        for name, run in rivals.items():
            gc.collect()
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    for name, values in seconds.items():
        spread = (max(values) - min(values)) / statistics.median(values)
        print(f"{name:>28}  median {statistics.median(values):8.3f} s  spread {spread:5.1%}")
    return {name: statistics.median(values) for name, values in seconds.items()}


def record(
    name: str, what: str, rows: list[tuple[str, float, float | None]], *, write: bool
) -> None:
    """Print `(label, measured, limit)` rows; with `write` replace the section in RESULTS.md."""
    lines = [f"## {name}", "", what + ".", "", _machine(), "", "| measured | value | wanted |"]
    lines += ["|---|---|---|"]
    for label, value, limit in rows:
        wanted = "" if limit is None else f"at most {limit:g}"
        lines.append(f"| {label} | {_shown(value)} | {wanted} |")
    section = "\n".join(lines) + "\n"
    print("\n" + section)
    if write:
        old = RESULTS.read_text() if RESULTS.exists() else "# Last results\n"
        pattern = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.M | re.S)
        body = pattern.sub("", old).rstrip() + "\n\n" + section
        RESULTS.write_text(body)


def _shown(value: float) -> str:
    """Three places, or three digits where three places would hide the number."""
    return f"{value:.3f}" if abs(value) >= 0.01 or not value else f"{value:.2e}"


def _machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        processor = found[1] if found else processor
    today = datetime.date.today().isoformat()
    return (
        f"{today}, {processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}."
    )
