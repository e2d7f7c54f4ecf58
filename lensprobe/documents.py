"""Whatever a user calls texts, as a stream of documents, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from .errors import ArgumentError, nearest
from .textfiles import Broken, TextFiles, named_files
from .tokens import Encoded, TokenBatch, as_texts

__all__ = ["Broken", "Documents", "Parts", "documents", "readable", "records"]

COLUMN = "text"


class Parts(tuple[Any, ...]):
    """Texts that are one item of a stream."""


@dataclass(frozen=True)
class Documents:
    """A stream of `(place, text)`, read once; `place` names the text in an error message.

    Where a text cannot be read, `Broken` stands for it; `readable` is for whoever does not expect
    that.

    Attributes:
        stream: the texts.
        count: how many there are, or None where that is known only at the end.
        limit: the most that are read.
        share: how much of the source has been read, 0 to 1, where that can be told.
    """

    stream: Iterator[tuple[str, Any]]
    count: int | None
    limit: int | None = None
    share: Callable[[], float] | None = None

    def expected(self, read: int) -> float | None:
        """How many there will be, when so many have been read; None where nothing is known."""
        if self.count is not None or self.share is None or not read:
            return self.count
        count = read / max(self.share(), 1e-9)
        return count if self.limit is None else min(count, self.limit)


def documents(
    texts: Any, *, column: str | None = None, limit: int | None = None, argument: str = "texts"
) -> Documents:
    """Documents of anything that holds texts; nothing is read before it is asked for.

    Args:
        texts: a string, chat messages, token ids or a `TokenBatch`; any iterable of those (a
            generator is consumed lazily, and no further than `limit`); a `datasets` dataset, a
            streamed one too, or any other iterable of records; or files: a `Path`, a list of them,
            or a string that ends in `.txt`, `.jsonl` (`.ndjson`) or `.parquet`, the first two also
            with `.gz`, `.bz2`, `.xz` or `.zst` behind. `*`, `?`, `[...]` and `**` in a name stand
            for all files that fit, in the order of their names. Blank lines separate the documents
            of a text file; one without blank lines has a document on each line. A JSON line is a
            string, token ids, messages or a record; a row of a Parquet file is a record.
        column: which field of a record is the text; None is `text`.
        limit: most documents that are read, those that cannot be read among them; None is all.
        argument: what error messages call `texts`.

    Raises:
        ArgumentError: no such file, or an argument of another type.
    """
    name = COLUMN if column is None else column
    found = records(texts, column=name, limit=limit, argument=argument)
    return Documents(_texts(found.stream, column), found.count, found.limit, found.share)


def records(
    source: Any, *, column: str | None = None, limit: int | None = None, argument: str = "texts"
) -> Documents:
    """The items of anything that `documents` takes, records whole.

    Args:
        source: see `documents`.
        column: the only one that is read where a file is by columns; None is all.
        limit: see `documents`.
        argument: see `documents`.

    Raises:
        ArgumentError: as `documents`.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ArgumentError(f"limit={limit!r}: a positive whole number, or None.")
    paths = named_files(source, argument)
    share = None
    if paths is not None:
        files = TextFiles(paths, column)
        stream, count, share = iter(files), files.count, files.share
    else:
        stream, count = _opened(source, argument)
    if limit is not None:
        stream = islice(stream, limit)
        count = None if count is None else min(count, limit)
    return Documents(stream, count, limit, share)


def readable(stream: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same stream for those who take no broken record.

    Raises:
        ArgumentError: at the first one.
    """
    for place, item in stream:
        if isinstance(item, Broken):
            raise ArgumentError(item.reason)
        yield place, item


def _opened(texts: Any, argument: str) -> tuple[Iterator[tuple[str, Any]], int | None]:
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


def _numbered(texts: Iterable[Any], argument: str) -> Iterator[tuple[str, Any]]:
    return ((f"{argument}[{index}]", text) for index, text in enumerate(texts))


def _texts(stream: Iterator[tuple[str, Any]], column: str | None) -> Iterator[tuple[str, Any]]:
    """Records become the text in their column."""
    for place, item in stream:
        if isinstance(item, Broken):
            yield place, item
        elif isinstance(item, Mapping):
            yield place, _field(place, item, COLUMN if column is None else column)
        elif column is not None:
            yield place, Broken(f"column={column!r}: {place} is not a record with columns.")
        else:
            yield place, item


def _field(place: str, record: Mapping[Any, Any], name: str) -> Any:
    if name in record:
        return record[name]
    keys = [str(key) for key in record]
    told = f"column={name!r}: {place} has the columns {', '.join(keys)}."
    return Broken(f"{told}{nearest(name, keys)}")
