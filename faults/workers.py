"""A worker that dies: a process, an actor of a Ray cluster, a node of one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import lensprobe as lp
from lensprobe.shards import on_ray
from lensprobe.shards.folder import Folder

from . import Fault
from ._clusters import actors, cluster, needed
from .scans import TEXTS, equal, finished, forked, pieces, small

__all__ = ["FAULTS"]

OPTIONS: dict[str, Any] = {
    "threshold": 0.05, "ratio": 4.0, "batch_tokens": 128, "length": 64, "progress": False
}  # fmt: skip
STOPPED, THROUGH = 3, 4
AGAIN = "is read again; the result is that of one process, bit for bit; nothing stays behind"


@cache
def _model() -> Any:
    # Its workers must be able to load it by its name.
    return lp.load("planted", device="cpu")


def _scan(**more: Any) -> Any:
    with small():
        return lp.massive.scan(_model(), TEXTS, **OPTIONS, **more)


@cache
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
    equal(found, alone)
    assert not multiprocessing.active_children()
    return "another read its piece; equal result" if killed else "was through before; equal result"


def interrupted(chance: random.Random, folder: Path) -> str:
    """Ctrl-C at a terminal: SIGINT to a scan and its workers at once, after a random time."""
    alone, seconds = _whole()
    out = folder / "run"

    def work() -> int:
        os.setpgid(0, 0)
        # Whatever started all this may have had its own reasons not to be interrupted.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        (folder / "begun").touch()
        try:
            _scan(out=out, workers=2)
        except (lp.Interrupted, KeyboardInterrupt):
            return 1 if multiprocessing.active_children() else STOPPED
        return THROUGH

    process = forked(work)
    while not (folder / "begun").exists():
        time.sleep(0.01)
    time.sleep(chance.uniform(0, seconds))
    os.killpg(process, signal.SIGINT)
    code = finished(process)
    assert code in (STOPPED, THROUGH), f"exit code {code}"
    kept = pieces(out)
    equal(_scan(out=out), alone)
    if code == THROUGH:
        return "was through before; equal result"
    return f"Interrupted, {'some' if kept else 'no'} pieces kept; the same call went on, and equal"


def actor_killed(chance: random.Random, folder: Path) -> str:
    """An actor is killed when some pieces have come back."""

    def kill(nodes: Any, second: Any) -> bool:
        found = actors()
        if found:
            chance.choice(found).kill()
        return bool(found)

    return _on_ray(chance, folder, kill)


def node_removed(chance: random.Random, folder: Path) -> str:
    """The second of two nodes is gone, its actor with it, and there is no room for another."""

    def remove(nodes: Any, second: Any) -> bool:
        own = {each.process.pid for each in second.all_processes["raylet"]}
        end = time.monotonic() + 60
        while not (gone := [each for each in actors() if each.ppid() in own]):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        nodes.remove_node(second, allow_graceful=False)
        return bool(gone)

    return _on_ray(chance, folder, remove)


def _on_ray(chance: random.Random, folder: Path, strike: Callable[[Any, Any], bool]) -> str:
    """A scan on two nodes; `strike` is called once, after a few pieces, and says if it could."""
    needed()
    alone, _ = _whole()
    left = chance.randrange(1, 5)
    save = Folder.save

    def work() -> int:
        struck = False

        def saving(self: Any, *given: Any) -> None:
            nonlocal left, struck
            save(self, *given)
            left -= 1
            if not left:
                struck = strike(*nodes)

        with (
            cluster() as nodes,
            mock.patch.object(Folder, "save", saving),
            # Sums are equal to the last bit at equal threads.
            mock.patch.object(on_ray, "_threads", return_value=1),
        ):
            equal(_scan(out=folder / "run", engine="ray", workers=2), alone)
        return 0 if struck else THROUGH

    # Ray's threads must not be there when another fault forks this process.
    process = forked(work)
    code = finished(process)
    assert code in (0, THROUGH), f"exit code {code}"
    equal(lp.open(folder / "run"), alone)
    return "its pieces were sent out again; equal result" if not code else "nothing to strike"


FAULTS = (
    Fault(
        "`kill -9` of a worker process at a random moment", f"its piece {AGAIN}",
        at_any_moment, trials=8, limit=300.0,
    ),
    Fault(
        "Ctrl-C (SIGINT) at a random moment of a scan with two workers",
        "both end, what is finished is kept, and the same call goes on and gives the same result",
        interrupted, trials=8, limit=300.0,
    ),
    Fault(
        "`kill -9` of an actor of a Ray cluster", f"its piece {AGAIN}",
        actor_killed, trials=2, limit=600.0,
    ),
    Fault(
        "a node of a two-node Ray cluster removed in the middle of a scan",
        f"what it had been given {AGAIN}", node_removed, trials=2, limit=600.0,
    ),
)  # fmt: skip
