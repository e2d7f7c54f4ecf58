"""What an effect is measured on: contrast questions, and ordinary texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import positions as where
from ..documents import documents, readable, records
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..positions import Positions
from ..tokens import Bos, Encoded, encoded
from .questions import FIELDS, Question, Questions, questions
from .vector import SteeringVector

__all__ = ["Row", "Subject", "subjects"]


@dataclass(frozen=True)
class Row:
    """One question or text as a model reads it.

    Attributes:
        tokens: of a question, all up to where its two answers part.
        prompt: how many of them are the prompt: the question itself, or the whole of a text.
        answers: the next token of the matching answer and of the other one; None for a text.
    """

    tokens: Encoded
    prompt: int
    answers: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Subject:
    """Rows of one kind under one name.

    Attributes:
        name: what tables call it.
        rows: at least one.
        asks: whether they are questions with two answers.
    """

    name: str
    rows: tuple[Row, ...]
    asks: bool

    def positions(self, given: Positions | None, vector: SteeringVector) -> Positions:
        """Where a vector is added unless told otherwise.

        A vector with a row for each token goes to the front. One vector is added from the end of a
        question on (CAA), and in a text everywhere but at position 0, whose massive activation
        holds the attention sinks up.
        """
        if given is not None:
            return given
        if vector.tokens is not None:
            return where.front()
        return where.after_prompt() if self.asks else where.all() - where.front(1)


def subjects(
    adapter: Adapter, texts: Any, *, bos: Bos, limit: int | None, column: str | None
) -> list[Subject]:
    """Texts, questions, a file of either, or a mapping name → any of these.

    Raises:
        ArgumentError: nothing to read, a text that is too short or too long for the model, answers
            that do not part.
    """
    if not isinstance(texts, Mapping):
        asks = _asks(texts)
        texts = {("questions" if asks else "texts"): texts}
    if not texts:
        raise ArgumentError("texts is an empty mapping; name at least one group of texts.")
    return [
        _subject(adapter, str(name), part, bos=bos, limit=limit, column=column)
        for name, part in texts.items()
    ]


def _asks(texts: Any) -> bool:
    """Whether these are contrast questions, told from the first record."""
    if isinstance(texts, Questions | Question):
        return True
    if isinstance(texts, str | os.PathLike) and str(texts).endswith(".jsonl"):
        _, first = next(records(texts, limit=1).stream, (None, None))
        return isinstance(first, Mapping) and FIELDS["matching"] in first
    if not isinstance(texts, list | tuple) or not texts:
        return False
    first = texts[0]
    return isinstance(first, Question) or (
        isinstance(first, Mapping) and FIELDS["matching"] in first
    )


def _subject(
    adapter: Adapter, name: str, part: Any, *, bos: Bos, limit: int | None, column: str | None
) -> Subject:
    asks = _asks(part)
    if asks:
        asked = questions([part] if isinstance(part, Question) else part, limit=limit)
        rows = [_question_row(adapter, f"{name}[{i}]", q, bos) for i, q in enumerate(asked)]
    else:
        stream = documents(part, column=column, limit=limit, argument=name).stream
        rows = [_text_row(adapter, place, text, bos) for place, text in readable(stream)]
    if not rows:
        raise ArgumentError(f"{name} holds no text at all; give at least one.")
    longest = max(map(len, rows))
    if longest > adapter.context:
        raise ArgumentError(
            f"{name} has a text of {longest} tokens; this model's context is {adapter.context}."
        )
    return Subject(name, tuple(rows), asks)


def _question_row(adapter: Adapter, place: str, item: Question, bos: Bos) -> Row:
    sides = [
        encoded(adapter, item.question + answer, bos).ids
        for answer in (item.matching, item.not_matching)
    ]
    shared = common_length(*sides)
    if shared == 0 or shared == min(map(len, sides)):
        raise ArgumentError(
            f"{place}: the answers {item.matching!r} and {item.not_matching!r} do not part at any "
            "token, so that their probabilities cannot be compared."
        )
    question = encoded(adapter, item.question, bos).ids
    prompt = max(1, common_length(question, sides[0][:shared]))
    return Row(Encoded(sides[0][:shared]), prompt, (sides[0][shared], sides[1][shared]))


def _text_row(adapter: Adapter, place: str, text: Any, bos: Bos) -> Row:
    tokens = encoded(adapter, text, bos)
    if len(tokens) < 2:
        raise ArgumentError(f"{place}: a text of one token has no next token to score.")
    return Row(tokens, len(tokens))


def common_length(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    """How many tokens two texts begin with together."""
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
