"""Selectors: which tokens each rule picks, fixed or moving, never a pad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensprobe import positions
from lensprobe.errors import ArgumentError
from lensprobe.positions import Step


def step(prompts: list[int], total: int, *, begin: int = 0) -> Step:
    """Columns `begin`..`total` of left-padded rows whose prompts end in one column."""
    width = max(prompts)
    place = np.stack([np.arange(begin, total) - (width - p) for p in prompts])
    place = np.where(place < 0, -1, place)
    newest = np.zeros_like(place, dtype=bool)
    newest[:, -1] = True
    rows = np.arange(len(prompts))
    return Step(place, np.zeros_like(place), np.array(prompts), newest, rows)


def picked(selector: positions.Positions, prompts: list[int], total: int) -> list[list[int]]:
    s = step(prompts, total)
    mask = selector.mask(s)
    return [sorted(s.positions[r, mask[r]].tolist()) for r in range(len(prompts))]


CASES = [
    (positions.all(), [[0, 1, 2, 3, 4], [0, 1, 2, 3]]),
    (positions.front(2), [[0, 1], [0, 1]]),
    (positions.after_prompt(), [[2, 3, 4], [1, 2, 3]]),
    (positions.generated(), [[3, 4], [2, 3]]),
    (positions.last(), [[4], [3]]),
    (positions.at(0, -1), [[0, 2], [0, 1]]),
    (positions.between(1, 3), [[1, 2], [1, 2]]),
    (positions.between(-2, 9), [[1, 2, 3, 4], [0, 1, 2, 3]]),
    (positions.where([True, False]), [[0], [0]]),
    (positions.where([[True, False], [False, True]]), [[0], [1]]),
    (positions.all() - positions.front(1), [[1, 2, 3, 4], [1, 2, 3]]),
    (positions.front(1) | positions.generated(), [[0, 3, 4], [0, 2, 3]]),
    (positions.after_prompt() & ~positions.generated(), [[2], [1]]),
]


@pytest.mark.parametrize(("selector", "expected"), CASES, ids=lambda c: getattr(c, "text", ""))
def test_each_rule_picks_the_tokens_its_name_says(selector, expected):
    assert picked(selector, [3, 2], 5) == expected


@given(
    prompts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    new=st.integers(0, 5),
    cut=st.integers(1, 10),
)
def test_fixed_rules_answer_the_same_whichever_way_the_tokens_are_fed(prompts, new, cut):
    total = max(prompts) + new
    cut = min(cut, total)
    for selector, _ in CASES:
        if selector.moves or selector.text == "where(mask)":
            continue
        whole = selector.mask(step(prompts, total))
        parts = [
            selector.mask(step(prompts, total, begin=b))[:, : cut if b + cut <= total else None]
            for b in range(0, total, cut)
        ]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_roles_select_the_words_of_one_speaker():
    s = step([4], 5)
    chat = Step(
        s.positions, s.tokens, s.prompts, s.newest, s.rows, roles=[[None, "user", "user", None]]
    )
    assert positions.role("user").mask(chat).tolist() == [[False, True, True, False, False]]
    with pytest.raises(ArgumentError, match="roles of this prompt are user"):
        positions.role("system").check(chat)
    with pytest.raises(ArgumentError, match="not a chat"):
        positions.role("user").check(s)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: positions.front(0), "positive whole number"),
        (lambda: positions.front(True), "positive whole number"),
        (lambda: positions.at(), "one or more whole numbers"),
        (lambda: positions.at(1.5), "whole numbers"),
        (lambda: positions.where([False, False]), "selects no token"),
    ],
)
def test_selectors_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (positions.at(3), "position 3 is out of range: a prompt has 2 tokens"),
        (positions.at(-3), "position -3 is out of range"),
        (positions.front(3), "front\\(3\\) needs 3 tokens; a prompt has 2"),
        (positions.between(2, 2), "selects nothing"),
        (positions.where([True] * 9), "does not fit"),
        (positions.all() - positions.at(7), "position 7 is out of range"),
    ],
)
def test_a_prompt_that_cannot_satisfy_a_selector_is_refused(selector, message):
    with pytest.raises(ArgumentError, match=message):
        selector.check(step([3, 2], 3))
