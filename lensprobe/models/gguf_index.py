"""The index at the front of a GGUF file: enough to tell a whole file from a damaged one.

The `gguf` package reads it too, but builds an array for every string of the vocabulary, which takes
seconds; here the strings are stepped over.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError

__all__ = ["DamagedIndexError", "check_index", "read_quantisation"]

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = "general.alignment"
_FILE_TYPE = "general.file_type"
_DEPTH = 4
"""Axes of a tensor, and arrays inside arrays: more are in no file that anybody writes."""


class DamagedIndexError(ValueError):
    """A GGUF file that is not whole, or whose index says what cannot be."""


@dataclass
class _Cursor:
    data: mmap.mmap
    at: int = 0
    found: dict[str, Any] = field(default_factory=dict)

    def take(self, code: str) -> Any:
        size = struct.calcsize(code)
        if self.at + size > len(self.data):
            raise DamagedIndexError("it ends inside its index")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += size
        return value

    def skip(self, size: int) -> int:
        begin = self.at
        self.at += size
        if self.at > len(self.data):
            raise DamagedIndexError("it ends inside its index")
        return begin

    def string(self) -> bytes:
        begin = self.skip(size := self.take("Q"))
        return self.data[begin : begin + size]

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            self.skip(self.take("Q"))
        elif kind == _ARRAY and depth < _DEPTH:
            inner, count = self.take("I"), self.take("Q")
            if inner in _SCALARS:
                self.skip(count * struct.calcsize(_SCALARS[inner]))
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
        else:
            raise DamagedIndexError(f"its index has a value of unknown type {kind}")
        return None


def check_index(path: Path) -> int:
    """Walk through the whole index; returns the file type that it states.

    Every count in it is compared with the length of the file, so that a reader which trusts them (the
    `gguf` package does) neither loops for ever nor asks for memory that the file could not fill.

    Raises:
        DamagedIndexError: no whole GGUF file.
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _walk(_Cursor(data))


def read_quantisation(name: str, path: Path) -> str:
    """Check that a GGUF file is whole, and return the quantisation it states (such as `"Q4_1"`).

    Raises:
        ModelError: it cannot be read, is no GGUF file, or ends before its last tensor.
    """
    import gguf

    try:
        return gguf.LlamaFileType(check_index(path)).name.removeprefix("MOSTLY_")
    except OSError as error:
        raise ModelError(f"{name!r} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        # Damaged, or empty, which cannot be mapped; or a type or file type off the list.
        raise ModelError(
            f"{name!r} is not a whole GGUF file: {error}. It may be damaged; fetch it again."
        ) from error


def _walk(cursor: _Cursor) -> int:
    import gguf

    if cursor.data[:4] != b"GGUF":
        raise DamagedIndexError("it does not begin with GGUF")
    cursor.skip(4)
    version = cursor.take("I")
    if version not in (2, 3):
        raise DamagedIndexError(f"its version is {version}; 2 and 3 can be read")
    tensors, facts = cursor.take("Q"), cursor.take("Q")
    for _ in range(facts):
        key = cursor.string().decode("utf-8", "replace")
        value = cursor.value(cursor.take("I"))
        if key in (_ALIGNMENT, _FILE_TYPE):
            cursor.found[key] = value
    end = 0
    for _ in range(tensors):
        cursor.string()
        count = 1
        axes = cursor.take("I")
        if axes > _DEPTH:
            raise DamagedIndexError(f"it has a tensor with {axes} axes")
        for _ in range(axes):
            count *= cursor.take("Q")
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(cursor.take("I"))]
        end = max(end, cursor.take("Q") + count // block * size)
    align = cursor.found.get(_ALIGNMENT) or 32
    stated = cursor.found.get(_FILE_TYPE, gguf.LlamaFileType.GUESSED)
    if not isinstance(align, int) or align < 0 or not isinstance(stated, int):
        raise DamagedIndexError("its alignment or file type is no whole number")
    missing = -(-cursor.at // align) * align + end - len(cursor.data)
    if missing > 0:
        raise DamagedIndexError(f"its last {missing:,} bytes are missing")
    return int(stated)
