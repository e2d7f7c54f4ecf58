"""A virtual sink: equal to BOS where there is one, and all that the planted model's sink is."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.sinks import dedicate
from lensprobe.sinks.front import Front, averaged, fitted, read_behind
from lensprobe.tokens import Encoded, TokenBatch

TEXTS = [
    "Hello world, this is the cat that sat on the mat",
    "one two three four five six",
    "The quick brown fox jumps over the lazy dog.",
    "Once upon a time there was a little house",
]
ROWS = [Encoded((0, *range(40, 52))), Encoded((0, *range(90, 97)))]


def run(model, texts=TEXTS, **options):
    return dedicate(model, texts, **{"progress": False, "seed": 0, "length": 16, **options})


def tails(rows):
    return [Encoded(row.ids[1:]) for row in rows]


@pytest.fixture(scope="module")
def made(planted):
    return run(planted, words=[ord("a"), ord("e")], length=24)


# ---- identities ------------------------------------------------------------------------------------


def test_behind_a_lone_first_token_a_text_is_what_it_is_after_that_token(shaped):
    """The keys and values of position 0 depend on its token alone: averaged over equal ones, they
    are that token."""
    adapter = adapter_for(shaped)
    front = averaged(adapter, ROWS, 4096)
    whole, batch = TokenBatch.pad(adapter, ROWS), TokenBatch.pad(adapter, tails(ROWS))
    with torch.no_grad():
        plain = adapter.run(whole.ids, mask=whole.mask)
        behind = read_behind(adapter, batch, front, hooks={})
    for i, row in enumerate(ROWS):
        close(behind[i, : len(row) - 1], plain[i, 1 : len(row)])


def test_the_average_weighs_first_tokens_by_how_often_they_are_first(decoder):
    adapter = adapter_for(decoder)
    rows = [Encoded((token, 7, 8)) for token in (5, 5, 5, 9)]
    five, nine = (averaged(adapter, [Encoded((token,))], 64) for token in (5, 9))
    front = averaged(adapter, rows, 64)
    close(front.keys, 0.75 * five.keys + 0.25 * nine.keys, "residual")
    close(front.values, 0.75 * five.values + 0.25 * nine.values, "residual")


def test_keys_and_values_are_those_that_hook_points_see(decoder):
    front = averaged(adapter_for(decoder), ROWS, 64)
    names = [f"blocks.{n}.attn.hook_{x}" for n in range(4) for x in "kv"]
    cache = decoder.run_with_cache(torch.tensor([ROWS[0].ids]), names_filter=names)[1]
    for layer in range(4):
        for name, got in (("k", front.keys), ("v", front.values)):
            seen = cache[f"blocks.{layer}.attn.hook_{name}"][0, 0].flatten()
            close(got[layer].flatten(), seen, "residual")


def test_a_fit_follows_the_gradient_and_leaves_none_behind(decoder):
    adapter = adapter_for(decoder)
    front = averaged(adapter, ROWS, 64)
    options = {"steps": 6, "learning_rate": 0.05, "seed": 0, "batch_tokens": 512}
    better, curve = fitted(adapter, front, tails(ROWS), **options)
    assert len(curve) == 6 and curve[-1] < curve[0]
    again, same = fitted(adapter, front, tails(ROWS), **options)
    np.testing.assert_array_equal(curve, same)
    np.testing.assert_array_equal(better.keys, again.keys)
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert not better.keys.requires_grad


def test_the_fits_first_step_is_against_the_gradient(tiny_llama):
    """Adam's first step moves every number by the learning rate, against the sign of its gradient."""
    adapter = adapter_for(tiny_llama)
    front = averaged(adapter, ROWS, 64)
    options = {"learning_rate": 0.01, "seed": 0, "batch_tokens": 512}
    moved, curve = fitted(adapter, front, tails(ROWS), steps=1, **options)
    layer, head, place = 2, 1, 3
    nudge = 1e-2
    values = front.values.clone()
    values[layer, head, place] += nudge
    batch = TokenBatch.pad(adapter, tails(ROWS))
    with torch.no_grad():
        logits = read_behind(adapter, batch, Front(front.keys, values), hooks={})
    lost = -logits[:, :-1].log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
    slope = float(lost[batch.mask[:, 1:]].mean()) - curve[0]
    step = float((moved.values - front.values)[layer, head, place])
    scale = float(front.values[layer].square().mean().sqrt())
    assert step == pytest.approx(-np.sign(slope) * 0.01 * scale, rel=1e-3)


# ---- the planted model -----------------------------------------------------------------------------


def test_behind_bos_of_its_own_the_plain_model_is_the_model_as_it_is(made):
    for group in ("text", "repeats"):
        for measure in ("loss", "attention", "sink_rate", "first_rate"):
            rows = [made.effect(measure, name, "plain", group) for name in ("own", "virtual")]
            close([rows[1]["value"], rows[1]["change"]], [rows[0]["value"], 0.0])


def test_the_virtual_sink_needs_no_massive_activation(made):
    plain = made.effect("loss", "own")["value"]
    assert made.effect("massive", "own")["value"] > 0
    assert made.effect("massive", "virtual")["value"] == 0
    for kind in ("zero", "neurons"):
        close([made.effect("loss", "virtual", kind)["value"]], [plain])
        close([made.effect("sink_rate", "virtual", kind)["change"]], [0.0])
    assert made.effect("loss", "own", "zero")["change"] > 0.05
    assert made.effect("sink_rate", "own", "zero")["value"] < 0.05


def test_the_neurons_are_those_that_were_planted(made):
    assert made.provenance["neurons"] and all(layer == 1 for layer, _ in made.provenance["neurons"])
    assert {neuron for _, neuron in made.provenance["neurons"]} <= {11, 42, 97}
    assert (made.provenance["dim"], made.provenance["sink_layer"]) == (447, 1)


# ---- the result ------------------------------------------------------------------------------------


def test_its_numbers_are_those_of_plain_runs(decoder):
    result = run(decoder, bos=True, layer=2, length=99)
    held = [t for i, t in enumerate(TEXTS) if i % 2]
    tokens = lp.score(decoder, held, bos=True).tokens
    close([result.effect("loss", "own")["value"]], [tokens[tokens["position"] > 1]["loss"].mean()])
    row = TokenBatch.pad(adapter_for(decoder), held[:1], bos=True).rows()[0][:16]
    one = run(decoder, [row], layer=2, bos=True)
    cache = decoder.run_with_cache(torch.tensor([row]))[1]
    pattern = torch.stack([cache[f"blocks.{n}.attn.hook_pattern"][0] for n in range(4)])
    paid = pattern[:, :, 2:, 0].mean(-1)
    close([one.effect("attention", "own")["value"]], [paid.mean()])
    close([one.effect("sink_rate", "own")["value"]], [(paid > 0.3).float().mean()])
    value = cache["blocks.2.hook_resid_post"][0, :, one.provenance["dim"]].abs().max()
    close([one.effect("largest", "own")["value"]], [value], "residual")


def test_the_zeroed_coordinate_is_zero_at_every_token(decoder):
    result = run(decoder, layer=1)
    for name in ("own", "virtual"):
        for group in ("text", "repeats"):
            assert result.effect("largest", name, "zero", group)["value"] == 0


def test_without_bos_it_stands_in_front_of_the_text(decoder):
    result = run(decoder, bos=False, layer=2, steps=2)
    assert set(result.effects["condition"]) == {"own", "virtual", "fitted"}
    same = result.effects.query("condition == 'own'").pivot(
        index=["group", "kind"], columns="measure", values="value"
    )
    close(same["sink_rate"], same["first_rate"])
    assert len(result.fit) == 2 and len(result.words) == 4
    assert abs(result.effect("loss", "virtual")["change"]) > 1e-4


def test_batching_changes_nothing(decoder):
    one, many = (run(decoder, layer=2, bos=False, batch_tokens=n) for n in (1, 4096))
    rows = [r.effects.query("measure != 'perplexity'").select_dtypes(float) for r in (one, many)]
    close(*rows)


def test_one_document_serves_both_purposes_and_that_is_said(tiny_gpt2):
    result = run(tiny_gpt2, TEXTS[0], layer=2)
    assert any("one document" in note for note in result.provenance["notes"])


def test_the_users_hooks_stay_and_see_whole_texts(decoder):
    plain = run(decoder, layer=2)
    seen = []
    point = decoder.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: seen.append(value.shape[1]))
    try:
        result = run(decoder, layer=2)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    close(result.keys, plain.keys, "residual")
    rows = [
        r.effects.query("measure != 'perplexity'").select_dtypes(float) for r in (result, plain)
    ]
    close(*rows)


def test_no_hook_is_left_behind(decoder):
    before = lp.forward(decoder, TEXTS).logits
    run(decoder, layer=2, steps=1)
    assert not any(point.fwd_hooks for point in decoder.hook_dict.values())
    np.testing.assert_array_equal(lp.forward(decoder, TEXTS).logits, before)


def test_an_interrupt_keeps_the_finished_runs(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.dedicate_run"]
    whole, calls = home.read_behind, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(home, "read_behind", stopped)
    with pytest.raises(Interrupted, match="after 2 of") as caught:
        run(tiny_gpt2, layer=2)
    assert not caught.value.partial.summary()["complete"]


def test_it_is_saved_opened_and_drawn(made, tmp_path):
    made.save(tmp_path / "d.zip")
    again = lp.open(tmp_path / "d.zip")
    pd.testing.assert_frame_equal(again.effects, made.effects)
    np.testing.assert_array_equal(again.keys, made.keys)
    assert again.summary() == made.summary() and "yona2025" in again.cite()
    for name in again.plot.names:
        figure = getattr(again.plot, name)(theme="dark")
        assert figure.layout.meta["finding"].startswith("Here")


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"steps": True}, "steps=True"),
        ({"learning_rate": 0}, "learning_rate=0: a positive number"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"epsilon": 1}, "epsilon=1"),
        ({"words": " several tokens"}, "words: ' several tokens' is .* tokens"),
        ({"words": []}, r"words=\[\]: give at least one word"),
        ({"length": 3}, "has 3 tokens; at least 4"),
    ],
)
def test_bad_input_is_refused_before_a_pass(tiny_gpt2, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(tiny_gpt2), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        run(tiny_gpt2, **options)


def test_an_effect_that_was_not_measured_is_refused(made):
    with pytest.raises(ArgumentError, match=r"condition='fitted': measured were own, virtual"):
        made.effect("loss", "fitted")


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        run(tiny_t5)
