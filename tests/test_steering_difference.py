"""Vectors from many contrasts: against plain transformers, and against numpy and scikit-learn.

What is compared with is read one unpadded text at a time, without lensprobe (`plain_residuals`).
"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_residuals import plain_residuals
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from tolerance import RESIDUAL, close

import lensprobe as lp
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.models import adapter_for
from lensprobe.shards import keeping
from lensprobe.steering import Question, Questions, SteeringVector, SteeringVectors
from lensprobe.steering.estimators import ESTIMATORS, shrunk
from lensprobe.steering.reading import Block, Pair, Reader, Text
from lensprobe.steering.sides import answer_token
from lensprobe.tokens import encode

LAYERS = 4
SAID = "the cat sat on mat one two three four five house little fox dog jumps over lazy"
WORDS = SAID.split(" ")
METHODS = tuple(ESTIMATORS)


def asked(count=10, seed=0):
    """Questions of very different lengths, with letters and words for answers."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(count):
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 25))))
        answers = ((" (A)", " (B)"), (" Yes", " No"), (" the cat", " a dog over"))[n % 3]
        found.append(
            Question(f"Is it {words}?", *(answers if rng.random() < 0.5 else answers[::-1]))
        )
    return Questions(found, "made up")


def told(count=10, seed=0):
    """Two lists of texts that share no beginning."""
    rng = np.random.default_rng(seed)
    return tuple(
        [" ".join([first, *rng.choice(WORDS, size=int(rng.integers(0, 20)))]) for _ in range(count)]
        for first in ("Once upon", "I think")
    )


@pytest.fixture(scope="module")
def model(decoder):
    """Both classes, both kinds of position."""
    return decoder


@pytest.fixture(scope="module")
def residuals(request, model):
    kind = "gpt2" if model is request.getfixturevalue("tiny_gpt2") else "llama"
    return plain_residuals(model, request.getfixturevalue(f"{kind}_folder"))


def read_by_hand(model, residuals, texts, at):
    """float64 `[texts layers width]` at one token of each text."""
    rows = [encode(adapter_for(model), text) for text in texts]
    where = at if callable(at) else lambda ids, text: at
    return np.stack(
        [residuals(ids)[:, where(ids, text)] for ids, text in zip(rows, texts, strict=True)]
    )


def sides_by_hand(model, residuals, questions):
    """Activations at the answers' letters, the letter found by spelling the text out."""
    tokenizer = model.tokenizer

    def letter(answer):
        def at(ids, text):
            place = len(text) - len(answer) + next(i for i, c in enumerate(answer) if c.isalnum())
            ends = list(itertools.accumulate(len(tokenizer.decode([i])) for i in ids[1:]))
            return 1 + next(n for n, end in enumerate(ends) if end > place)

        return at

    def side(name):
        answers = [(q.question, getattr(q, name)) for q in questions]
        rows = [read_by_hand(model, residuals, [q + a], letter(a)) for q, a in answers]
        return np.concatenate(rows)

    return side("matching"), side("not_matching")


# ---- against plain transformers --------------------------------------------------------------


def test_the_mean_difference_of_questions(model, residuals):
    questions = asked()
    plus, minus = sides_by_hand(model, residuals, questions)
    expected = (plus - minus).mean(0)
    found = lp.steering.difference(model, questions)
    assert type(found) is SteeringVectors and found.layers == tuple(range(LAYERS))
    for layer in found:
        close(found[layer].values, expected[layer], "residual")
    assert found.provenance["read"] == "answer" and found.provenance["positive"]["texts"] == 10


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("read", ["last", -2, 1])
def test_the_mean_difference_of_texts(model, residuals, batch_tokens, read):
    sides = told()
    at = -1 if read == "last" else read
    plus, minus = (read_by_hand(model, residuals, side, at) for side in sides)
    found = lp.steering.difference(
        model, *sides, layers=[3, 1], read=read, batch_tokens=batch_tokens
    )
    assert found.layers == (1, 3)
    for layer in found:
        close(found[layer].values, (plus - minus).mean(0)[layer], "residual")


def test_every_row_is_the_text_alone(model, residuals):
    """Row by row, shared prefixes and left padding included: not only on average."""
    adapter = adapter_for(model)
    sides = [(q.question + q.matching, q.question + q.not_matching) for q in asked(12)]
    pairs = []
    for number, texts in enumerate([*sides, *zip(*told(6), strict=True)]):
        both = (tuple(encode(adapter, text)) for text in texts)
        pairs.append(Pair(number, *(Text(ids, len(ids) - 1) for ids in both)))
    assert {bool(pair.prefix) for pair in pairs} == {True, False}
    reader = Reader(adapter, range(LAYERS), "resid_post")
    seen = set()
    for group in reader.groups(pairs, 60):
        block = reader.read(group)
        for values, numbers, side in (
            (block.positive, block.positive_numbers, "positive"),
            (block.negative, block.negative_numbers, "negative"),
        ):
            for row, number in zip(values, numbers, strict=True):
                close(row, residuals(getattr(pairs[number], side).ids)[:, -1], "residual")
                seen.add((int(number), side))
    assert len(seen) == 2 * len(pairs)


def test_unequal_sides_are_two_means(model, residuals):
    one, two = told()
    found = lp.steering.difference(model, one[:7], two[:2], layers=2)
    assert type(found) is SteeringVector and found.layer == 2
    means = [read_by_hand(model, residuals, side, -1).mean(0)[2] for side in (one[:7], two[:2])]
    close(found.values, means[0] - means[1], "residual")
    assert (found.provenance["positive"]["texts"], found.provenance["negative"]["texts"]) == (7, 2)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "attn.v"])
def test_other_sites(model, site):
    questions = asked(5)
    found = lp.steering.difference(model, questions, layers=[0, 2], site=site, read="last")
    texts = [
        [q.question + q.matching for q in questions],
        [q.question + q.not_matching for q in questions],
    ]

    def last(text, layer):
        return lp.forward(model, text, layers=layer, site=site, logits=None).activation(layer)[-1]

    for layer in (0, 2):
        ends = [[last(text, layer) for text in side] for side in texts]
        close(found[layer].values, np.mean(ends[0], 0) - np.mean(ends[1], 0), "residual")


def test_a_vector_of_one_pair_turns_one_text_into_the_other(model):
    front = encode(adapter_for(model), "the cat sat on")
    plus, minus = [[*front, 300]], [[*front, 301]]
    vector = lp.steering.difference(model, plus, minus, layers=1)
    steered = lp.forward(model, minus, edits=vector.add(1, lp.positions.at(-1)), layers=[1, 3])
    goal = lp.forward(model, plus, layers=[1, 3])
    for layer in (1, 3):
        close(steered.activation(layer)[-1], goal.activation(layer)[-1], "residual")


# ---- the methods -----------------------------------------------------------------------------


def as_long_as(direction, difference):
    unit = direction / np.linalg.norm(direction)
    return unit * abs(unit @ difference)


def by_hand(method, plus, minus):
    """A vector from two matrices `[texts width]`, in memory."""
    difference = plus.mean(0) - minus.mean(0)
    if method == "mean":
        return difference
    if method == "pca":
        first = np.linalg.svd(plus - minus)[2][0]
        return as_long_as(first if first @ difference > 0 else -first, difference)
    if method == "lda":
        within = np.concatenate([plus - plus.mean(0), minus - minus.mean(0)])
        covariance, _ = ledoit_wolf(within, assume_centered=True)
        return as_long_as(np.linalg.inv(covariance) @ difference, difference)
    rows = np.concatenate([plus, minus])
    centred = rows - rows.mean(0)
    centred /= np.sqrt((centred**2).sum(1).mean())
    labels = [1] * len(plus) + [0] * len(minus)
    fitted = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-8).fit(centred, labels)
    return as_long_as(fitted.coef_[0], difference)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_against_numpy_and_scikit_learn(model, residuals, method):
    questions = asked(14)
    plus, minus = sides_by_hand(model, residuals, questions)
    found = lp.steering.difference(model, questions, method=method, batch_tokens=80)
    for layer in (0, 3):
        expected = by_hand(method, plus[:, layer], minus[:, layer])
        cosine = found[layer].values @ expected / np.linalg.norm(expected) / found[layer].norm
        assert cosine > 1 - 1e-5
        assert found[layer].norm == pytest.approx(np.linalg.norm(expected), rel=1e-3)
    assert found.provenance["method"] == method


BLOCKS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(sizes=BLOCKS, seed=st.integers(0, 1000))
def test_a_stream_of_blocks_is_the_whole_in_memory(method, sizes, seed):
    rng = np.random.default_rng(seed)
    count, width = sum(sizes) + 2, 5
    shift = rng.normal(size=width) + 30
    plus, minus = (rng.normal(size=(count, 2, width)).astype(np.float32) for _ in "ab")
    plus += shift.astype(np.float32)
    estimator = ESTIMATORS[method](2, width, 0)
    order = rng.permutation(count)
    for part in np.split(order, np.cumsum(sizes)[:-1]):
        estimator.update(Block(plus[part], minus[part], part, part))
    for layer in range(2):
        expected = by_hand(method, plus[:, layer].astype(float), minus[:, layer].astype(float))
        np.testing.assert_allclose(estimator.vector(layer), expected, rtol=2e-3, atol=2e-3)


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 100))
def test_shrinkage_is_ledoit_and_wolfs(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width)) * np.arange(1, width + 1)
    found, share = shrunk(count, rows.T @ rows, float(((rows**2).sum(1) ** 2).sum()))[::-1]
    expected, shrinkage = ledoit_wolf(rows, assume_centered=True)
    # Of one dimension there is nothing to shrink to, and any share says the same.
    assert width == 1 or share == pytest.approx(shrinkage, abs=1e-9)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_without_any_spread_whitening_changes_nothing():
    share, covariance = shrunk(4, np.zeros((3, 3)), 0.0)
    assert share == 1.0 and (covariance == np.eye(3)).all()


def test_equal_sides_give_zero_not_nan(tiny_gpt2):
    texts = ["the cat", "one two three", "a dog over the house"]
    for method in METHODS:
        found = lp.steering.difference(tiny_gpt2, texts, texts, layers=1, method=method)
        assert found.norm == pytest.approx(0, abs=1e-5)


def test_a_planted_direction_is_found_by_every_method():
    """Sides that differ along one axis, under noise that is much larger along another."""
    rng = np.random.default_rng(0)
    count, width = 400, 12
    noise = np.ones(width)
    noise[3] = 20
    base = rng.normal(size=(2, count, 1, width)) * noise
    base[0, ..., 7] += 2
    numbers = np.arange(count)
    cosines = {}
    for method in METHODS:
        estimator = ESTIMATORS[method](1, width, 0)
        estimator.update(Block(*base.astype(np.float32), numbers, numbers))
        vector = estimator.vector(0)
        assert vector[7] > 0
        cosines[method] = vector[7] / np.linalg.norm(vector)
    # Whitening and regression see through the noise; the largest variance is not the contrast.
    assert cosines["lda"] > 0.99 and cosines["logistic"] > 0.9
    assert cosines["pca"] < 0.3


# ---- however the data comes ------------------------------------------------------------------


def test_a_file_a_value_and_a_stream_are_one(tiny_gpt2, tmp_path):
    questions = asked(6)
    fields = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    records = [
        dict(zip(fields, (q.question, q.matching, q.not_matching), strict=True)) for q in questions
    ]
    path = tmp_path / "evals.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    whole = lp.steering.difference(tiny_gpt2, questions, layers=2)
    for given_ in (path, str(path), records, iter(records)):
        found = lp.steering.difference(tiny_gpt2, given_, layers=2)
        np.testing.assert_array_equal(found.values, whole.values)
    assert lp.steering.difference(tiny_gpt2, path, layers=2).provenance["positive"] == {
        "source": "evals.jsonl", "texts": 6, "answers": "matching"
    }  # fmt: skip
    few = lp.steering.difference(tiny_gpt2, path, layers=2, limit=3)
    close(few.values, lp.steering.difference(tiny_gpt2, questions[:3], layers=2).values, "residual")


def test_texts_of_files_records_ids_and_generators(tiny_gpt2, tmp_path):
    one, two = told(4)
    whole = lp.steering.difference(tiny_gpt2, one, two, layers=2)
    (tmp_path / "one.txt").write_text("\n".join(one))
    ids = [encode(adapter_for(tiny_gpt2), text) for text in two]
    for positive, negative, options in (
        (tmp_path / "one.txt", (text for text in two), {}),
        ([{"said": text} for text in one], [{"said": text} for text in two], {"column": "said"}),
        (one, ids, {}),
        (itertools.chain(one, ["never read"]), two, {"limit": 4}),
    ):
        found = lp.steering.difference(tiny_gpt2, positive, negative, layers=2, **options)
        np.testing.assert_array_equal(found.values, whole.values)


def test_a_stream_is_not_held(tiny_gpt2, monkeypatch):
    """However long it is, only a few batches of it wait at any time."""
    drawn, read, waiting = [0], [0], []
    plain = Reader.read

    def counted(self, pairs):
        read[0] += len(pairs)
        waiting.append(drawn[0] - read[0])
        return plain(self, pairs)

    def stream(count=0):
        for n in range(600):
            drawn[0] += count
            yield f"the cat {WORDS[n % 9]}"

    monkeypatch.setattr(Reader, "read", counted)
    lp.steering.difference(tiny_gpt2, stream(1), stream(), layers=1, batch_tokens=40, method="pca")
    assert read[0] == 600 and max(waiting) < 300


def test_batches_hold_what_they_may(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(200):
        ids = [tuple(rng.integers(1, 300, size=rng.integers(1, 50)).tolist()) for _ in range(2)]
        if number % 2:
            ids = [(*ids[0], 1), (*ids[0], 2)]
        negative = Text(ids[1], len(ids[1]) - 1) if number % 5 else None
        pairs.append(Pair(number, Text(ids[0], len(ids[0]) - 1), negative))
    reader = Reader(adapter, [1], "resid_post")
    groups = list(reader.groups(iter(pairs), 120))
    assert sorted(pair.number for group in groups for pair in group) == list(range(200))
    padded, real = [], 0
    for group in groups:
        sizes = [reader.size(pair) for pair in group]
        assert len({size.shared for size in sizes}) == 1
        padded.append(sum(size.rows for size in sizes) * max(size.columns for size in sizes))
        assert padded[-1] <= 120 or len(group) == 1
        real += sum(size.tokens for size in sizes)
    # Batches are of about equal length, so little of them is padding.
    assert sum(padded) < 1.15 * real


# ---- work that is not done -------------------------------------------------------------------


@pytest.fixture
def passes(tiny_gpt2, monkeypatch):
    """`(tokens, stop)` of each pass of the adapter."""
    adapter = adapter_for(tiny_gpt2)
    seen = []
    plain = adapter.run

    def run(inputs, **options):
        seen.append((inputs.numel(), options.get("stop")))
        return plain(inputs, **options)

    monkeypatch.setattr(adapter, "run", run)
    return seen


def test_a_question_is_read_once_and_nothing_after_the_letter(tiny_gpt2, passes):
    question = "Is it " + " ".join(WORDS)
    item = Question(question, " (A)", " (B)")
    lp.steering.difference(tiny_gpt2, Questions([item] * 5), layers=[0, 2])
    ids = encode(adapter_for(tiny_gpt2), question + " (A)")
    # All but the letter and the bracket after it, then two letters.
    assert passes == [(5 * (len(ids) - 2), 3), (5 * 2, 3)]


def test_blocks_above_the_deepest_layer_do_not_run(tiny_gpt2):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, n=n: ran.append(n))
        for n, block in enumerate(tiny_gpt2.blocks)
    ]
    try:
        lp.steering.difference(tiny_gpt2, asked(4), layers=[0, 1])
    finally:
        for handle in handles:
            handle.remove()
    # Block 1 is left from its last hook, before its module's own hooks.
    assert set(ran) <= {0, 1} and 0 in ran


def test_texts_without_a_common_beginning_take_one_pass(tiny_gpt2, passes):
    lp.steering.difference(tiny_gpt2, *told(3), layers=1)
    assert len(passes) == 1


def test_the_users_hooks_see_whole_passes(tiny_gpt2):
    questions = asked(4)
    plain = lp.steering.difference(tiny_gpt2, questions, layers=1)
    seen = []
    tiny_gpt2.add_hook("blocks.3.hook_resid_post", lambda x, hook: seen.append(tuple(x.shape)))
    try:
        under = lp.steering.difference(tiny_gpt2, questions, layers=1)
    finally:
        tiny_gpt2.reset_hooks()
    longest = max(
        len(encode(adapter_for(tiny_gpt2), q.question + a))
        for q in questions
        for a in (q.matching, q.not_matching)
    )
    assert seen[0][1] == longest and sum(shape[0] for shape in seen) == 8
    close(under.values, plain.values, "residual")
    assert any("hooks of your own" in note for note in under.provenance["notes"])
    assert under.provenance["user_hooks"] and not plain.provenance["notes"]


def test_it_reads_under_the_users_edits(model):
    edit = lp.Scale(factor=3.0, layers=0, positions=lp.positions.at(-1))
    texts = told(3)
    with lp.editing(model, [edit]):
        found = lp.steering.difference(model, *texts, layers=2)
    ends = [
        np.mean([lp.forward(model, t, layers=2, edits=edit).activation(2)[-1] for t in side], 0)
        for side in texts
    ]
    close(found.values, ends[0] - ends[1], "residual")


def test_nothing_is_left_behind(tiny_gpt2, monkeypatch):
    lp.steering.difference(tiny_gpt2, asked(3))
    monkeypatch.setattr(Reader, "_padded", lambda self, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lp.steering.difference(tiny_gpt2, asked(3))
    assert not any(p.fwd_hooks or p.bwd_hooks for p in tiny_gpt2.hook_dict.values())


# ---- when something goes wrong ---------------------------------------------------------------


def test_memory_that_runs_out_halves_the_batch(tiny_gpt2, monkeypatch):
    questions = asked(8)
    whole = lp.steering.difference(tiny_gpt2, questions, method="pca")
    plain = Reader.read

    def cramped(self, pairs):
        if len(pairs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, pairs)

    monkeypatch.setattr(Reader, "read", cramped)
    found = lp.steering.difference(tiny_gpt2, questions, method="pca")
    for layer in whole:
        close(found[layer].values, whole[layer].values, "residual")
    assert any("memory ran out" in note for note in found.provenance["notes"])


def test_an_interrupt_leaves_what_is_done(tiny_gpt2):
    one, two = told(200)

    def stopping():
        yield from one[:150]
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        lp.steering.difference(tiny_gpt2, stopping(), two, layers=1, batch_tokens=60)
    partial = stop.value.partial
    done = partial.provenance["finished"]["positive"]
    assert 0 < done < 150 and partial.provenance["complete"] is False
    with pytest.raises(Interrupted) as stop:
        lp.steering.difference(tiny_gpt2, stopping(), two, layers=1)
    assert stop.value.partial is None


def overflowing(monkeypatch, number):
    """The positive text of one pair (or of all, with None) has an infinite activation."""
    plain = Reader.read

    def read(self, pairs):
        block = plain(self, pairs)
        values = block.positive.copy()
        values[np.isin(block.positive_numbers, number) | (number is None), 0, 5] = np.inf
        return Block(values, block.negative, block.positive_numbers, block.negative_numbers)

    monkeypatch.setattr(Reader, "read", read)


@pytest.mark.parametrize("method", METHODS)
def test_texts_that_overflow_are_left_out_with_their_partners(tiny_gpt2, monkeypatch, method):
    questions = asked(6)
    kept = Questions([q for n, q in enumerate(questions) if n != 3])
    expected = lp.steering.difference(tiny_gpt2, kept, layers=1, method=method)
    overflowing(monkeypatch, 3)
    found = lp.steering.difference(tiny_gpt2, questions, layers=1, method=method)
    assert found.cosine(expected) > 1 - 1e-5
    assert found.provenance["finished"] == {"positive": 5, "negative": 5}
    assert "2 texts left out: activations that are not finite" in found.provenance["notes"]


def test_when_all_of_them_overflow_there_is_no_vector(tiny_gpt2, monkeypatch):
    overflowing(monkeypatch, None)
    with pytest.raises(ArgumentError, match=r"needs 1 or more.*there are 0 and 0"):
        lp.steering.difference(tiny_gpt2, asked(3), layers=1)


def test_a_sample_beyond_the_bound_is_seeded(tiny_gpt2, monkeypatch):
    from lensprobe.steering import estimators

    one, two = told(30)
    options = {"layers": 1, "method": "logistic"}
    exact = lp.steering.difference(tiny_gpt2, one, two, **options)
    assert exact.provenance["fitted"] == {"positive": 30, "negative": 30}
    monkeypatch.setattr(estimators, "SAMPLE", 6)
    sampled = [
        lp.steering.difference(tiny_gpt2, one, two, seed=seed, batch_tokens=size, **options)
        for seed, size in ((1, 2000), (1, 50), (2, 2000))
    ]
    assert sampled[0].provenance["fitted"] == {"positive": 6, "negative": 6}
    assert sampled[0].provenance["seed"] == 1
    assert sampled[0].cosine(sampled[1]) > 1 - 1e-4 > sampled[0].cosine(sampled[2])


def test_a_plan_reads_one_batch(tiny_gpt2):
    plan = lp.steering.difference(tiny_gpt2, asked(9), dry_run=True)
    assert type(plan) is Plan
    row = plan.to_frame().iloc[0]
    assert row["sequences"] == 18 and row["seconds"] > 0 and row["passes"] >= 1
    lengths = [
        len(encode(adapter_for(tiny_gpt2), q.question + a))
        for q in asked(9)
        for a in (q.matching, q.not_matching)
    ]
    assert row["tokens"] == sum(lengths)


@pytest.mark.parametrize(
    ("sides", "options", "message"),
    [
        (([], ["a"]), {}, "positive is empty"),
        ((["a"], []), {}, "negative is empty"),
        ((["a"], iter([])), {}, "negative is empty"),
        ((iter([]), iter([])), {}, "positive is empty"),
        (("", "a"), {}, "positive is empty"),
        ((["a"], ["b", ""]), {}, r"negative\[1\]: the text is empty"),
        ((["a"], 3), {}, "negative of type int"),
        ((["a", "b"], None), {}, r"positive\[0\] is no record"),
        (("nowhere.jsonl", None), {}, "positive='nowhere.jsonl': no such file"),
        ((["a"], "nowhere.txt"), {}, "negative='nowhere.txt': no such file"),
        ((["a", "b"], ["c"]), {"method": "pca"}, "positive has 2 texts and negative 1"),
        ((iter(["a", "b"]), ["c"]), {"method": "pca"}, "differ in length; pairs are needed"),
        ((["a"], ["b"]), {"method": "lda"}, "'lda' needs 2 or more texts"),
        ((["a"], ["b"]), {"method": "svm"}, "method='svm'"),
        ((["a"], ["b"]), {"method": "means"}, "Did you mean 'mean'"),
        ((["a"], ["b"]), {"read": "first"}, "read='first'"),
        ((["a"], ["b"]), {"read": True}, "read=True"),
        ((["a"], ["b"]), {"read": 1.5}, "read=1.5"),
        ((["a"], ["b"]), {"read": "answer"}, 'read="answer" needs contrast questions'),
        ((["a"], ["b"]), {"read": 9}, r"read=9: positive\[0\] has 2 tokens"),
        ((["a"], ["b"]), {"layers": [1, 4]}, "4 layers"),
        ((["a"], ["b"]), {"layers": []}, "layers is empty"),
        ((["a"], ["b"]), {"layers": "some"}, "layers='some'"),
        ((["a"], ["b"]), {"site": "attn.pattern"}, "site='attn.pattern'"),
        ((["a"], ["b"]), {"batch_tokens": 0}, "batch_tokens=0"),
        ((["a"], ["b"]), {"limit": 0}, "limit=0"),
        ((["a"], ["b"]), {"seed": "x"}, "seed='x'"),
        ((["a"], ["b"]), {"bos": 1}, "bos=1"),
        ((["a " * 300], ["b"]), {}, r"positive\[0\] has \d+ tokens; this model's context is 256"),
        (([{"text": "a"}], ["b"]), {"column": "said"}, "column='said'"),
    ],
)
def test_what_is_refused_is_refused_before_a_pass(tiny_gpt2, passes, sides, options, message):
    with pytest.raises(ArgumentError, match=message):
        lp.steering.difference(tiny_gpt2, *sides, **options)
    # Only what the data's end alone can tell is found out late.
    assert not passes or "needs 2" in message


def test_questions_have_no_columns(tiny_gpt2):
    with pytest.raises(ArgumentError, match="fields of their own"):
        lp.steering.difference(tiny_gpt2, asked(2), column="text")


@pytest.mark.weights
@pytest.mark.parametrize("name", ["corrigible-neutral-HHH", "agreeableness"])
def test_on_real_weights_it_is_the_mean_of_the_texts_alone(data_dir, smollm2, name):
    """Letters and words as answers, beside massive activations."""
    questions = lp.steering.questions(data_dir / "anthropic-evals" / f"{name}.jsonl", limit=3)
    found = lp.steering.difference(smollm2, questions, layers=[3, 15])
    at = -2 if "(" in questions[0].matching else -1
    for layer in (3, 15):
        ends = []
        for side in ("matching", "not_matching"):
            rows = []
            for item in questions:
                ids = [encode(adapter_for(smollm2), item.question + getattr(item, side))]
                _, cache = smollm2.run_with_cache(
                    torch.tensor(ids), names_filter=[f"blocks.{layer}.hook_resid_post"]
                )
                rows.append(cache[f"blocks.{layer}.hook_resid_post"][0, at].double().numpy())
            ends.append(np.stack(rows))
        expected = (ends[0] - ends[1]).mean(0)
        scale = np.abs(np.concatenate(ends)).max()
        np.testing.assert_allclose(found[layer].values, expected, rtol=0, atol=RESIDUAL * scale)


@pytest.mark.parametrize("answer", [" 是", " Да", " (A)", " Yes"])
def test_the_answers_first_letter_is_found_in_any_script(tiny_gpt2, answer):
    """A byte-level tokenizer cuts letters into pieces, none of which is a letter by itself."""
    tokenizer = tiny_gpt2.tokenizer
    ids = tuple(tokenizer.encode("Is it so?" + answer, add_special_tokens=False))
    letter = next(mark for mark in answer if mark.isalnum())
    at = answer_token(tokenizer, ids, answer)
    assert tokenizer.decode(ids[at:]).lstrip().startswith(letter)
    assert not tokenizer.decode(ids[at + 1 :]).lstrip().startswith(answer.strip(" ("))


def test_equal_sides_give_zero_and_say_so(tiny_gpt2):
    with pytest.warns(UserWarning, match="the vector is zero"):
        found = lp.steering.difference(tiny_gpt2, ["one", "two"], ["one", "two"], layers=1)
    assert not found.values.any()
    assert any("vector is zero" in note for note in found.provenance["notes"])


# ---- kept in a folder ---------------------------------------------------------------------------


SENTENCES = [f"{word} {n} and so on" for n in range(12) for word in ("one", "two", "the cat")]


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 120)
    return lambda model, *sides, **more: lp.steering.difference(
        model, *sides, **{"batch_tokens": 64, **more}
    )


def numbers_of(vectors):
    return np.stack([vector.values for vector in vectors.values()])


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_changes_nothing_but_the_order_of_sums(tiny_gpt2, kept, method, tmp_path):
    sides = SENTENCES, [text.upper() for text in SENTENCES]
    plain = kept(tiny_gpt2, *sides, method=method)
    found = kept(tiny_gpt2, *sides, method=method, out=tmp_path)
    assert len(list(tmp_path.glob("shard-*.npz"))) > 3
    np.testing.assert_allclose(numbers_of(found), numbers_of(plain), rtol=1e-3, atol=1e-6)
    for name in ("positive", "negative", "tokens", "finished"):
        assert found[0].provenance[name] == plain[0].provenance[name]
    np.testing.assert_array_equal(numbers_of(lp.open(tmp_path)), numbers_of(found))


@pytest.mark.parametrize("method", ["mean", "logistic"])
def test_an_interrupted_extraction_goes_on(tiny_gpt2, kept, method, tmp_path, monkeypatch):
    # The longer side's last texts stand alone; one pair is skipped.
    sides = [*SENTENCES[:7], "", *SENTENCES[7:]], [text.upper() for text in SENTENCES[:30]]
    options = {"method": method, "on_error": "skip"}
    whole = kept(tiny_gpt2, *sides, out=tmp_path / "whole", **options)
    real, calls = Reader.read, []

    def read(self, pairs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, pairs)

    monkeypatch.setattr(Reader, "read", read)
    with pytest.raises(Interrupted):
        kept(tiny_gpt2, *sides, out=tmp_path / "run", **options)
    assert list((tmp_path / "run").glob("shard-*.npz"))
    for _ in range(2):
        again = kept(tiny_gpt2, *sides, out=tmp_path / "run", **options)
        np.testing.assert_array_equal(numbers_of(again), numbers_of(whole))
        assert again[0].provenance == whole[0].provenance
    assert whole[0].provenance["positive"]["texts"] == len(SENTENCES)
    assert whole[0].provenance["negative"]["texts"] == 29
    assert "positive[7]" in whole[0].provenance["notes"][0]


def test_what_is_another_extraction_is_refused(tiny_gpt2, kept, tmp_path):
    sides = SENTENCES, [text.upper() for text in SENTENCES]
    kept(tiny_gpt2, *sides, out=tmp_path)
    for other in ({"method": "pca"}, {"read": 0}, {"layers": 1}):
        with pytest.raises(OutputError, match="holds another run"):
            kept(tiny_gpt2, *sides, out=tmp_path, **other)
    with pytest.raises(OutputError, match="not those of the run"):
        kept(tiny_gpt2, sides[0], sides[0], out=tmp_path)


def test_questions_go_on_too(tiny_gpt2, kept, tmp_path):
    asked = [
        {
            "question": f"Do you sleep {n}?",
            "answer_matching_behavior": " No",
            "answer_not_matching_behavior": " Yes",
        }
        for n in range(20)
    ]
    first = kept(tiny_gpt2, asked, out=tmp_path, layers=1)
    again = kept(tiny_gpt2, asked, out=tmp_path, layers=1)
    np.testing.assert_array_equal(first.values, again.values)
    asked[3]["answer_matching_behavior"] = " Never"
    with pytest.raises(OutputError, match="not those of the run"):
        kept(tiny_gpt2, asked, out=tmp_path, layers=1)
