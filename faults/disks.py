"""A disk that is full, read-only, damaged, or somebody else's."""

from __future__ import annotations

import io
import os
import random
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import tqdm.std

import lensprobe as lp
from lensprobe.errors import OutputError
from lensprobe.models.adapter import adapter_for

from . import Fault, NotHereError
from .scans import KINDS, equal, finished, forked, pieces, scan, tiny, whole

__all__ = ["FAULTS", "damaged"]

REFUSED = 3


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Callable[..., None]]:
    """A small disk in memory; yields the call that mounts it anew with other options."""

    def mount(options: str, *more: str) -> None:
        command = ["mount", *more, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NotHereError(f"no tmpfs can be mounted ({done.stderr.strip()})")

    folder.mkdir()
    mount(f"size={size}k")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full(chance: random.Random, folder: Path) -> str:
    """A disk with room for a part of the states."""
    kind = chance.choice(KINDS)
    with mounted(folder / "disk", chance.randrange(16, whole(kind)[2] // 1024)) as again:
        out = folder / "disk" / "run"
        said = _refusal(lambda: scan(kind, out))
        if not said:
            return "it just fitted"
        assert "No space left" in said, said
        assert not list(out.rglob("*.part"))
        kept = pieces(out)
        again("size=64m")
        equal(scan(kind, out), whole(kind)[0])
        return (
            f"OutputError, {'some' if kept else 'no'} pieces kept; with room it went on, and equal"
        )


def read_only(chance: random.Random, folder: Path) -> str:
    """A folder in which nothing can be written, before a scan or in one that is to go on."""
    kind = chance.choice(KINDS)
    with mounted(folder / "disk", 65536) as again:
        out = folder / "disk" / "run"
        begun = chance.random() < 0.5
        if begun:
            _stopped(chance, kind, out)
        again("ro")
        assert _refusal(lambda: scan(kind, out)), "nothing was said"
        again("rw")
        equal(scan(kind, out), whole(kind)[0])
        when = "going on" if begun else "a new scan"
        return f"{when}: OutputError; once it could write, equal"


def _refusal(call: Callable[[], object]) -> str:
    """The words of the OutputError that a call ends with; "" where it does not."""
    try:
        call()
    except OutputError as error:
        return str(error)
    return ""


class _StopError(BaseException):
    pass


def _stopped(chance: random.Random, kind: str, out: Path) -> None:
    """A run that ends after some of its passes."""
    adapter = type(adapter_for(tiny()))
    real, left = adapter.run, chance.randrange(1, 12)

    def run(*given: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _StopError
        return real(*given, **options)

    with mock.patch.object(adapter, "run", run):
        try:
            scan(kind, out)
        except _StopError:
            return


def damaged(chance: random.Random, good: bytes) -> bytes:
    """The bytes cut short, with some of them changed, zeroed, or doubled."""
    begin = chance.randrange(len(good))
    end = min(len(good), begin + chance.choice((1, 2, 8, 64, 4096)))
    return chance.choice(
        (
            good[:begin],
            good[:begin]
            + bytes(b ^ chance.randrange(1, 256) for b in good[begin:end])
            + good[end:],
            good[:begin] + bytes(end - begin) + good[end:],
            good[:end] + good[begin:],
        )
    )


def damaged_shard(chance: random.Random, folder: Path) -> str:
    """A finished scan, some of whose pieces hold other bytes than were written."""
    kind = chance.choice(KINDS)
    out = folder / "run"
    scan(kind, out)
    shards = sorted(out.rglob("shard-*.npz"))
    for shard in chance.sample(shards, chance.randrange(1, 4)):
        shard.write_bytes(damaged(chance, shard.read_bytes()))
    equal(scan(kind, out), whole(kind)[0])
    return "read again where damaged, and equal"


def truncated_parquet(chance: random.Random, folder: Path) -> str:
    """A saved result, one of whose Parquet tables is cut short, in a zip file that is whole."""
    # Steering vectors are kept without tables.
    result = whole(chance.choice([kind for kind in KINDS if kind != "difference"]))[0]
    good = result.save(folder / "good.zip")
    bad = io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        victim = chance.choice([name for name in old.namelist() if name.endswith(".parquet")])
        for name in old.namelist():
            content = old.read(name)
            new.writestr(
                name, content[: chance.randrange(len(content))] if name == victim else content
            )
    (folder / "bad.zip").write_bytes(bad.getvalue())
    return _opened(folder / "bad.zip")


def damaged_result(chance: random.Random, folder: Path) -> str:
    """The finished result beside the pieces is damaged, then the call is made again."""
    kind = chance.choice(KINDS)
    out = folder / "run"
    scan(kind, out)
    (file,) = out.glob("result.*")
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])
    _opened(file)
    equal(scan(kind, out), whole(kind)[0])
    equal(lp.open(out), whole(kind)[0])
    return "OutputError; the call wrote it again, equal"


def _opened(file: Path) -> str:
    assert _refusal(lambda: lp.open(file)), "a damaged file was read as if it were whole"
    return "OutputError"


def clock(chance: random.Random, folder: Path) -> str:
    """The clock goes back an hour at every look, files are dated tomorrow, and a scan goes on."""
    kind = chance.choice(KINDS)
    out = folder / "run"
    _stopped(chance, kind, out)
    now = time.time()
    for file in out.rglob("*"):
        os.utime(file, (now + 86400, now + 86400))
    looks = iter(range(10**9))

    def back() -> float:
        return now - 3600.0 * next(looks)

    with mock.patch.object(time, "time", back), mock.patch.object(tqdm.std, "time", back):
        found = scan(kind, out, progress=True)
    equal(found, whole(kind)[0])
    return "went on, and equal"


def two_at_once(chance: random.Random, folder: Path) -> str:
    """Two processes make the same call with the same folder, nearly at the same time."""
    kind = chance.choice(KINDS)
    out = folder / "run"

    def work() -> int:
        try:
            equal(scan(kind, out), whole(kind)[0])
        except OutputError as error:
            return REFUSED if "another run is working" in str(error) else 1
        return 0

    whole(kind)
    first = forked(work)
    time.sleep(chance.uniform(0, 1.2 * whole(kind)[1]))
    codes = sorted([finished(forked(work)), finished(first)])
    assert codes in ([0, 0], [0, REFUSED]), codes
    equal(lp.open(out), whole(kind)[0])
    return (
        "one refused, one equal"
        if REFUSED in codes
        else "the later one took over what was finished"
    )


def two_runs(chance: random.Random, folder: Path) -> str:
    """A scan with another option, other texts, or another analysis in a folder that is taken."""
    out = folder / "run"
    _stopped(chance, "massive", out)
    other = chance.choice(
        (
            lambda: scan("massive", out, length=chance.randrange(8, 64)),
            lambda: scan("massive", out, batch_tokens=64),
            lambda: scan("massive", out, ratio=9.0),
            lambda: scan("sinks", out),
        )
    )
    said = _refusal(other)
    assert "holds another run" in said, said or "another run was mixed in"
    equal(scan("massive", out), whole("massive")[0])
    return "refused by name; the first run went on, and equal"


FAULTS = (
    Fault("disk full in a scan", "OutputError, nothing half-written; goes on", full, 10, 1),
    Fault("read-only folder", "OutputError; goes on when it can write", read_only, 6, 0),
    Fault("damaged pieces (cut, changed, zeroed, doubled bytes)",
          "seen, read again; result equal", damaged_shard, 20, 0),
    Fault("truncated Parquet in a saved result", "OutputError", truncated_parquet, 100, 10),
    Fault("damaged result beside the pieces", "OutputError; written again", damaged_result, 10, 0),
    Fault("clock going backwards, files of tomorrow", "goes on, equal", clock, 5, 1),
    Fault("two scans in one folder at once",
          "the second refuses or takes over; never mixed", two_at_once, 10, 1),
    Fault("another run in a folder that is taken", "refused, the first unharmed", two_runs, 10, 0),
)  # fmt: skip
