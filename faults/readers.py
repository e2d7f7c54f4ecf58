"""Files that lie: damaged, foreign, or made to harm."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import lensprobe as lp
from lensprobe.corpus import Corpus
from lensprobe.errors import LensprobeError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.sources import find
from lensprobe.shards.files import read_state, write_state
from lensprobe.shards.folder import Folder
from lensprobe.steering import SteeringVector, SteeringVectors

from . import Fault
from .disks import damaged
from .scans import KINDS, scan, tiny

__all__ = ["FAULTS", "READERS", "Reader", "read"]

EXTREMES = (0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**64 - 1)
FORBIDDEN = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen",
             "socket.connect", "shutil.rmtree", "ctypes.dlopen"}  # fmt: skip
"""What a file must never bring about, as Python's own audit hooks see it."""
PROMISE = "read, or refused with an error of lensprobe's; no crash, no hang, nothing run"
_seen: list[str] | None = None


@dataclass(frozen=True)
class Reader:
    """Something that reads files of others.

    Attributes:
        name: in words.
        suffix: of the file that is written for it.
        call: reads the file in that place.
        seeds: whole files to begin with.
    """

    name: str
    suffix: str
    call: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]


def read(reader: Reader, content: bytes, folder: Path) -> str:
    """Write the bytes and read them.

    Raises:
        AssertionError: the file brought something about.
        Exception: anything but an error of lensprobe's got through.
    """
    global _seen
    _watch()
    file = folder / f"file{reader.suffix}"
    file.write_bytes(content)
    _seen = []
    try:
        reader.call(file)
        told = "read"
    except LensprobeError as error:
        told = type(error).__name__
    finally:
        events, _seen = _seen, None
    assert not events, f"reading brought about {events}"
    return told


@cache
def _watch() -> None:
    def hook(event: str, details: tuple[Any, ...]) -> None:
        if _seen is not None and event in FORBIDDEN:
            _seen.append(event)

    sys.addaudithook(hook)


class _Payload:
    """Unpickling this would call a function; which one is seen before it is called."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sorted, ([],)


def _vectors(suffix: str) -> list[bytes]:
    one = SteeringVector(np.arange(8.0), 3, provenance={"model": "m", "notes": ["é"]})
    many = SteeringVectors([one, SteeringVector(np.ones(8), 5, provenance={"x": {"y": 1}})])
    with tempfile.TemporaryDirectory() as folder:
        files = [v.save(Path(folder, f"{n}{suffix}")) for n, v in enumerate((one, many))]
        return [*(file.read_bytes() for file in files), pickle.dumps(_Payload())]


def _shards() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        scan("massive", Path(folder, "run"))
        files = sorted(Path(folder, "run").glob("shard-*.npz"))[:2]
        states = [file.read_bytes() for file in files]
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([_Payload()], dtype=object))
    return [*states, buffer.getvalue(), pickle.dumps(_Payload())]


def _results() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        saved = scan("sinks", Path(folder, "run")).save(Path(folder, "r.zip"))
        good = saved.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("result.json", json.dumps({"format": 1, "kind": "score", "fields": {}}))
        archive.writestr("a.npy", _pickled_array())
    return [good, buffer.getvalue(), pickle.dumps(_Payload())]


def _pickled_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Payload()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _documents() -> list[bytes]:
    # Loaded now, so that nothing it does is taken for something that a file brought about.
    tiny()
    lines: list[Any] = ["words", {"text": "a record"}, [1, 2, 3], {"text": None}, 1e308, [[1]], {}]
    lines += [
        [{"role": "user", "content": "hi"}],
        "\ud800",
        "\u202e\x00",
        [2**70],
        [True],
        {"text": 3},
    ]
    each = [json.dumps(line).encode() + b"\n" for line in lines]
    return [
        *each,
        b"".join(each),
        b"[" * 100_000,
        b'{"text":' * 50_000,
        b'\xef\xbb\xbf"bom"\n',
        b"1" * 9999,
    ]


def _read_shard(file: Path) -> None:
    identity: dict[str, Any] = {"a": 1}
    with Folder(file.parent / "run", identity) as folder:
        place = folder.path / "shard-000000.npz"
        place.write_bytes(file.read_bytes())
        kept = folder.load(0)
    assert kept is None or isinstance(kept.facts, dict)


def _read_documents(file: Path) -> None:
    for _ in Corpus(adapter_for(tiny()), file, limit=50).windows():
        pass


def _read_model(file: Path) -> None:
    find(str(file))


SAFE, GGUF = ".safetensors", ".gguf"
READERS = {
    reader.name: reader
    for reader in (
        Reader("vectors, .safetensors", SAFE, lp.open, lambda: _vectors(SAFE)),
        Reader("vectors, .gguf", GGUF, lp.open, lambda: _vectors(GGUF)),
        Reader("pieces of a scan", ".npz", _read_shard, _shards),
        Reader("saved results (zip, JSON, npy, Parquet)", ".zip", lp.open, _results),
        Reader("documents, .jsonl", ".jsonl", _read_documents, _documents),
        Reader("documents, .txt", ".txt", _read_documents, _documents),
        Reader("models, .gguf", GGUF, _read_model, lambda: _vectors(GGUF)),
    )
}


@cache
def _seeds(name: str) -> list[bytes]:
    return READERS[name].seeds()


def _changed(chance: random.Random, content: bytes) -> bytes:
    """One to three changes of the kinds that files suffer, or that an attacker makes."""
    for _ in range(chance.randrange(1, 4)):
        if not content:
            return content
        if chance.random() < 0.5:
            content = damaged(chance, content)
            continue
        # A length or a count that lies.
        size = chance.choice((4, 8))
        place = chance.randrange(len(content))
        number = chance.choice(EXTREMES) % 2 ** (8 * size)
        content = content[:place] + struct.pack("<Q", number)[:size] + content[place + size :]
    return content


def _fuzzed(name: str) -> Callable[[random.Random, Path], str]:
    def trial(chance: random.Random, folder: Path) -> str:
        content = chance.choice(_seeds(name))
        if chance.random() < 0.95:
            content = _changed(chance, content)
        return read(READERS[name], content, folder)

    return trial


@cache
def _run(kind: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        scan(kind, Path(folder))
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in Path(folder).rglob("*")
            if file.name == "manifest.json" or file.suffix == ".npz"
        }


def forged(chance: random.Random, folder: Path) -> str:
    """A run goes on at a piece whose checksum is right and whose content no scan would write."""
    kind = chance.choice(KINDS)
    for name, content in _run(kind).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    place = chance.choice(sorted(folder.rglob("shard-*.npz")))
    header, state = read_state(place)
    for name in chance.sample(sorted(state), chance.randrange(3)):
        state[name] = _other(chance, state[name])
    for name in chance.sample(sorted(header["facts"]), chance.randrange(2)):
        header["facts"][name] = chance.choice([[], None, {"a": 3}, "x", -1, 0, 2**70])
    if chance.random() < 0.3:
        del header["facts"][chance.choice(sorted(header["facts"]))]
    if chance.random() < 0.3:
        del state[chance.choice(sorted(state))]
    if chance.random() < 0.2:
        _shorten(chance, state)
    write_state(place, header, state)
    try:
        scan(kind, folder)
    except LensprobeError as error:
        return type(error).__name__
    return "read"


def _other(chance: random.Random, array: np.ndarray) -> np.ndarray:
    """Something else in the place of an array: another shape, another type, or other numbers."""
    number = chance.choice(EXTREMES[:7])
    made = [
        np.array(chance.choice(["Counts", "Moments", "TopK", "Earliest", "os.system", ""])),
        np.zeros(chance.choice([(0,), (2,), (2, 3), ()])),
        np.array([[number]], np.int64),
        np.full(3, np.nan),
    ]
    if array.dtype.kind in "iuf":
        made += [
            np.full_like(array, chance.choice([-1, 0, 1, min(number, 2**31 - 1)])),
            np.full(array.shape, chance.choice([np.nan, np.inf, -1.5])),
            np.concatenate([array.reshape(-1)] * 2),
            array[:-1] if array.ndim else array,
        ]
    return chance.choice(made)


def _shorten(chance: random.Random, state: dict[str, np.ndarray]) -> None:
    """All fields of one statistic lose their last entry, so that they still fit one another."""
    owner = chance.choice(sorted({name.rpartition("/")[0] for name in state}))
    for name, array in state.items():
        if name.startswith(f"{owner}/") and array.ndim:
            state[name] = array[:-1]


FAULTS = (
    *(Fault(f"changed bytes: {name}", PROMISE, _fuzzed(name), 1000, 60, 60) for name in READERS),
    Fault("a forged piece with a right checksum", PROMISE, forged, 300, 5, 60),
)
