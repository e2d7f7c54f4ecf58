"""Sink neurons: the planted writers and nothing else, and silencing against edited weights."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.models.weights import weights_of
from lensprobe.sinks.onset import onset_of

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
ENGLISH = [
    "The river had risen in the night, and by morning the lower field was grey water.",
    "She closed the door.",
]


def take(model, texts=TEXTS, **options):
    return lp.sinks.neurons(model, texts, progress=False, **options)


@pytest.fixture(scope="module")
def found(planted):
    return take(planted, ENGLISH, n=5, ratio=0.02)


def of(result, measure, kind):
    own = (result.effects["measure"] == measure) & (result.effects["kind"] == kind)
    return result.effects[own]


# ---- the planted answers ---------------------------------------------------------------------------


def test_the_planted_writers_are_found_and_nothing_else(found):
    writers = {(one.layer, one.neuron) for one in PLANTED.writers}
    assert set(found.kept) == writers
    assert found.provenance["sink_layer"] == PLANTED.writer_layer
    assert found.provenance["dim"] == PLANTED.dims[0]
    ranked = found.ranking.set_index("neuron")
    for one in PLANTED.writers:
        assert ranked.loc[one.neuron, "activation"] == pytest.approx(one.activation, rel=1e-4)
        norm = one.activation * np.hypot(*one.weights)
        assert ranked.loc[one.neuron, "norm"] == pytest.approx(norm, rel=1e-4)


def test_without_them_the_sink_is_gone_and_without_others_it_stays(found):
    assert found.effect("value", "plain") == pytest.approx(PLANTED.values[0], rel=1e-3)
    assert found.effect("value", "together") < 0.01 * PLANTED.values[0]
    eighth = len(PLANTED.sink_heads) / (PLANTED.n_layers * PLANTED.n_heads)
    close(found.effect("sink_rate", "plain") - found.effect("sink_rate", "together"), eighth)
    close(found.effect("value", "random"), found.effect("value", "plain"), "residual")
    assert found.effect("loss", "together") > found.effect("loss", "plain") + 0.3
    for one in PLANTED.writers:
        alone = of(found, "value", "alone").set_index("neuron").loc[one.neuron, "change"]
        assert alone == pytest.approx(-one.contribution[0], rel=1e-3)


# ---- against weights that were edited --------------------------------------------------------------


def test_norms_written_are_those_of_single_rows(shaped):
    result = take(shaped, n=2, layer=1, repeats=1)
    adapter = adapter_for(shaped)
    projection = weights_of(adapter).mlp(1)
    for row in result.ranking.head(3).itertuples():
        norms, activations = [], []
        for text in TEXTS:
            with torch.no_grad():
                _, cache = shaped.run_with_cache(shaped.to_tokens(text))
            post = cache[adapter.hook_name("mlp.post", 1)][0, 0]
            one = torch.zeros_like(post)
            one[row.neuron] = post[row.neuron]
            part = one @ projection.matrix
            if projection.norm is not None:
                whole = projection.before(post)
                part = part * projection.norm.scale(whole) * projection.norm.gain
            norms.append(float(part.detach().norm()))
            activations.append(float(post[row.neuron]))
        close([row.norm, row.activation], [np.mean(norms), np.mean(activations)])
    assert result.ranking["norm"].is_monotonic_decreasing


def test_silencing_equals_edited_weights(tiny_gpt2):
    result = take(tiny_gpt2, n=3, layer=1, ratio=1e-9, repeats=1)
    other = copy.deepcopy(tiny_gpt2)
    neuron = int(result.ranking["neuron"][0])
    with torch.no_grad():
        weights_of(adapter_for(other)).mlp(1).matrix[neuron] = 0.0
    loss = lp.score(other, TEXTS).loss
    alone = of(result, "loss", "alone").set_index("neuron")
    close(alone.loc[neuron, "value"], loss)
    close(result.effect("loss", "plain"), lp.score(tiny_gpt2, TEXTS).loss)


def test_batching_changes_nothing(decoder):
    one = take(decoder, n=2, layer=2, repeats=1, batch_tokens=1)
    many = take(decoder, n=2, layer=2, repeats=1)
    close(one.effects[["value", "change"]], many.effects[["value", "change"]])
    close(one.ranking["norm"], many.ranking["norm"])


def test_the_rule_of_the_sink_layer(planted, tiny_gpt2):
    norms = np.array([1.0, 1.0, 1.0, 30.0, 1.0, 1.0, 1.0])
    first = sys.modules["lensprobe.sinks.onset"]._first_above
    assert first(norms)[0] == 3
    # Two of a size: neither passes two standard deviations, and the first of them is taken.
    layer, note = first(np.array([0.0, 5.0, 0.0, 5.2]))
    assert layer == 1 and "90%" in note
    assert onset_of(adapter_for(planted)).value == pytest.approx(PLANTED.values[0], rel=1e-3)
    assert onset_of(adapter_for(tiny_gpt2), 2).layer == 2


def test_the_users_hooks_stay(tiny_gpt2):
    plain = take(tiny_gpt2, n=2, layer=1, repeats=1)
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    seen = []
    point.add_hook(lambda value, hook: seen.append(value.shape))
    try:
        again = take(tiny_gpt2, n=2, layer=1, repeats=1)
        assert len(point.fwd_hooks) == 1 and seen
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    close(again.ranking["norm"], plain.ranking["norm"])
    close(again.effects["value"], plain.effects["value"])


def test_an_interrupt_keeps_the_finished_runs(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.neurons"]
    whole, calls = home.head_statistics, []

    def read(*args, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args, **options)

    monkeypatch.setattr(home, "head_statistics", read)
    with pytest.raises(Interrupted, match="after 2 runs") as caught:
        take(tiny_gpt2, n=4, layer=1)
    partial = caught.value.partial
    assert set(partial.effects["kind"]) == {"plain", "alone"}
    assert partial.summary()["complete"] is False
    with pytest.raises(Interrupted, match="before the plain run"):
        take(tiny_gpt2, n=4, layer=1)


def test_it_is_saved_and_opened(found, tmp_path):
    found.save(tmp_path / "n.zip")
    again = lp.open(tmp_path / "n.zip")
    for table in found.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), found.to_frame(table))
    assert again.summary() == found.summary() and again.kept == found.kept
    assert "yona2025" in found.cite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: a positive whole number"),
        ({"layer": 9}, "layer=9: this model has 4 layers"),
        ({"ratio": 0}, "ratio=0: a share of the massive value"),
        ({"epsilon": 1}, "epsilon=1: an attention"),
        ({"repeats": -1}, "repeats=-1: a positive"),
        ({"texts": [[5]]}, "document 0 has 1 tokens; at least 2"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, options, message):
    texts = options.pop("texts", TEXTS)
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, texts, **options)


def test_an_effect_that_was_not_measured_is_refused(found):
    with pytest.raises(ArgumentError, match="the measures are value, sink_rate, loss"):
        found.effect("colour", "plain")


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
