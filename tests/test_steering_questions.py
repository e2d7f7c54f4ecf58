"""Contrast questions: reading them, splitting them, and finding the answer's token."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_tokenizer
from transformers import AutoTokenizer

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.steering import Question, Questions
from lensprobe.steering.sides import answer_token


def record(question="Is it?", matching=" (A)", other=" (B)", **more):
    fields = {"answer_matching_behavior": matching, "answer_not_matching_behavior": other}
    return {"question": question, **fields, **more}


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "evals.jsonl"
    lines = [json.dumps(record("One?", " Yes", " No", statement="one")), "", json.dumps(record())]
    path.write_text("\n".join(lines))
    for given_ in (path, str(path)):
        found = lp.steering.questions(given_)
        assert list(found) == [Question("One?", " Yes", " No"), Question("Is it?", " (A)", " (B)")]
        assert repr(found) == "Questions(2 from evals.jsonl)"
    assert len(lp.steering.questions(path, limit=1)) == 1
    assert lp.steering.questions(found) is found
    assert lp.steering.questions(found, limit=1).source == "evals.jsonl"


def test_records_and_generators_are_read():
    for given_ in (
        [record()],
        (record() for _ in "x"),
        record(),
        [Question("Is it?", " (A)", " (B)")],
    ):
        assert lp.steering.questions(given_)[0] == Question("Is it?", " (A)", " (B)")


def test_a_generator_is_read_no_further_than_the_limit():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield record()

    assert len(lp.steering.questions(endless(), limit=3)) == len(taken) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a"}', "line 2 lacks 'answer_matching_behavior'; it has question"),
        (json.dumps(record(question="")), "line 2: question is ''"),
        (json.dumps(record(matching=None)), "line 2: answer_matching_behavior is None"),
        (json.dumps(record(other=" (A)")), r"line 2: both answers are ' \(A\)'"),
        ("{'question'", "line 2 is not JSON"),
        ("[1, 2]", "line 2 is no record with the fields question"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "evals.jsonl"
    path.write_text(f"{json.dumps(record())}\n{line}\n")
    with pytest.raises(ArgumentError, match=f"evals.jsonl {message}"):
        lp.steering.questions(path)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("nowhere.jsonl", "nowhere.jsonl': no such file"),
        ("evals.csv", r"from a \.jsonl file"),
        ([], "no question"),
        (iter([]), "no question"),
        (7, "type int"),
        (["a text"], r"texts\[0\] is no record"),
    ],
)
def test_what_holds_no_questions(given_, message):
    with pytest.raises(ArgumentError, match=message):
        lp.steering.questions(given_)


def test_an_empty_file(tmp_path):
    (tmp_path / "evals.jsonl").write_text("\n\n")
    with pytest.raises(ArgumentError, match="no question"):
        lp.steering.questions(tmp_path / "evals.jsonl")


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_a_split_is_a_partition(count, share, seed):
    whole = Questions([Question(str(n), " A", " B") for n in range(count)])
    train, test = whole.split(share, seed)
    numbers = [int(item.question) for item in (*train, *test)]
    assert sorted(numbers) == list(range(count))
    for part in (train, test):
        order = [int(item.question) for item in part]
        assert order == sorted(order) and len(part) >= 1
    assert abs(len(train) - share * count) <= 1
    assert list(whole.split(share, seed)[0]) == list(train)


def test_seeds_split_differently():
    whole = Questions([Question(str(n), " A", " B") for n in range(30)])
    assert len({tuple(whole.split(0.5, seed)[0]) for seed in range(5)}) == 5
    assert type(whole[:4]) is Questions and len(whole[:4]) == 4


@pytest.mark.parametrize("share", [0, 1, -0.5, "half", True, float("nan")])
def test_a_share_outside_its_range(share):
    with pytest.raises(ArgumentError, match="share="):
        Questions([Question("a", " A", " B")] * 4).split(share)
    with pytest.raises(ArgumentError, match="cannot be split"):
        Questions([Question("a", " A", " B")]).split()


# ---- the answer's token ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(
    question=st.text(st.characters(codec="ascii"), min_size=1, max_size=30),
    before=st.sampled_from([" ", " (", "(", "\n"]),
    letters=st.text("ABCYesNocathe", min_size=1, max_size=8),
    after=st.sampled_from(["", ")", ".", ") "]),
)
def test_it_is_the_token_that_holds_the_first_letter(tokenizer, question, before, letters, after):
    answer = before + letters + after
    ids = tokenizer.encode(question + answer, add_special_tokens=False)
    at = answer_token(tokenizer, tuple(ids), answer)
    start, end = (len(tokenizer.decode(ids[:n])) for n in (at, at + 1))
    assert start <= len(question) + len(before) < end


def test_in_gpt2s_tokens_it_is_where_the_paper_reads(data_dir):
    """Token -2 of ` (A)`, and the only token of ` Yes`."""
    gpt2 = AutoTokenizer.from_pretrained(data_dir / "gpt2-tokenizer")
    for answer, index in ((" (A)", -2), (" Yes", -1), (" (B)", -2), (" No", -1)):
        ids = gpt2.encode("Are you?\n\nChoices:\n (A) Yes\n (B) No" + answer)
        assert answer_token(gpt2, tuple(ids), answer) == len(ids) + index


@pytest.mark.weights
def test_every_question_of_the_evals_has_its_letter(data_dir, smollm2):
    for path in sorted((data_dir / "anthropic-evals").glob("*.jsonl")):
        for item in lp.steering.questions(path, limit=60):
            for answer in (item.matching, item.not_matching):
                ids = smollm2.tokenizer.encode(item.question + answer)
                token = smollm2.tokenizer.decode(
                    [ids[answer_token(smollm2.tokenizer, tuple(ids), answer)]]
                )
                assert token.strip() == answer.strip(" ()")
