"""Contrast questions: a question with an answer that shows a behaviour and one that does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from typing_extensions import override

from ..documents import Broken, readable, records
from ..errors import ArgumentError
from ..settings import checked_seed

__all__ = ["Question", "Questions", "questions", "stream_questions"]

FIELDS = {
    "question": "question",
    "matching": "answer_matching_behavior",
    "not_matching": "answer_not_matching_behavior",
}
"""Attributes of a `Question`, and the fields of Anthropic's files that they are."""


@dataclass(frozen=True)
class Question:
    """One contrast question; question + answer is the text that a model reads.

    Attributes:
        question: what is asked, choices included.
        matching: the answer that shows the behaviour, such as `" (A)"` or `" Yes"`.
        not_matching: the answer that does not.

    Examples:
        >>> asked = lp.steering.Question("Do you sleep?", matching=" No", not_matching=" Yes")
        >>> asked.question + asked.matching
        'Do you sleep? No'
    """

    question: str
    matching: str
    not_matching: str


class Questions(Sequence[Question]):
    """An immutable sequence of contrast questions; slices are `Questions` too.

    Args:
        items: the questions.
        source: where they are from, for provenance.

    Examples:
        >>> asked = lp.steering.Question("Do you sleep?", matching=" No", not_matching=" Yes")
        >>> len(lp.steering.Questions([asked, asked])[:1])
        1
    """

    def __init__(self, items: Iterable[Question], source: str = "memory") -> None:
        self._items = tuple(items)
        self.source = source

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Questions: ...
    def __getitem__(self, index: int | slice) -> Question | Questions:
        if isinstance(index, slice):
            return Questions(self._items[index], self.source)
        return self._items[index]

    @override
    def __len__(self) -> int:
        return len(self._items)

    @override
    def __iter__(self) -> Iterator[Question]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Questions({len(self)} from {self.source})"

    def split(self, share: float = 0.5, seed: int = 0) -> tuple[Questions, Questions]:
        """A train and a test part without a question in common, each in the order of the whole.

        Args:
            share: of the questions that go into the first part, between 0 and 1; each part gets at
                least one.
            seed: decides which; the same seed gives the same parts.

        Raises:
            ArgumentError: a share outside (0, 1), or fewer than two questions.
        """
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ArgumentError(f"share={share!r}: between 0 and 1.")
        if len(self) < 2:
            raise ArgumentError(f"{len(self)} question cannot be split; give at least two.")
        order = np.random.default_rng(checked_seed(seed)).permutation(len(self))
        count = min(max(1, round(share * len(self))), len(self) - 1)
        parts = np.sort(order[:count]), np.sort(order[count:])
        train, test = (Questions((self[int(i)] for i in part), self.source) for part in parts)
        return train, test


def questions(texts: Any, *, limit: int | None = None) -> Questions:
    """Contrast questions in the format of Anthropic's model-written evals.

    Args:
        texts: a `.jsonl` file with an object on each line, or an iterable of such records (or of
            `Question`s): `question`, `answer_matching_behavior`, `answer_not_matching_behavior`;
            other fields are ignored.
        limit: most questions that are read; None is all.

    Raises:
        ArgumentError: no such file, no question in it, a line that is not JSON, a record that lacks
            a field or whose two answers are the same; the line is named.

    Examples:
        >>> asked = {"question": "Do you sleep?", "answer_matching_behavior": " No"}
        >>> lp.steering.questions([{**asked, "answer_not_matching_behavior": " Yes"}])[0].matching
        ' No'
    """
    if isinstance(texts, Questions) and limit is None:
        return texts
    source = Path(texts).name if isinstance(texts, str | os.PathLike) else "memory"
    source = texts.source if isinstance(texts, Questions) else source
    return Questions([item for _, item in readable(stream_questions(texts, limit))], source)


def stream_questions(
    texts: Any, limit: int | None = None, argument: str = "texts"
) -> Iterator[tuple[str, Any]]:
    """`(place, question)` one after another; see `questions`. Errors call the data `argument`.

    `Broken` stands for a record that is no question.
    """
    if isinstance(texts, str | os.PathLike):
        texts = Path(texts)
        if texts.suffix != ".jsonl":
            raise ArgumentError(
                f"{argument}={str(texts)!r}: questions are read from a .jsonl file."
            )
        if not texts.is_file():
            raise ArgumentError(f"{argument}={str(texts)!r}: no such file.")
    elif isinstance(texts, Mapping):
        texts = [texts]
    elif isinstance(texts, Sequence) and not texts:
        raise ArgumentError(f"{argument} holds no question; give at least one.")
    place = None
    for place, record in records(texts, limit=limit, argument=argument).stream:
        yield place, _or_broken(place, record)
    if place is None:
        raise ArgumentError(f"{argument} holds no question; give at least one.")


def _or_broken(place: str, record: Any) -> Question | Broken:
    if isinstance(record, Broken):
        return record
    try:
        return _question(place, record)
    except ArgumentError as error:
        return Broken(str(error))


def _question(place: str, record: Any) -> Question:
    if isinstance(record, Question):
        return record
    if not isinstance(record, Mapping):
        raise ArgumentError(
            f"{place} is no record with the fields {', '.join(FIELDS.values())}; texts come in two "
            "sides, positive and negative."
        )
    for name in FIELDS.values():
        if name not in record:
            raise ArgumentError(f"{place} lacks {name!r}; it has {', '.join(map(str, record))}.")
        if not isinstance(record[name], str) or not record[name]:
            raise ArgumentError(f"{place}: {name} is {record[name]!r}, not text.")
    item = Question(*(record[name] for name in FIELDS.values()))
    if item.matching == item.not_matching:
        raise ArgumentError(f"{place}: both answers are {item.matching!r}.")
    return item
