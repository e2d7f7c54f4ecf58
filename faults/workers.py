"""A worker that dies."""

from __future__ import annotations

import functools
import multiprocessing
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lensprobe as lp
from lensprobe.shards import keeping

from . import Fault

__all__ = ["FAULTS"]

TEXTS = [f"Hello world, this is number {n}. " * (1 + n % 5) for n in range(60)]
OPTIONS: dict[str, Any] = {
    "threshold": 0.05, "ratio": 4.0, "batch_tokens": 128, "length": 64, "progress": False
}  # fmt: skip


@functools.cache
def _model() -> Any:
    return lp.load("planted", device="cpu")


def _scan(**more: Any) -> Any:
    before, keeping.PIECE_TOKENS = keeping.PIECE_TOKENS, 200
    try:
        return lp.massive.scan(_model(), TEXTS, **OPTIONS, **more)
    finally:
        keeping.PIECE_TOKENS = before


@functools.cache
def _whole() -> tuple[Any, float]:
    """What one process finds, and how long two workers take for it."""
    folder = Path(tempfile.mkdtemp(prefix="fault-workers-"))
    alone = _scan(out=folder / "alone")
    begin = time.monotonic()
    _scan(out=folder / "two", workers=2)
    return alone, time.monotonic() - begin


def at_any_moment(chance: random.Random, folder: Path) -> str:
    """One of two workers is killed after a random time, while it starts or while it reads."""
    alone, seconds = _whole()
    killed: list[str] = []

    def kill() -> None:
        for process in chance.sample(multiprocessing.active_children(), 1):
            process.kill()
            killed.append("killed")

    timer = threading.Timer(chance.uniform(0.5, 0.9 * seconds), kill)
    timer.start()
    try:
        found = _scan(out=folder / "run", workers=2)
    finally:
        timer.cancel()
    assert found.provenance == alone.provenance
    for table in alone.tables:
        assert found.to_frame(table).equals(alone.to_frame(table)), table
    assert not multiprocessing.active_children()
    return "another read its piece; equal result" if killed else "was through before; equal result"


FAULTS = (
    Fault(
        "`kill -9` of a worker process at a random moment",
        "its piece is read again, the result is that of one process, bit for bit; no process stays",
        at_any_moment,
        trials=5,
        limit=300.0,
    ),
)
