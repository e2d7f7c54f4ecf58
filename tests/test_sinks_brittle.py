"""Sequences that repeat themselves, plain and repaired: what they are, and what is measured of them."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for

TEXTS = ["Hello world, this is the cat", "The cat sat on the mat. And then", "one two three four"]
HOME = "lensprobe.sinks.brittle"
NOTHING = lp.Scale(factor=1.0, layers=0)


def take(model, texts=TEXTS, **options):
    return lp.sinks.brittle(model, texts, progress=False, **options)


def sequences(model, kind, texts=TEXTS):
    """What is run of that kind, by spying on the runs."""
    home, seen = sys.modules[HOME], []
    whole = home.head_statistics

    def read(adapter, rows, **options):
        seen.extend(row.ids for row in rows)
        return whole(adapter, rows, **options)

    home.head_statistics = read
    try:
        take(model, texts, kinds=[kind], edits=NOTHING, bos=False, batch_tokens=1)
    finally:
        home.head_statistics = whole
    return seen[: len(texts)]


def test_the_kinds_are_what_they_say(tiny_gpt2):
    bodies = sorted(
        (tuple(tiny_gpt2.tokenizer.encode(t, add_special_tokens=False)) for t in TEXTS), key=len
    )
    assert sequences(tiny_gpt2, "text") == bodies
    for kind, test in {
        "repeat": lambda ids: len(set(ids)) == 1,
        "near repeat": lambda ids: len(set(ids[:7])) == 1 and len(set(ids[7::8])) <= 1,
        "phrase": lambda ids: ids[: max(0, len(ids) - 6)] == ids[6:],
    }.items():
        found = sequences(tiny_gpt2, kind)
        assert [len(ids) for ids in found] == [len(body) for body in bodies]
        assert all(test(ids) for ids in found), kind
        assert all(set(ids) <= set(body) for ids, body in zip(found, bodies, strict=True))
    mark = tiny_gpt2.tokenizer.encode("\n- ", add_special_tokens=False)
    for ids, body in zip(sequences(tiny_gpt2, "list"), bodies, strict=True):
        assert list(ids[: len(mark)]) == mark
        assert ids[len(mark) : len(mark) + 2] == body[:2]


def test_an_edit_that_does_nothing_changes_nothing(decoder):
    result = take(decoder, edits=NOTHING)
    assert (result.effects[["change", "change_low", "change_high"]] == 0).all(axis=None)
    assert set(result.effects["bos"]) == {False, True}


def test_losses_are_those_of_score(decoder):
    edit = lp.Scale(factor=2.0, layers=1)
    result = take(decoder, edits=edit, kinds=["text"], bos=False)
    for condition, edits in (("plain", ()), ("repaired", edit)):
        expected = lp.score(decoder, TEXTS, edits=edits, bos=False).loss
        row = result.effect("loss", "text", bos=False, condition=condition)
        close(row["value"], expected)
    plain = result.effect("perplexity", "text", bos=False)
    np.testing.assert_allclose(
        plain["value"], np.exp(result.effect("loss", "text", bos=False)["value"]), rtol=1e-12
    )


def test_the_repair_is_a_detectors_found_on_other_sequences(tiny_llama):
    result = take(tiny_llama, kinds=["repeat"])
    assert result.provenance["measured"] == 1
    assert any("found on every other sequence" in note for note in result.provenance["notes"])
    detector = lp.sinks.first_token_detector(tiny_llama, TEXTS, bos=False, n=1, progress=False)
    own = take(tiny_llama, [TEXTS[1]], kinds=["repeat"], edits=detector.repair())
    # A token drawn by its place: only the kinds agree, so compare what does not depend on it.
    assert set(own.effects["kind"]) == {"repeat"}
    assert result.provenance["edits"] == own.provenance["edits"]


def test_batching_changes_nothing(decoder):
    one, many = take(decoder, batch_tokens=1), take(decoder)
    close(one.effects[["value", "change"]], many.effects[["value", "change"]], "residual")


def test_the_users_hooks_stay(tiny_gpt2):
    plain = take(tiny_gpt2, kinds=["repeat"])
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    point.add_hook(lambda value, hook: value)
    try:
        close(take(tiny_gpt2, kinds=["repeat"]).effects["value"], plain.effects["value"])
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


def test_an_interrupt_keeps_the_finished_kinds(tiny_gpt2, monkeypatch):
    home, calls = sys.modules[HOME], []
    whole = home._Run.effects

    def effects(self, *args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(self, *args)

    monkeypatch.setattr(home._Run, "effects", effects)
    with pytest.raises(Interrupted, match="after 1 of 10") as caught:
        take(tiny_gpt2)
    assert caught.value.partial.summary()["complete"] is False
    with pytest.raises(Interrupted, match="before the first"):
        take(tiny_gpt2)


def test_it_is_saved_and_opened(tiny_gpt2, tmp_path):
    result = take(tiny_gpt2, kinds=["text", "list"])
    result.save(tmp_path / "b.zip")
    again = lp.open(tmp_path / "b.zip")
    pd.testing.assert_frame_equal(again.effects, result.effects)
    assert again.summary() == result.summary()
    assert adapter_for(tiny_gpt2).user_hooks() == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": []}, r"kinds=\[\]: different ones of text, repeat"),
        ({"kinds": ["song"]}, "different ones of text, repeat"),
        ({"kinds": ["text", "text"]}, "different ones of"),
        ({"epsilon": 2}, "epsilon=2"),
        ({"texts": ["one text"]}, "at least two documents"),
        ({"layer": 5}, "layer=5"),
        ({"amount": float("inf")}, "amount=inf: a finite number"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, options, message):
    texts = options.pop("texts", TEXTS)
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, texts, **options)


def test_an_effect_that_was_not_measured_is_refused(tiny_gpt2):
    result = take(tiny_gpt2, kinds=["text"])
    with pytest.raises(ArgumentError, match="the measures are loss, perplexity"):
        result.effect("loss", "repeat", bos=True)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
