"""Files that hold texts, read as a stream: plain text, JSON lines, Parquet; compressed; by pattern.

What a file holds never raises here. A record that cannot be read stands in the stream as `Broken`,
with its place and why, so that whoever reads the stream can be strict or step over it.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ArgumentError, nearest

__all__ = ["SUFFIXES", "Broken", "TextFiles", "named_files"]

PLAIN, LINES, PARQUET = (".txt",), (".jsonl", ".ndjson"), (".parquet",)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = (
    *PARQUET,
    *(kind + packed for kind in (*PLAIN, *LINES) for packed in ("", *COMPRESSED)),
)
"""How a string ends that names a file and is not a text itself."""
UNREADABLE = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, pa.ArrowException)
"""What the readers of all these formats raise where bytes are missing or wrong."""
BUFFER = 2**20
"""Bytes read at once."""
ROWS = 64
"""Rows of a Parquet file in memory at once."""

_LOST = re.compile("[\udc80-\udcff]")
"""What a byte that is not UTF-8 becomes under `surrogateescape`; nothing valid becomes it."""


@dataclass(frozen=True)
class Broken:
    """Stands in a stream for a record that cannot be read.

    Attributes:
        reason: where it is and what is wrong with it, a sentence.
    """

    reason: str


def named_files(texts: Any, argument: str = "texts") -> tuple[Path, ...] | None:
    """The files that an argument names, in order; None where it holds the texts themselves.

    A path, several of them, or a string with one of `SUFFIXES` names files; `*`, `?`, `[...]` and `**`
    in it stand for all files that fit, sorted by name.

    Raises:
        ArgumentError: no such file, a folder, or a compressed Parquet file.
    """
    if isinstance(texts, list | tuple) and texts:
        if not all(isinstance(each, os.PathLike) for each in texts):
            return None
        return tuple(path for each in texts for path in _matching(Path(each), argument))
    if isinstance(texts, os.PathLike):
        return _matching(Path(texts), argument)
    if isinstance(texts, str) and texts.endswith(SUFFIXES) and "\n" not in texts:
        return _matching(Path(texts), argument)
    return None


def _matching(path: Path, argument: str) -> tuple[Path, ...]:
    if path.is_file():
        found = [path]
    elif path.is_dir():
        raise ArgumentError(
            f"{argument}={str(path)!r}: is a folder, not a file; name its files, such as "
            f"{str(path / '*.jsonl')!r}."
        )
    else:
        names = glob.glob(str(path), recursive=True) if glob.has_magic(str(path)) else []
        found = [Path(name) for name in sorted(names) if os.path.isfile(name)]
    if not found:
        raise ArgumentError(
            f"{argument}={str(path)!r}: no such file. To scan those very words, pass them in a list."
        )
    for file in found:
        if file.suffix in COMPRESSED and file.with_suffix("").suffix in PARQUET:
            raise ArgumentError(
                f"{argument}={str(file)!r}: a Parquet file is compressed inside; unpack this one."
            )
    return tuple(found)


class TextFiles:
    """Some files as one stream of `(place, record)`, iterated once.

    Blank lines separate the documents of a text file; one without blank lines has a document on each
    line. A JSON line is whatever it says; a row of a Parquet file is a record, rows counted from 0.

    Args:
        paths: the files, in order.
        column: of Parquet files, the only column that is read; None is all of them.

    Attributes:
        count: how many records there are, where the files say so (Parquet); else None.
    """

    def __init__(self, paths: Sequence[Path], column: str | None = None) -> None:
        self.paths = tuple(paths)
        self.column = column
        self.count = _rows_of(self.paths)
        self._sizes = [path.stat().st_size for path in self.paths]
        self._before = 0
        self._raw: BinaryIO | None = None

    def share(self) -> float:
        """How much of the files' bytes has been read, 0 to 1."""
        here = 0 if self._raw is None or self._raw.closed else self._raw.tell()
        return (self._before + here) / max(1, sum(self._sizes))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        names = [path.name for path in self.paths]
        for path, size in zip(self.paths, self._sizes, strict=True):
            name = path.name if names.count(path.name) == 1 else str(path)
            kind = path.with_suffix("") if path.suffix in COMPRESSED else path
            if kind.suffix in PARQUET:
                yield from _parquet(path, name, self.column)
            elif kind.suffix in LINES:
                yield from _records(self._lines(path, name), name)
            else:
                # A first pass over the file costs nothing beside a model and needs no memory.
                separated = _has_blank_line_inside(self._lines(path, name))
                yield from _paragraphs(self._lines(path, name), name, separated)
            self._raw = None
            self._before += size

    def _lines(self, path: Path, name: str) -> Iterator[tuple[int, str | Broken]]:
        """Numbered lines, from 1; what is not UTF-8 in them is left for `_LOST` to find."""
        number = 0
        try:
            with ExitStack() as stack:
                self._raw = stack.enter_context(path.open("rb", buffering=BUFFER))
                plain = stack.enter_context(_unpacked(self._raw, path.suffix))
                text = io.TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape")
                for number, line in enumerate(stack.enter_context(text), 1):
                    yield number, line
        except UNREADABLE as error:
            yield (
                number + 1,
                Broken(f"{name} cannot be read from line {number + 1} on: {_say(error)}."),
            )


def _unpacked(raw: Any, suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    if suffix == ".zst":
        # Arrow's own codec, so that no further package is needed.
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw


def _say(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _not_utf8(name: str, number: int, line: str) -> Broken | None:
    lost = _LOST.search(line)
    if lost is None:
        return None
    byte = ord(lost.group()) - 0xDC00
    return Broken(f"{name} line {number} cannot be read as UTF-8 text: byte {byte:#04x}.")


def _records(lines: Iterator[tuple[int, str | Broken]], name: str) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        place = f"{name} line {number}"
        if isinstance(line, Broken):
            yield place, line
        elif line.strip():
            yield place, _not_utf8(name, number, line) or _json(place, line)


def _json(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Broken(f"{place} is not JSON: {_say(error)}.")


def _paragraphs(
    lines: Iterator[tuple[int, str | Broken]], name: str, separated: bool
) -> Iterator[tuple[str, Any]]:
    begin, held = 1, []
    broken: Broken | None = None
    for number, line in lines:
        if isinstance(line, Broken):
            # The end of the document that was being read is lost with what follows.
            yield f"{name} line {begin if held else number}", line
            return
        if line.strip():
            begin = begin if held else number
            held.append(line)
            broken = broken or _not_utf8(name, number, line)
        if held and (not separated or not line.strip()):
            yield f"{name} line {begin}", broken or "".join(held).strip("\r\n")
            held, broken = [], None
    if held:
        yield f"{name} line {begin}", broken or "".join(held).strip("\r\n")


def _has_blank_line_inside(lines: Iterator[tuple[int, str | Broken]]) -> bool:
    begun = waiting = False
    for _, line in lines:
        if isinstance(line, Broken):
            return False
        if line.strip():
            if waiting:
                return True
            begun = True
        else:
            waiting = begun
    return False


def _parquet(path: Path, name: str, column: str | None) -> Iterator[tuple[str, Any]]:
    """Rows, a few at a time; a row group that is damaged costs its own rows only."""
    try:
        # Without the buffer a whole column of a row group would be in memory.
        file = pq.ParquetFile(
            path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
        )
    except UNREADABLE as error:
        yield name, Broken(f"{name} cannot be read as Parquet: {_say(error)}.")
        return
    with file:
        names = file.schema_arrow.names
        if column is not None and column not in names:
            told = f"column={column!r}: {name} has the columns {', '.join(names)}."
            yield name, Broken(f"{told}{nearest(column, names)}")
            return
        end = 0
        for group in range(file.num_row_groups):
            row, end = end, end + file.metadata.row_group(group).num_rows
            wanted = None if column is None else [column]
            try:
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=wanted):
                    for index in range(batch.num_rows):
                        place = f"{name} row {row}"
                        yield place, _row(place, batch, index)
                        row += 1
            except UNREADABLE as error:
                what = f"{name} rows {row} to {end - 1} cannot be read"
                yield f"{name} row {row}", Broken(f"{what}: {_say(error)}.")


def _row(place: str, batch: Any, index: int) -> Any:
    try:
        return {name: batch[name][index].as_py() for name in batch.schema.names}
    except UNREADABLE as error:
        return Broken(f"{place} cannot be read: {_say(error)}.")


def _rows_of(paths: Sequence[Path]) -> int | None:
    """Rows of Parquet files, damaged ones not counted; None where others are among them."""
    if any(path.suffix not in PARQUET for path in paths):
        return None
    count = 0
    for path in paths:
        try:
            count += pq.read_metadata(path).num_rows
        except UNREADABLE:
            continue
    return count
