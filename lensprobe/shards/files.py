"""One state in one file: a header that says what it is of, arrays, and a checksum over both."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from ..results import writing

__all__ = ["DamagedError", "fingerprint", "packed", "read_state", "unpacked", "write_state"]

HEADER, CHECKSUM = "header", "checksum"
"""Members of the npz file beside the arrays, whose names all have a slash."""


class DamagedError(OutputError):
    """A file that holds other bytes than were written, or was never whole."""


def write_state(
    path: str | os.PathLike[str], header: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> None:
    """Write a state; it appears under its name only when all of it is on the disk.

    Args:
        path: the `.npz` file; one that is there is replaced.
        header: JSON values.
        state: arrays of numbers or text, such as `Bundle.state()`; their names have a slash.

    Raises:
        OutputError: the file cannot be written; nothing half-written stays.
    """
    with writing(path, overwrite=True) as handle:
        handle.write(packed(header, state))
        handle.flush()
        os.fsync(handle.fileno())
    _sync_folder(Path(path).parent)


def packed(header: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> bytes:
    """Header and arrays as the bytes of one npz file."""
    text = json.dumps(header, sort_keys=True)
    buffer = io.BytesIO()
    extra = {HEADER: np.array(text), CHECKSUM: np.array(_checksum(text, state))}
    np.savez(buffer, **extra, **state)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of what `write_state` wrote. Nothing in the file is ever run.

    Raises:
        DamagedError: another content than was written, or no such file of ours.
        OutputError: the file is there and cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    return unpacked(data, repr(str(path)))


def unpacked(data: bytes, place: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of what `packed` made; `place` is what an error calls it.

    Raises:
        DamagedError: other bytes than were packed.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        text, checksum = str(arrays.pop(HEADER)), str(arrays.pop(CHECKSUM))
        whole = checksum == _checksum(text, arrays)
        header = json.loads(text)
    except Exception as error:
        # Damage can surface anywhere in the readers of zip, npy and JSON.
        raise DamagedError(f"{place} is damaged ({error}).") from error
    if not whole or not isinstance(header, dict):
        raise DamagedError(f"{place} is damaged: its checksum does not fit.")
    return header, arrays


def fingerprint(*parts: bytes) -> str:
    """A short name for some bytes; different bytes get different names."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()


def _checksum(header: str, state: Mapping[str, np.ndarray]) -> str:
    parts = [header.encode()]
    for name in sorted(state):
        array = np.asarray(state[name])
        parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return fingerprint(*parts)


def _sync_folder(folder: Path) -> None:
    """The file's new name, too, is on the disk when this returns (where folders can be synced)."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError:
        pass
    finally:
        os.close(number)
