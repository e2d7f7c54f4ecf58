"""The small language and the small T5 that speaks it: the parser exact, the accuracy held out."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.models._sentence_words import ADJECTIVES, NOUNS, PLACES, VERBS
from lensprobe.models.sentences import (
    STYLES,
    TIMES,
    Fact,
    Thing,
    content,
    facts,
    held_out,
    is_sentence,
    parse,
    vocabulary,
)


def things():
    return st.builds(
        Thing,
        st.sampled_from(sorted(NOUNS)),
        plural=st.booleans(),
        quality=st.none() | st.sampled_from(ADJECTIVES),
    )


@st.composite
def any_facts(draw):
    style = draw(st.sampled_from(STYLES))
    place = st.sampled_from(sorted(PLACES))
    return Fact(
        draw(things()),
        draw(st.sampled_from(sorted(VERBS))),
        draw(things()),
        draw(st.sampled_from(TIMES)),
        style,
        draw(place if style == "fronted" else st.none() | place),
    )


# ---- the language ----------------------------------------------------------------------------------


@given(any_facts())
@settings(max_examples=300, deadline=None)
def test_the_parser_reads_every_sentence_back(fact):
    assert parse(fact.sentence()) == fact
    assert set(fact.sentence().split()) <= set(vocabulary())


@given(any_facts(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_a_sentence_with_its_words_in_another_order_is_refused_or_another_sentence(fact, chance):
    words = fact.sentence().split()
    chance.shuffle(words)
    found = parse(" ".join(words))
    assert found is None or found.sentence() == " ".join(words)


@given(any_facts(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_sentence_without_one_of_its_words_is_refused(fact, data):
    words = fact.sentence().split()
    place = data.draw(st.integers(0, len(words) - 1))
    # An adjective may go, and without its future a sentence may be one of the present.
    if words[place] not in (*ADJECTIVES, "will"):
        assert not is_sentence(" ".join(words[:place] + words[place + 1 :]))


FACT = Fact(Thing("dog", True, "old"), "see", Thing("owl"), "present", "active", "roof")


@pytest.mark.parametrize(
    ("style", "time", "expected"),
    [
        ("active", "present", "the old dogs see an owl on the roof ."),
        ("active", "past", "the old dogs saw an owl on the roof ."),
        ("passive", "present", "an owl is seen by the old dogs on the roof ."),
        ("passive", "future", "an owl will be seen by the old dogs on the roof ."),
        ("question", "past", "did the old dogs see an owl on the roof ?"),
        ("question", "present", "do the old dogs see an owl on the roof ?"),
        ("cleft", "past", "it was the old dogs that saw an owl on the roof ."),
        ("fronted", "future", "on the roof , the old dogs will see an owl ."),
    ],
)
def test_the_sentences(style, time, expected):
    assert replace(FACT, style=style, time=time).sentence() == expected


@pytest.mark.parametrize(
    "broken",
    [
        "",
        ".",
        "the old dogs sees an owl on the roof .",  # agreement with the agent
        "an owl are seen by the old dogs on the roof .",  # agreement with what it is done to
        "the old dogs see a owl on the roof .",  # the article before a vowel
        "the old dogs see an owl in the roof .",  # the preposition of the place
        "the old dogs see an owl on the roof ?",  # the sign of another style
        "does the old dogs see an owl ?",
        "did the old dogs saw an owl ?",
        "the old dogs see an owl an owl .",
        "the old old dogs see an owl .",
        "the dogs see the owl .",
        "on the roof the old dogs see an owl .",
        "The old dogs see an owl .",
        "the old unicorns see an owl .",
    ],
)
def test_broken_sentences_are_refused(broken):
    assert parse(broken) is None


def test_content_needs_no_grammar():
    assert content("roof owl dogs the seen saw zebra") == {"roof", "owl", "dog", "see"}
    assert FACT.content() == {"dog", "old", "see", "owl", "roof"}


def test_facts_are_drawn_again_from_their_seed_and_kept_apart():
    assert facts(20, seed=3) == facts(20, seed=3) != facts(20, seed=4)
    assert all(held_out(fact) for fact, _ in facts(50))
    assert not any(held_out(fact) for fact, _ in facts(50, unseen=False))
    assert facts(0) == []
    for wrong in (-1, 1.5, True):
        with pytest.raises(ArgumentError, match="count"):
            facts(wrong)


def test_a_prompt_names_every_role_that_is_said():
    assert FACT.prompt() == (
        "agent: old dogs ; action: see ; object: owl ; place: roof ; time: present ; style: active"
    )
    assert replace(FACT, place=None).prompt(("time", "place")) == "time: present"


def test_vocabulary_has_no_word_twice():
    assert len(vocabulary()) == len(set(vocabulary()))


# ---- the model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return lp.load("sentences-t5")


def test_it_loads_in_float32_and_is_small(small):
    assert {str(p.dtype) for p in small.parameters()} == {"torch.float32"}
    folder = resources.files("lensprobe") / "data" / "sentences-t5"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 4e6
    assert lp.check(small).facts["from"].startswith("trained by lensprobe")


def test_it_states_held_out_facts(small):
    drawn = facts(200, seed=7)
    said = lp.generate(small, [prompt for _, prompt in drawn], max_new_tokens=24).completions
    exact = np.mean([text == fact.sentence() for text, (fact, _) in zip(said, drawn, strict=True)])
    grammatical = np.mean([is_sentence(text) for text in said])
    assert exact >= 0.95 and grammatical >= 0.97
    stated = json.loads(
        (resources.files("lensprobe") / "data" / "sentences-t5" / "accuracy.json").read_text()
    )
    assert exact == pytest.approx(stated["exact"], abs=0.04)


def test_its_loss_knows_a_true_sentence_from_another(small):
    (fact, prompt), (other, _) = facts(2, seed=8)
    losses = lp.score(small, [fact.sentence(), other.sentence()], prompt=prompt).texts["loss"]
    assert losses[0] < 0.1 < 1 < losses[1]
