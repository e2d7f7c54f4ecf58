"""Does the massive activation make the sink: the planted answers, and runs of their own."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.sinks import cause

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
ENGLISH = [
    "The river had risen in the night, and by morning the lower field was grey water.",
    "She closed the door.",
    "One more short line of text.",
]


def run(model, texts=TEXTS, **options):
    return cause(model, texts, progress=False, **{"dim": 3, "seed": 1, "repeats": 2, **options})


@pytest.fixture(scope="module")
def made(planted):
    return run(planted, ENGLISH, dim=None)


def test_in_the_planted_model_it_does(made):
    plain, zero = made.cause("plain"), made.cause("zero")
    assert plain["sink_rate"] == pytest.approx(len(PLANTED.sink_heads) / 72)
    assert zero["sink_rate"] < 0.05 and zero["value"] == 0 and zero["ratio"] == 0
    assert zero["loss"] > plain["loss"]
    for kind in ("random zero", "random mean", "random neurons"):
        row = made.cause(kind)
        close([row["ratio"], row["sink_rate"]], [1.0, plain["sink_rate"]])
        assert abs(row["change"]) < 1e-3


def test_what_is_left_of_the_number_is_what_the_planted_neurons_leave(made):
    left = sum(u.contribution[0] for u in PLANTED.writers if u.contribution[0] <= 0.05 * 3000)
    close([made.cause("plain")["value"]], [3000.0], kind="residual")
    assert made.provenance["peak"] >= PLANTED.writer_layer
    for kind in ("neurons", "weights"):
        assert made.cause(kind)["value"] == pytest.approx(left, abs=1.0)
    close([made.cause("mean")["ratio"], made.cause("vector mean")["ratio"]], [1.0, 1.0])


def test_it_says_what_the_ablations_say(decoder):
    result = run(decoder, position=1, layer=1, length=16)
    same = lp.massive.ablate(
        decoder, TEXTS, dim=3, position=1, layer=1, length=16, seed=1, repeats=2, progress=False
    )
    pd.testing.assert_frame_equal(result.effects, same.effects)
    for row in result.causes.iloc[1:].itertuples():
        for measure in ("sink_rate", "attention", "loss", "kl"):
            close([getattr(row, measure)], [same.effect(measure, row.kind)["value"]])
    close(result.causes["change"].iloc[1:], same.effects.query("measure == 'loss'")["change"])


def test_what_is_left_is_read_off_edited_runs(decoder):
    result = run(decoder, position=1, layer=1, method=["zero", "mean", "vector mean"])
    peak = result.provenance["peak"]
    plain = lp.forward(decoder, TEXTS, layers="all", logits=None)
    here = plain.tokens.index[plain.tokens["position"] == 1]
    each = plain.activations[:, here, 3].mean(1)
    assert peak == 1 + int(np.abs(each[1:]).argmax())
    close([result.cause("plain")["value"]], [each[peak]], kind="residual")
    edit = lp.Set(value=0.0, dim=3, layers=1, positions=lp.positions.at(1))
    edited = lp.forward(decoder, TEXTS, layers=peak, logits=None, edits=edit)
    wanted = edited.activations[0, here, 3].mean()
    close([result.cause("zero")["value"]], [wanted], kind="residual")


def test_one_peak_when_the_users_hooks_want_whole_passes(tiny_gpt2):
    plain = run(tiny_gpt2, layer=1)
    point = tiny_gpt2.hook_dict["blocks.0.hook_resid_pre"]
    seen = []
    point.add_hook(lambda value, hook: seen.append(value.shape[1]))
    try:
        result = run(tiny_gpt2, layer=1)
        assert len(point.fwd_hooks) == 1 and min(seen) > 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    close(result.causes["value"], plain.causes["value"])


def test_no_hook_is_left_behind(tiny_gpt2):
    run(tiny_gpt2, layer=1)
    assert not any(point.fwd_hooks for point in tiny_gpt2.hook_dict.values())


def test_a_generator_is_read_once(tiny_gpt2):
    result = run(tiny_gpt2, iter(TEXTS), limit=2, layer=1, method="zero")
    assert result.provenance["documents"] == 2


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.massive.ablate"]
    whole, calls = home.Comparison, []

    def read(*args, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args, **options)

    monkeypatch.setattr(home, "Comparison", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        run(tiny_gpt2, layer=1, batch_tokens=1)
    assert caught.value.partial.cause("plain")["kind"] == "plain"
    assert not caught.value.partial.summary()["complete"]


def test_it_is_saved_opened_and_drawn(made, tmp_path):
    made.save(tmp_path / "c.zip")
    again = lp.open(tmp_path / "c.zip")
    pd.testing.assert_frame_equal(again.causes, made.causes)
    assert again.summary() == made.summary() and "sun2024massive" in again.cite()
    figure = again.plot(theme="dark")
    assert figure.layout.meta["finding"].startswith("Here 12% of the heads")
    assert figure.data[1].y == figure.data[0].y and len(figure.data) == 3


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nothing"}, "method='nothing'"),
        ({"epsilon": 1.0}, "epsilon=1.0"),
        ({"dim": 768}, "dim=768: .* 0 to 767"),
        ({"length": 5000}, "length=5000"),
        ({"position": 500}, "position=500: 3 of 3 texts are too short"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        run(planted, **options)


def test_a_cause_that_was_not_measured_is_refused(made):
    with pytest.raises(ArgumentError, match="the kinds are plain, zero"):
        made.cause("nothing")


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        run(tiny_t5)


@pytest.mark.weights
def test_on_real_weights_part_of_the_sink_goes_with_the_number(smollm2):
    result = cause(
        smollm2, ENGLISH, method=["zero", "neurons", "random neurons"], repeats=1, seed=0
    )
    plain = result.cause("plain")["sink_rate"]
    # Not all of it: the vector at the first token differs from the others in more than one number.
    assert result.cause("zero")["sink_rate"] < plain - 0.05
    assert result.cause("neurons")["sink_rate"] < plain - 0.05
    assert result.cause("random neurons")["sink_rate"] > 0.9 * plain
