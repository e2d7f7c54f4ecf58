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

__all__ = ["read_quantisation"]

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


class _Damaged(Exception):
    pass


@dataclass
class _Cursor:
    data: mmap.mmap
    at: int = 0
    found: dict[str, Any] = field(default_factory=dict)

    def take(self, code: str) -> Any:
        size = struct.calcsize(code)
        if self.at + size > len(self.data):
            raise _Damaged("it ends inside its index")
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += size
        return value

    def skip(self, size: int) -> int:
        begin = self.at
        self.at += size
        if self.at > len(self.data):
            raise _Damaged("it ends inside its index")
        return begin

    def string(self) -> bytes:
        begin = self.skip(size := self.take("Q"))
        return self.data[begin : begin + size]

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            self.skip(self.take("Q"))
        elif kind == _ARRAY:
            inner, count = self.take("I"), self.take("Q")
            if inner in _SCALARS:
                self.skip(count * struct.calcsize(_SCALARS[inner]))
            else:
                for _ in range(count):
                    self.value(inner)
        else:
            raise _Damaged(f"its index has a value of unknown type {kind}")
        return None


def read_quantisation(name: str, path: Path) -> str:
    """Check that a GGUF file is whole, and return the quantisation it states (such as `"Q4_1"`).

    Raises:
        ModelError: it cannot be read, is no GGUF file, or ends before its last tensor.
    """
    import gguf

    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            stated = _walk(_Cursor(data))
        return gguf.LlamaFileType(stated).name.removeprefix("MOSTLY_")
    except OSError as error:
        raise ModelError(f"{name!r} cannot be read: {error.strerror or error}.") from error
    except (_Damaged, ValueError) as error:
        # An empty file cannot be mapped; a type or file type off the list is a ValueError too.
        raise ModelError(
            f"{name!r} is not a whole GGUF file: {error}. It may be damaged; fetch it again."
        ) from error


def _walk(cursor: _Cursor) -> int:
    import gguf

    if cursor.data[:4] != b"GGUF":
        raise _Damaged("it does not begin with GGUF")
    cursor.skip(4)
    version = cursor.take("I")
    if version not in (2, 3):
        raise _Damaged(f"its version is {version}; 2 and 3 can be read")
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
        for _ in range(cursor.take("I")):
            count *= cursor.take("Q")
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(cursor.take("I"))]
        end = max(end, cursor.take("Q") + count // block * size)
    align = cursor.found.get(_ALIGNMENT) or 32
    missing = -(-cursor.at // align) * align + end - len(cursor.data)
    if missing > 0:
        raise _Damaged(f"its last {missing:,} bytes are missing")
    return int(cursor.found.get(_FILE_TYPE, gguf.LlamaFileType.GUESSED))
