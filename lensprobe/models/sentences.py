"""The task of the small T5: facts in any order, one English sentence out, checked by a parser.

A sentence carries its facts or it does not, and is grammatical or it is not, so that a mixture of two
inputs can be judged without a reader: by `parse`, which accepts the sentences of the grammar and
nothing else, and says what they mean.

>>> facts = Facts("dog", "many", "chase", "cat", "garden", "past", quality="old")
>>> facts.prompt()
'agent: dog number: many quality: old action: chase object: cat place: garden time: past focus: agent'
>>> facts.sentence()
'the old dogs chased the cat in the garden .'
>>> parse(facts.sentence()) == facts
True
>>> parse("the dogs chases the cat in the garden .") is None
True
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

__all__ = ["SLOTS", "Facts", "carried", "held_out", "parse", "sample", "vocabulary"]

NOUNS = [
    *("dog", "cat", "bird", "horse", "farmer", "teacher", "child", "doctor"),
    *("king", "sailor", "baker", "painter", "robot", "monkey", "lion", "wolf"),
]
QUALITIES = ["old", "young", "happy", "tired", "brave", "quiet", "clever", "hungry"]
ACTIONS = {
    "chase": ("chases", "chased"),
    "find": ("finds", "found"),
    "help": ("helps", "helped"),
    "paint": ("paints", "painted"),
    "see": ("sees", "saw"),
    "follow": ("follows", "followed"),
    "carry": ("carries", "carried"),
    "feed": ("feeds", "fed"),
    "teach": ("teaches", "taught"),
    "call": ("calls", "called"),
}
"""Verb: its form after one agent, and its past."""
PLURALS = {noun: noun + "s" for noun in NOUNS} | {"child": "children", "wolf": "wolves"}
PLACES = ["garden", "house", "forest", "market", "school", "river", "castle", "kitchen"]
NUMBERS, TIMES, FOCUSES = ("one", "many"), ("past", "present"), ("agent", "place")


@dataclass(frozen=True)
class Facts:
    """What one sentence says.

    Attributes:
        agent: who acts; `number` says whether "one" or "many".
        number: "one" or "many".
        action: the verb.
        object: on whom; always one.
        place: where.
        time: "past" or "present".
        focus: what comes first in the sentence, "agent" or "place".
        quality: an adjective of the agent, or None.
    """

    agent: str
    number: str
    action: str
    object: str
    place: str
    time: str
    focus: str = "agent"
    quality: str | None = None

    def prompt(self, order: Sequence[str] | None = None) -> str:
        """The facts as the model reads them; `order` names the slots in another order."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        names = SLOTS if order is None else order
        return " ".join(f"{name}: {said[name]}" for name in names if name in said)

    def sentence(self) -> str:
        """The one sentence of the grammar that says them."""
        agent = self.agent if self.number == "one" else PLURALS[self.agent]
        singular, past = ACTIONS[self.action]
        present = singular if self.number == "one" else self.action
        verb = past if self.time == "past" else present
        who = ["the", *([self.quality] if self.quality else []), agent]
        what, where = [verb, "the", self.object], ["in", "the", self.place]
        words = [*where, *who, *what] if self.focus == "place" else [*who, *what, *where]
        return " ".join([*words, "."])


SLOTS = ("agent", "number", "quality", "action", "object", "place", "time", "focus")
"""Names of the facts, in the order of a prompt."""


def parse(text: str) -> Facts | None:
    """What a sentence says, or None where it is not one of the grammar.

    Agreement counts: "the dogs chases" is not a sentence. A past verb agrees with any agent.
    """
    words = text.split()
    if len(words) < 2 or words.pop() != ".":
        return None
    focus = "place" if words[:1] == ["in"] else "agent"
    if len(words) < 8:
        return None
    where, rest = (words[:3], words[3:]) if focus == "place" else (words[-3:], words[:-3])
    quality = rest.pop(1) if len(rest) == 6 else None
    if len(rest) != 5 or where[:2] != ["in", "the"] or (rest[0], rest[3]) != ("the", "the"):
        return None
    agents = {form: (noun, "one") for noun, form in zip(NOUNS, NOUNS, strict=True)}
    agents |= {form: (noun, "many") for noun, form in PLURALS.items()}
    agent, number = agents.get(rest[1], (None, None))
    action, time = _verb(rest[2], number)
    good = agent and action and rest[4] in NOUNS and where[2] in PLACES
    if not good or (quality is not None and quality not in QUALITIES):
        return None
    found = (agent, number, action, rest[4], where[2], time, focus)
    return Facts(*map(str, found), quality=quality)


def _verb(word: str, number: str | None) -> tuple[str | None, str | None]:
    for action, (singular, past) in ACTIONS.items():
        if word == past:
            return action, "past"
        if word == (singular if number == "one" else action):
            return action, "present"
    return None, None


def carried(text: str, facts: Facts) -> float:
    """The share of the facts' content words that a text has: agent, quality, action, object, place.

    Counted in any grammatical or ungrammatical text, whatever the words' forms; quality only where
    the facts have one.
    """
    words = set(text.split())
    forms = [{facts.agent, PLURALS[facts.agent]}, {facts.action, *ACTIONS[facts.action]}]
    forms += [{facts.object, PLURALS[facts.object]}, {facts.place}]
    forms += [{facts.quality}] if facts.quality else []
    return sum(bool(words & form) for form in forms) / len(forms)


def sample(chance: random.Random) -> Facts:
    """Random facts, agent and object different."""
    agent, other = chance.sample(NOUNS, 2)
    return Facts(
        agent,
        chance.choice(NUMBERS),
        chance.choice(list(ACTIONS)),
        other,
        chance.choice(PLACES),
        chance.choice(TIMES),
        chance.choice(FOCUSES),
        chance.choice([None, *QUALITIES]),
    )


def held_out(facts: Facts) -> bool:
    """Whether training never sees who does what to whom here: one combination in ten."""
    key = f"{facts.agent} {facts.action} {facts.object}".encode()
    return hashlib.sha256(key).digest()[0] % 10 == 0


def vocabulary() -> list[str]:
    """Every word of prompts and sentences, sorted."""
    words = {f"{field.name}:" for field in fields(Facts)}
    words |= {*NOUNS, *PLURALS.values(), *QUALITIES, *PLACES, *NUMBERS, *TIMES, *FOCUSES}
    words |= {form for action, forms in ACTIONS.items() for form in (action, *forms)}
    return sorted(words | {"the", "in", "."})
