"""The two sides of a contrast as one stream of pairs, whatever they were given as."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from ..corpus import Tally, positive_whole
from ..documents import Broken, Documents, Parts, documents
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..settings import OnError, current, skips
from ..tokens import Bos, encode
from .questions import Questions, stream_questions
from .reading import Pair, Text

__all__ = ["Read", "Sides", "answer_token"]

Read = Literal["answer", "last"] | int
SIDES = ("positive", "negative")


class Sides:
    """The texts of both sides, read once and in step.

    Args:
        adapter: the model whose tokenizer applies.
        positive: contrast questions (with `negative=None`), or texts.
        negative: the other texts.
        read: which token of each text; None is the answer of questions and the last token of texts.
        paired: whether the two sides must have equally many texts.
        batch_tokens: most tokens in one forward pass, pads included.
        on_error: "raise" or "skip" at a record that cannot be read; None is what `options` says. What
            stands beside a skipped text on the other side is skipped with it.

    Attributes:
        source: the stream of items, each a pair of texts or a question.
        counts: texts of each side so far, skipped ones among them.
        texts: texts of each side that were cut here.
        read: what has been read so far; a document is a pair.

    Raises:
        ArgumentError: an empty side, one side only, a token that cannot be read, or unequal counts
            where pairs are needed; known before the first pass where the data says its length.
    """

    def __init__(
        self,
        adapter: Adapter,
        positive: Any,
        negative: Any,
        *,
        read: Read | None,
        bos: Bos,
        column: str | None,
        limit: int | None,
        paired: bool,
        batch_tokens: int | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.adapter, self.bos, self.paired = adapter, adapter.bos(bos), paired
        self.length, self.overlap = adapter.context, 0
        self.batch_tokens = positive_whole("batch_tokens", current("batch_tokens", batch_tokens))
        self.asks = negative is None
        self.token: Read = _checked(read, self.asks)
        self.skips, self.read = skips(on_error), Tally()
        self.counts, self.texts = [0, 0], [0, 0]
        self.sources = [_source(given) for given in (positive, negative)]
        if self.asks:
            if column is not None:
                raise ArgumentError(f"column={column!r}: questions have fields of their own.")
            self.source = Documents(self._asked(positive, limit), None)
            return
        streams = []
        for name, given in zip(SIDES, (positive, negative), strict=True):
            if hasattr(given, "__len__") and not len(given):
                raise ArgumentError(f"{name} is empty; a contrast needs texts on both sides.")
            streams.append(documents(given, column=column, limit=limit, argument=name))
        known = [stream.count for stream in streams]
        if paired and None not in known:
            self._check_equal(*known)
        self.source = Documents(self._told(*(stream.stream for stream in streams)), None)

    def pairs(self) -> Iterator[Pair]:
        """One pair after another; where one side is longer, its last texts stand alone."""
        for number, (place, item) in enumerate(self.source.stream):
            yield from self.cut(number, place, item, self.read)
        self.end()

    def cut(self, number: int, place: Any, text: Any, tally: Tally) -> Iterator[Pair]:
        """The pair that an item of the stream is, counted in `tally`; none where it is skipped.

        Raises:
            ArgumentError: a text that cannot be read, named by its place, where none is skipped.
        """
        try:
            pair = Pair(number, *self._both(place, text))
        except ArgumentError as error:
            if not self.skips:
                raise
            tally.skip(str(error))
            return
        tally.documents += 1
        tally.sequences += len(pair.texts)
        tally.tokens += sum(len(text.ids) for text in pair.texts)
        for side, given in enumerate((pair.positive, pair.negative)):
            self.texts[side] += given is not None
        yield pair

    def end(self) -> None:
        """The stream has ended.

        Raises:
            ArgumentError: a side was empty, or no pair of it could be read.
        """
        for name, count in zip(SIDES, self.counts, strict=True):
            if not count:
                raise ArgumentError(f"{name} is empty; a contrast needs texts on both sides.")
        if not self.read.documents:
            raise ArgumentError(f"no text of either side can be read: {self.read.complaint}.")

    def _check_equal(self, positive: int | None, negative: int | None) -> None:
        if positive != negative:
            raise ArgumentError(
                f"positive has {positive} texts and negative {negative}; pairs are needed."
            )

    def _asked(self, given: Any, limit: int | None) -> Iterator[tuple[str, Any]]:
        for place, item in stream_questions(given, limit, "positive"):
            self.counts = [count + 1 for count in self.counts]
            whole = isinstance(item, Broken)
            yield place, item if whole else Parts((item.question, item.matching, item.not_matching))

    def _told(
        self, positive: Iterator[Any], negative: Iterator[Any]
    ) -> Iterator[tuple[Any, Parts]]:
        for both in zip_longest(positive, negative, fillvalue=(None, None)):
            places, texts = zip(*both, strict=True)
            if self.paired and None in places:
                # Later texts of the longer side are not counted, so no numbers are named.
                raise ArgumentError("positive and negative differ in length; pairs are needed.")
            for side, place in enumerate(places):
                self.counts[side] += place is not None
            yield places, Parts(texts)

    def _both(self, place: Any, item: Any) -> list[Text | None]:
        if isinstance(item, Broken):
            raise ArgumentError(item.reason)
        if self.asks:
            question, *answers = item
            return [self._text(place, question + answer, answer) for answer in answers]
        return [
            None if where is None else self._text(where, text, "")
            for where, text in zip(place, item, strict=True)
        ]

    def _text(self, place: str, text: Any, answer: str) -> Text:
        if isinstance(text, Broken):
            raise ArgumentError(text.reason)
        try:
            ids = tuple(encode(self.adapter, text, self.bos))
        except ArgumentError as error:
            raise ArgumentError(f"{place}: {error}") from error
        if len(ids) > self.adapter.context:
            raise ArgumentError(
                f"{place} has {len(ids)} tokens; this model's context is {self.adapter.context}."
            )
        if self.token == "answer":
            return Text(ids, answer_token(self.adapter.tokenizer, ids, answer))
        at = -1 if self.token == "last" else self.token
        if not -len(ids) <= at < len(ids):
            raise ArgumentError(f"read={at}: {place} has {len(ids)} tokens.")
        return Text(ids, at % len(ids))

    def provenance(self, texts: Sequence[int] | None = None) -> dict[str, Any]:
        """What each side was made of, and how many texts of it there were (None: as were cut here)."""
        counts = self.texts if texts is None else texts
        both = {
            name: {**source, "texts": count}
            for name, source, count in zip(SIDES, self.sources, counts, strict=True)
        }
        if self.asks:
            both["negative"] = {**self.sources[0], "texts": counts[1]}
            both["positive"]["answers"], both["negative"]["answers"] = "matching", "not matching"
        return {**both, "bos": self.bos, "read": self.token, "tokens": self.read.tokens}


def answer_token(tokenizer: Any, ids: tuple[int, ...], answer: str) -> int:
    """The index of the token that holds the answer's first letter, in a text that ends in the answer.

    Of `" (A)"` that is the token of the A (index -2 with most tokenizers, as in Rimsky et al.); of
    `" Yes"` the answer's own token, or its first where it has several. Found by decoding the end of
    the text, so that it holds for any tokenizer.
    """
    letters = [index for index, mark in enumerate(answer) if mark.isalnum()]
    space = len(answer) - len(answer.lstrip())
    tail = len(answer) - (letters[0] if letters else space)
    for begin in range(len(ids) - 1, -1, -1):
        ending = tokenizer.decode(ids[begin:], clean_up_tokenization_spaces=False)
        # Bytes of half a letter decode to a mark that is no letter of the answer.
        if len(ending) >= tail and "\ufffd" not in ending:
            return begin
    raise ArgumentError(f"the answer {answer!r} is not found at the end of its text.")


def _checked(read: Any, asks: bool) -> Read:
    if read is None:
        return "answer" if asks else "last"
    if hasattr(read, "__index__") and not isinstance(read, bool):
        return read.__index__()
    if read not in ("answer", "last"):
        raise ArgumentError(f'read={read!r}: "answer", "last", or the position of a token.')
    if read == "answer" and not asks:
        raise ArgumentError('read="answer" needs contrast questions; of texts read "last".')
    return read


def _source(given: Any) -> dict[str, Any]:
    if isinstance(given, Questions):
        return {"source": given.source}
    if isinstance(given, str | os.PathLike):
        return {"source": Path(given).name if Path(given).suffix else "memory"}
    return {"source": "memory"}
