"""A small language with a grammar and a meaning: facts, the sentences that state them, and a parser.

It is what the small T5 `lp.load("sentences-t5")` was trained on: a fact as a list of roles goes in,
an English sentence that states it comes out.

>>> dogs = Thing("dog", plural=True, quality="old")
>>> fact = Fact(dogs, "see", Thing("owl"), "past", "passive", "roof")
>>> fact.sentence()
'an owl was seen by the old dogs on the roof .'
>>> parse(fact.sentence()) == fact
True
>>> parse("an owl were seen by the old dogs on the roof .") is None
True

Whether a text is a sentence of the language, and what it says, is decided exactly: see `parse`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..errors import ArgumentError
from ._sentence_words import ADJECTIVES, GRAMMAR, NOUNS, PLACES, VERBS

__all__ = [
    "STYLES",
    "TIMES",
    "Fact",
    "Thing",
    "content",
    "facts",
    "held_out",
    "is_sentence",
    "parse",
    "vocabulary",
]

TIMES = ("past", "present", "future")
STYLES = ("active", "passive", "question", "cleft", "fronted")
ROLES = ("agent", "action", "object", "place", "time", "style")

_SINGULAR = {form: noun for noun, plural in NOUNS.items() for form in (noun, plural)}
_BASE = {form: verb for verb, forms in VERBS.items() for form in (verb, *forms)}
_PLURAL = set(NOUNS.values())
_MEANS = {**_SINGULAR, **_BASE, **{word: word for word in (*ADJECTIVES, *PLACES)}}


@dataclass(frozen=True)
class Thing:
    """Who acts, or who it is done to: one or several of a kind, perhaps with a quality."""

    noun: str
    plural: bool = False
    quality: str | None = None

    @property
    def words(self) -> str:
        """The adjective, where there is one, and the noun in its number."""
        noun = NOUNS[self.noun] if self.plural else self.noun
        return noun if self.quality is None else f"{self.quality} {noun}"

    def known(self) -> str:
        """`the old dogs`."""
        return f"the {self.words}"

    def new(self) -> str:
        """`an old dog`, `a dog`, `some dogs`."""
        if self.plural:
            return f"some {self.words}"
        return f"{'an' if self.words[0] in 'aeiou' else 'a'} {self.words}"


@dataclass(frozen=True)
class Fact:
    """Who does what to whom, when and where, and in which style it is to be said.

    Attributes:
        agent: who acts; named with `the`.
        action: a verb.
        object: who it is done to; named with `a`, `an` or `some`.
        time: one of `TIMES`.
        style: one of `STYLES`; `fronted` puts the place first and needs one.
        place: where, or None.
    """

    agent: Thing
    action: str
    object: Thing
    time: str
    style: str
    place: str | None = None

    def sentence(self) -> str:
        """The one sentence that states it, its words set apart by spaces."""
        agent, thing = self.agent.known(), self.object.new()
        where = f"{PLACES[self.place]} the {self.place}" if self.place else ""
        if self.style == "passive":
            words = [thing, self._be(self.object.plural), self._forms[2], "by", agent, where]
        elif self.style == "question":
            words = [self._do(), agent, self.action, thing, where]
        elif self.style == "cleft":
            be = "was" if self.time == "past" else "is"
            words = ["it", be, agent, "that", self._verb(), thing, where]
        elif self.style == "fronted":
            words = [where, ",", agent, self._verb(), thing]
        else:
            words = [agent, self._verb(), thing, where]
        end = "?" if self.style == "question" else "."
        return " ".join([*filter(None, words), end])

    def prompt(self, order: tuple[str, ...] = ROLES) -> str:
        """The fact as the small T5 reads it: `agent: old dogs ; action: see ; ...`, in any order."""
        values = {
            "agent": self.agent.words,
            "action": self.action,
            "object": self.object.words,
            "place": self.place,
            "time": self.time,
            "style": self.style,
        }
        return " ; ".join(f"{role}: {values[role]}" for role in order if values[role])

    def content(self) -> frozenset[str]:
        """The words that carry its meaning, uninflected: nouns, verb, adjectives, place."""
        return content(self.sentence())

    @property
    def _forms(self) -> tuple[str, str, str]:
        return VERBS[self.action]

    def _verb(self) -> str:
        if self.time == "future":
            return f"will {self.action}"
        if self.time == "past":
            return self._forms[1]
        return self.action if self.agent.plural else self._forms[0]

    def _be(self, plural: bool) -> str:
        if self.time == "future":
            return "will be"
        if self.time == "past":
            return "were" if plural else "was"
        return "are" if plural else "is"

    def _do(self) -> str:
        if self.time == "present":
            return "do" if self.agent.plural else "does"
        return "will" if self.time == "future" else "did"


def content(text: str) -> frozenset[str]:
    """The words of any text that carry meaning, uninflected; grammar does not matter.

    >>> sorted(content("dogs old the the saw garden"))
    ['dog', 'garden', 'old', 'see']
    """
    return frozenset(_MEANS[word] for word in text.split() if word in _MEANS)


def parse(text: str) -> Fact | None:
    """The fact that a sentence states; None for what is no sentence of the language.

    The content words name at most a few facts. A text is a sentence exactly if one of them is stated
    by these very words.
    """
    words = text.split()
    things = list(_things(words))
    verbs = [_BASE[word] for word in words if word in _BASE]
    places = [word for word in words if word in PLACES]
    if len(things) != 2 or len(verbs) != 1 or len(places) > 1:
        return None
    place = places[0] if places else None
    for style, time in product(STYLES, TIMES):
        agent, thing = reversed(things) if style == "passive" else things
        fact = Fact(agent, verbs[0], thing, time, style, place)
        if (place or style != "fronted") and fact.sentence() == " ".join(words):
            return fact
    return None


def is_sentence(text: str) -> bool:
    """Whether a text is a sentence of the language, whatever it says."""
    return parse(text) is not None


def facts(count: int, *, seed: int = 0, unseen: bool = True) -> list[tuple[Fact, str]]:
    """Facts drawn at random, each with its prompt, whose roles come in an order of their own.

    Args:
        count: how many.
        unseen: facts that the small T5 was not trained on (see `held_out`), or such as it was.

    Raises:
        ArgumentError: no whole number from 0 on.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ArgumentError(f"count={count!r}: a whole number from 0 on.")
    generator = np.random.default_rng(seed)
    found: list[tuple[Fact, str]] = []
    while len(found) < count:
        fact, prompt = _drawn(generator)
        if held_out(fact) == unseen:
            found.append((fact, prompt))
    return found


def held_out(fact: Fact) -> bool:
    """Whether training never sees who does what to whom here: one combination in ten."""
    key = f"{fact.agent.noun} {fact.action} {fact.object.noun}".encode()
    return hashlib.sha256(key).digest()[0] % 10 == 0


def vocabulary() -> list[str]:
    """Every word of the prompts and sentences, in a fixed order."""
    forms = [form for verb, three in VERBS.items() for form in dict.fromkeys((verb, *three))]
    nouns = [form for pair in NOUNS.items() for form in pair]
    roles = [f"{role}:" for role in ROLES]
    prepositions = list(dict.fromkeys(PLACES.values()))
    words = [*GRAMMAR, *prepositions, *roles, *TIMES, *STYLES]
    return [*words, *nouns, *forms, *ADJECTIVES, *PLACES]


def _drawn(generator: np.random.Generator) -> tuple[Fact, str]:
    def one(options: tuple[str, ...]) -> str:
        return options[generator.integers(len(options))]

    nouns = generator.permutation(len(NOUNS))[:2]
    names = tuple(NOUNS)
    agent, thing = (
        Thing(
            names[noun],
            plural=bool(generator.integers(2)),
            quality=one(ADJECTIVES) if generator.integers(2) else None,
        )
        for noun in nouns
    )
    style = one(STYLES)
    placed = style == "fronted" or generator.random() < 0.6
    place = one(tuple(PLACES)) if placed else None
    fact = Fact(agent, one(tuple(VERBS)), thing, one(TIMES), style, place)
    order = tuple(ROLES[index] for index in generator.permutation(len(ROLES)))
    return fact, fact.prompt(order)


def _things(words: list[str]) -> Iterator[Thing]:
    """Each noun of a text, with the adjective right before it."""
    for index, word in enumerate(words):
        if word in _SINGULAR:
            before = words[index - 1] if index else ""
            quality = before if before in ADJECTIVES else None
            yield Thing(_SINGULAR[word], word in _PLURAL, quality)
