"""A corpus in pieces of whole documents, cut alike every time, so that a run can go on at one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..corpus import Tally
from ..documents import Broken, Parts
from ..errors import ArgumentError, OutputError
from ..tokens import Encoded, TokenBatch
from .files import fingerprint
from .folder import Kept
from .run import Source

__all__ = ["Piece", "pieces"]


@dataclass(frozen=True)
class Piece:
    """Some documents in a row.

    Attributes:
        number: its place among the pieces.
        windows: what is to be read of it; nothing where it was kept.
        tally: how much text it holds.
        fingerprint: of its texts, before tokenizing.
        kept: what an earlier run has kept of it.
    """

    number: int
    windows: tuple[Any, ...]
    tally: Tally
    fingerprint: str
    kept: Kept | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored with a piece, so that a later run can step over it."""
        return {"fingerprint": self.fingerprint, **dataclasses.asdict(self.tally)}


def pieces(corpus: Source, tokens: int, earlier: Callable[[int], Kept | None]) -> Iterator[Piece]:
    """Pieces of at least `tokens` tokens, the last one excepted.

    Where an earlier run has kept a piece, its documents are stepped over without tokenizing; their
    fingerprint is compared, so that a corpus that has changed is seen.

    Raises:
        ArgumentError: no texts at all, or an empty one.
        OutputError: the texts of a kept piece have changed.
    """
    stream = enumerate(corpus.source.stream)
    number = 0
    while True:
        kept = earlier(number)
        if kept is None:
            found = _next(corpus, stream, number, tokens)
        else:
            found = _again(corpus, stream, kept)
        if kept is not None:
            found = dataclasses.replace(found, number=number, kept=kept)
        corpus.read.merge(found.tally)
        if not found.tally.tokens:
            # The end, or broken records at the end, which a later run meets again.
            break
        yield found
        number += 1
    corpus.end()


def _next(
    corpus: Source, stream: Iterator[tuple[int, tuple[str, Any]]], number: int, tokens: int
) -> Piece:
    windows: list[Any] = []
    texts: list[bytes] = []
    tally = Tally()
    for document, (place, text) in stream:
        windows += corpus.cut(document, place, text, tally)
        texts.append(_bytes(text))
        if tally.tokens >= tokens:
            break
    return Piece(number, tuple(windows), tally, fingerprint(*texts))


def _again(corpus: Source, stream: Iterator[tuple[int, tuple[str, Any]]], kept: Kept) -> Piece:
    tally, before = _said(kept.facts)
    count = tally.documents + tally.skipped
    texts = [_bytes(text) for _, (_, (_, text)) in zip(range(count), stream, strict=False)]
    if fingerprint(*texts) != before:
        raise OutputError(
            f"the texts are not those of the run that is kept there: one of {count} "
            "documents has changed or is missing; name another folder."
        )
    if tally.skipped and not corpus.skips:
        raise ArgumentError(f'{tally.reasons[0]} An earlier run skipped it, with on_error="skip".')
    return Piece(0, (), tally, before)


def _said(facts: Mapping[str, Any]) -> tuple[Tally, str]:
    """What a kept piece says that it holds, and the fingerprint of its texts."""
    facts = dict(facts)
    before, notes = facts.pop("fingerprint", None), facts.pop("notes", [])
    kinds = {name: type(value) for name, value in vars(Tally()).items()}
    told = {name: type(value) for name, value in facts.items()} == kinds
    if told:
        tally = Tally(**facts)
        counts = (tally.documents, tally.split, tally.short, tally.skipped)
        # A document has one sequence at least, and a sequence one token.
        told = min(counts) >= 0 and max(1, tally.documents) <= tally.sequences <= tally.tokens
        told = told and bool(tally.reasons) == bool(tally.skipped)
        if told and _words(tally.reasons) and _words(notes) and isinstance(before, str):
            return tally, before
    raise OutputError(f"a kept piece does not say what it holds: {facts}.")


def _words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _bytes(text: Any) -> bytes:
    """A text's own bytes: the words, or the token ids; of a broken record what is wrong with it."""
    if isinstance(text, Broken):
        return b"broken" + text.reason.encode("utf-8", "surrogatepass")
    if isinstance(text, Parts):
        return b"parts" + fingerprint(*map(_bytes, text)).encode()
    if isinstance(text, str):
        return b"text" + text.encode("utf-8", "surrogatepass")
    if isinstance(text, Encoded):
        text = np.array(text.ids, np.int64)
    elif isinstance(text, TokenBatch):
        text = text.ids
    if isinstance(text, Tensor):
        text = text.detach().cpu().numpy()
    if isinstance(text, np.ndarray):
        return b"ids" + text.astype(np.int64).tobytes()
    return b"json" + json.dumps(text, sort_keys=True, default=str).encode()
