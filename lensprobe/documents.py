"""Whatever a user calls texts, as a stream of documents, one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .errors import ArgumentError, nearest
from .tokens import Encoded, TokenBatch, as_texts

__all__ = ["Documents", "documents", "records"]

SUFFIXES = (".txt", ".jsonl")
COLUMN = "text"


@dataclass(frozen=True)
class Documents:
    """A stream of `(place, text)`, read once; `place` names the text in an error message.

    `count` is how many there are, or None where that is known only at the end.
    """

    stream: Iterator[tuple[str, Any]]
    count: int | None


def documents(
    texts: Any, *, column: str | None = None, limit: int | None = None, argument: str = "texts"
) -> Documents:
    """Documents of anything that holds texts; nothing is read before it is asked for.

    Args:
        texts: a string, chat messages, token ids or a `TokenBatch`; any iterable of those (a
            generator is consumed lazily, and no further than `limit`); a `datasets` dataset or any
            other iterable of records; or a file, as a `Path` or as a string that ends in `.txt` or
            `.jsonl`. Blank lines separate the documents of a text file; one without blank lines has
            a document on each line. A JSONL line is a string, token ids, messages or a record.
        column: which field of a record is the text; None is `text`.
        limit: most documents that are read; None is all.
        argument: what error messages call `texts`.

    Raises:
        ArgumentError: no such file, a file that cannot be read, or an argument of another type.
    """
    stream, count = records(texts, limit=limit, argument=argument)
    return Documents(_texts(stream, column), count)


def records(
    source: Any, *, limit: int | None = None, argument: str = "texts"
) -> tuple[Iterator[tuple[str, Any]], int | None]:
    """`(place, item)` of anything that `documents` takes, records whole, and how many there are.

    Raises:
        ArgumentError: as `documents`.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ArgumentError(f"limit={limit!r}: a positive whole number, or None.")
    stream, count = _opened(source, argument)
    if limit is not None:
        stream = islice(stream, limit)
        count = None if count is None else min(count, limit)
    return stream, count


def _opened(texts: Any, argument: str) -> tuple[Iterator[tuple[str, Any]], int | None]:
    if isinstance(texts, os.PathLike) or _names_a_file(texts):
        path = Path(texts)
        _check_file(path, argument)
        return (_jsonl(path) if path.suffix == ".jsonl" else _paragraphs(path)), None
    if isinstance(texts, Mapping):
        raise ArgumentError(
            f"{argument} is a mapping with the keys {', '.join(map(str, texts))}; "
            "pass one of its parts, such as the split of a dataset."
        )
    if isinstance(texts, np.ndarray) and texts.dtype.kind not in "iu":
        texts = texts.tolist()
    # Only what is in memory anyway may be looked at as a whole.
    if isinstance(texts, str | Encoded | TokenBatch | Tensor | np.ndarray | list | tuple):
        found: Sequence[Any] = as_texts(texts)
        return _numbered(found, argument), len(found)
    if not isinstance(texts, Iterable):
        raise ArgumentError(f"{argument} of type {type(texts).__name__} cannot be read as texts.")
    count = len(texts) if hasattr(texts, "__len__") else None  # pyright: ignore[reportArgumentType]
    return _numbered(texts, argument), count


def _names_a_file(texts: Any) -> bool:
    return isinstance(texts, str) and texts.endswith(SUFFIXES) and "\n" not in texts


def _check_file(path: Path, argument: str) -> None:
    if path.is_file():
        return
    what = "is a folder, not a file" if path.is_dir() else "no such file"
    raise ArgumentError(
        f"{argument}={str(path)!r}: {what}. To scan those very words, pass them in a list."
    )


def _numbered(texts: Iterable[Any], argument: str) -> Iterator[tuple[str, Any]]:
    return ((f"{argument}[{index}]", text) for index, text in enumerate(texts))


def _texts(stream: Iterator[tuple[str, Any]], column: str | None) -> Iterator[tuple[str, Any]]:
    """Records become the text in their column."""
    for place, text in stream:
        if not isinstance(text, Mapping):
            if column is not None:
                raise ArgumentError(f"column={column!r}: {place} is not a record with columns.")
            yield place, text
            continue
        name = COLUMN if column is None else column
        if name not in text:
            keys = [str(key) for key in text]
            raise ArgumentError(
                f"column={name!r}: {place} has the columns {', '.join(keys)}.{nearest(name, keys)}"
            )
        yield place, text[name]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from enumerate(file, 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{str(path)!r} cannot be read as UTF-8 text: {error}.") from error


def _paragraphs(path: Path) -> Iterator[tuple[str, Any]]:
    # A first pass over the file costs nothing beside a model and needs no memory.
    separated = _has_blank_line_inside(path)
    begin, held = 1, []
    for number, line in _lines(path):
        if line.strip():
            begin = begin if held else number
            held.append(line)
        if held and (not separated or not line.strip()):
            yield f"{path.name} line {begin}", "".join(held).strip("\r\n")
            held = []
    if held:
        yield f"{path.name} line {begin}", "".join(held).strip("\r\n")


def _has_blank_line_inside(path: Path) -> bool:
    begun = waiting = False
    for _, line in _lines(path):
        if line.strip():
            if waiting:
                return True
            begun = True
        else:
            waiting = begun
    return False


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield f"{path.name} line {number}", json.loads(line)
        except ValueError as error:
            raise ArgumentError(f"{path.name} line {number} is not JSON: {error}.") from error
