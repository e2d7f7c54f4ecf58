"""The analyses that are disturbed: a tiny model, some texts, and what an undisturbed run gives."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from tiny_models import write_gpt2_folder

import lensprobe as lp
from lensprobe.shards import keeping

__all__ = [
    "KINDS",
    "TEXTS",
    "equal",
    "finished",
    "forked",
    "pieces",
    "scan",
    "small",
    "tiny",
    "whole",
]

TEXTS = [f"Hello world, this is number {n}. " * (1 + n % 5) for n in range(60)]
PIECE = 200
BLEND = {"layer": 1, "weight": 0.5, "length": 24}
ANALYSES: dict[str, Callable[..., Any]] = {
    "massive": partial(lp.massive.scan, threshold=0.05, ratio=4.0),
    "sinks": lp.sinks.scan,
    "difference": lambda model, texts, **more: lp.steering.difference(
        model, texts[::2], texts[1::2], method="pca", **more
    ),
    "score": partial(lp.interpolation.score, **BLEND),
    "surprise": partial(lp.interpolation.surprise, lags=1, **BLEND),
    "sweep": partial(lp.interpolation.sweep, layers=[0, 1], weights=[0.5], length=24),
}
KINDS = tuple(ANALYSES)
"""Whatever streams and keeps what is finished."""


@cache
def tiny() -> Any:
    """A random model so small that a scan takes a second."""
    return lp.load(write_gpt2_folder(Path(tempfile.mkdtemp(prefix="fault-model-"))), device="cpu")


@contextmanager
def small() -> Iterator[None]:
    """Pieces so small that a short scan has many."""
    with mock.patch.object(keeping, "PIECE_TOKENS", PIECE):
        yield


def scan(kind: str, out: Path, **options: Any) -> Any:
    """One of the analyses of the texts, kept in a folder."""
    given = {"batch_tokens": 128, "progress": False, **options}
    with small():
        return ANALYSES[kind](tiny(), TEXTS, out=out, **given)


@cache
def whole(kind: str) -> tuple[Any, float, int]:
    """The undisturbed result, how many seconds it takes, and how many bytes it writes."""
    with tempfile.TemporaryDirectory() as folder:
        scan(kind, Path(folder, "warm"))
        begin = time.monotonic()
        result = scan(kind, Path(folder, "run"))
        seconds = time.monotonic() - begin
        size = sum(f.stat().st_size for f in Path(folder, "run").rglob("*") if f.is_file())
        return result, seconds, size


def pieces(out: Path) -> int:
    """Finished pieces in a folder."""
    return len(list(out.rglob("shard-*.npz")))


def equal(one: Any, two: Any) -> None:
    """Bit for bit, tables, arrays and provenance.

    Raises:
        AssertionError: they differ.
    """
    assert one.provenance == two.provenance
    for table in one.tables:
        pd.testing.assert_frame_equal(one.to_frame(table), two.to_frame(table), check_exact=True)
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(two, name))


def forked(work: Callable[[], object]) -> int:
    """Run in a process of its own, which already has the model; returns its number."""
    tiny()
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        torch.set_num_threads(1)
        code = int(work() or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        # Not the parent's own end: its temporary folders and its tests are not this process's.
        os._exit(code)


def finished(number: int) -> int:
    """Wait for a process: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
