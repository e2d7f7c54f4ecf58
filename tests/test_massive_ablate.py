"""A massive activation taken away: the planted answers, and runs with edited weights and streams."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import ablate
from lensprobe.massive.ablations import KINDS
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
ENGLISH = [
    "The river had risen in the night, and by morning the lower field was grey water.",
    "She closed the door.",
    "One more short line of text.",
]


def take(model, texts=TEXTS, **options):
    return ablate(model, texts, progress=False, **{"dim": 3, "seed": 1, **options})


def of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def change(result, kind, measure="loss"):
    return result.effect(measure, kind)["change"]


@pytest.fixture(scope="module")
def gone(planted):
    return ablate(planted, ENGLISH, seed=0, repeats=3, progress=False)


# ---- the planted answers ---------------------------------------------------------------------------


def test_zero_follows_its_closed_form(gone, planted):
    ids = [planted.to_tokens(text)[0].cpu().numpy() for text in ENGLISH]
    losses = np.concatenate([PLANTED.losses(tokens, 0.0) for tokens in ids])
    close([gone.effect("loss", "zero")["value"]], [losses.mean()])
    assert gone.effect("sink_rate", "zero")["value"] < 0.05


def test_the_controls_do_nothing(gone):
    for kind in ("random zero", "random mean", "random neurons"):
        assert abs(change(gone, kind)) < 1e-3, kind
        assert change(gone, kind, "sink_rate") == 0, kind
    assert gone.draws["draw"].max() == 2


def test_the_mean_of_a_constant_is_what_is_there_and_that_is_said(gone):
    for kind in ("mean", "vector mean"):
        close([change(gone, kind)], [0.0])
    assert any("is what is there already" in note for note in gone.provenance["notes"])


def test_the_planted_neurons_are_the_set(gone):
    sets = of(gone.sets, kind="neurons")
    planted = {(u.layer, u.neuron) for u in PLANTED.writers if u.contribution[0] > 0.05 * 3000}
    assert set(zip(sets["layer"], sets["neuron"], strict=True)) == planted
    assert gone.effect("loss", "neurons")["count"] == len(planted)


def test_what_the_weights_leave_follows_its_closed_form(gone, planted):
    """Without the two weights 447 keeps the third neuron's 100: a factor of a thirtieth."""
    left = sum(u.contribution[0] for u in PLANTED.writers if u.contribution[0] <= 0.05 * 3000)
    ids = [planted.to_tokens(text)[0].cpu().numpy() for text in ENGLISH]
    losses = np.concatenate([PLANTED.losses(tokens, left / 3000) for tokens in ids])
    close([gone.effect("loss", "weights")["value"]], [losses.mean()])
    # Silencing whole neurons takes most of 138 with them, so that the norm hides the loss of 447.
    assert 0 < change(gone, "neurons") < change(gone, "weights")


def test_several_coordinates_go_together(planted):
    scan = lp.massive.scan(planted, ENGLISH, ratio=500, progress=False)
    both = take(planted, ENGLISH, dim=None, at=[scan.at(0), scan.at(1)], repeats=2)
    assert both.provenance["dims"] == [447, 138] and both.summary()["dim"] == "447, 138"
    assert both.effect("loss", "zero")["count"] == 2
    drawn = of(both.sets, kind="random zero")
    assert drawn.groupby("draw").size().tolist() == [2, 2]
    assert not set(drawn["dim"]) & {447, 138}
    carriers = of(both.sets, kind="neurons")
    assert set(carriers["neuron"]) == {u.neuron for u in PLANTED.writers}


# ---- against passes of their own -------------------------------------------------------------------


def losses_under(model, edits, position):
    tokens = lp.score(model, TEXTS, edits=edits).tokens
    return tokens[tokens["position"] > position].groupby("text")["loss"].mean()


@pytest.mark.parametrize(("position", "layer"), [(0, 1), (2, 3)])
def test_coordinates_are_those_of_edited_runs(shaped, position, layer):
    kinds = ["zero", "mean", "vector mean", "random zero", "random mean"]
    result = take(shaped, position=position, layer=layer, method=kinds, repeats=2)
    read = lp.forward(shaped, TEXTS, layers=layer, logits=None)
    rows = read.tokens[read.tokens["position"] == position].index
    mean = torch.tensor(read.activations[0, rows]).mean(0)
    where = {"layers": layer, "positions": lp.positions.at(position)}
    edits = {
        "zero": lp.Set(value=0.0, dim=3, **where),
        "mean": lp.Set(value=mean[3:4], dim=3, **where),
        "vector mean": lp.Set(value=mean, **where),
    }
    for kind, edit in edits.items():
        each = of(result.documents, measure="loss", kind=kind)["value"]
        close(each, losses_under(shaped, edit, position))
    for number in (0, 1):
        (other,) = of(result.sets, kind="random mean", draw=number)["dim"]
        edit = lp.Set(value=mean[other : other + 1], dim=int(other), **where)
        wanted = losses_under(shaped, edit, position)
        counts = of(result.documents, measure="loss", kind="zero")["count"]
        drawn = of(result.draws, measure="loss", kind="random mean", draw=number)["value"]
        close(drawn, [np.average(wanted, weights=counts)])
    pooled = of(result.draws, measure="loss", kind="random mean")["value"].mean()
    close([result.effect("loss", "random mean")["value"]], [pooled])


def weights_without(model, entries):
    """`W_out[neuron, dim]` set to zero in place, and what was there."""
    kept = []
    with torch.no_grad():
        for layer, neuron, dims in entries:
            row = model.blocks[layer].mlp.W_out[neuron]
            kept.append((row, row.clone()))
            row[dims] = 0.0
    return kept


@pytest.mark.parametrize("kind", ["neurons", "weights", "random neurons"])
def test_a_set_taken_away_equals_edited_weights(planted, gone, kind):
    rows = of(gone.sets, kind=kind, draw=0 if kind.startswith("random") else -1)
    dims = [PLANTED.dims[0]] if kind == "weights" else slice(None)
    entries = [(int(row.layer), int(row.neuron), dims) for row in rows.itertuples()]
    kept = weights_without(planted, entries)
    try:
        tokens = lp.score(planted, ENGLISH).tokens
    finally:
        with torch.no_grad():
            for row, before in kept:
                row.copy_(before)
    wanted = tokens[tokens["position"] > 0]["loss"].mean()
    if kind == "random neurons":
        got = of(gone.draws, measure="loss", kind=kind, draw=0)["value"]
    else:
        got = [gone.effect("loss", kind)["value"]]
    close(got, [wanted])
    close([gone.plain.set_index("measure")["value"]["loss"]], [lp.score(planted, ENGLISH).loss])


def test_batching_changes_nothing(decoder):
    one, many = take(decoder, layer=1, batch_tokens=1), take(decoder, layer=1, batch_tokens=4096)
    for table in ("effects", "draws", "plain", "documents"):
        # Perplexities are exponentials of losses that are compared already.
        first, second = (r.to_frame(table).query("measure != 'perplexity'") for r in (one, many))
        numeric = first.select_dtypes(float)
        close(numeric, second[numeric.columns])


def test_a_seed_draws_the_same(tiny_gpt2):
    pd.testing.assert_frame_equal(take(tiny_gpt2).sets, take(tiny_gpt2).sets)
    free = ablate(tiny_gpt2, TEXTS, dim=3, layer=1, progress=False)
    again = take(tiny_gpt2, layer=1, seed=free.provenance["seed"])
    pd.testing.assert_frame_equal(free.effects, again.effects)


def test_only_what_is_asked_for_is_run(tiny_gpt2):
    result = take(tiny_gpt2, layer=1, method="zero")
    assert set(result.effects["kind"]) == {"zero"} and result.draws.empty
    assert set(take(tiny_gpt2, layer=1, method=["mean", "zero"]).effects["kind"]) == {
        "zero",
        "mean",
    }


def test_packed_weights_keep_their_neurons(tiny_gpt2, monkeypatch):
    def refuse(adapter):
        raise ModelError("packed")

    monkeypatch.setattr(sys.modules["lensprobe.massive.ablations"], "weights_of", refuse)
    result = take(tiny_gpt2, layer=1)
    assert set(result.effects["kind"]) == set(KINDS[:5])
    assert any("no neurons were ablated: packed" in note for note in result.provenance["notes"])


def test_the_users_hooks_stay_and_see_whole_passes(decoder):
    plain = take(decoder, layer=2, position=1)
    seen = []
    point = decoder.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: seen.append(value.shape[1]))
    try:
        result = take(decoder, layer=2, position=1, batch_tokens=4096)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert len(set(seen)) == 1
    assert any("hooks of your own" in note for note in result.provenance["notes"])
    close(result.effects["value"], plain.effects["value"])


def test_no_hook_is_left_behind(tiny_gpt2):
    before = lp.forward(tiny_gpt2, TEXTS).logits
    take(tiny_gpt2, layer=1)
    assert not any(point.fwd_hooks for point in tiny_gpt2.hook_dict.values())
    np.testing.assert_array_equal(lp.forward(tiny_gpt2, TEXTS).logits, before)


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
        take(tiny_gpt2, layer=1, batch_tokens=1)
    assert not caught.value.partial.summary()["complete"]


def test_it_is_saved_and_opened(gone, tmp_path):
    gone.save(tmp_path / "a.zip")
    again = lp.open(tmp_path / "a.zip")
    for table in gone.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), gone.to_frame(table))
    assert again.summary() == gone.summary()
    assert "yu2024super" in gone.cite()


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "zeros"}, "method='zeros'.*Did you mean 'zero'|method='zeros'.*zero"),
        ({"method": []}, r"method=\[\]"),
        ({"repeats": 0}, "repeats=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"dim": 768}, "dim=768: .* 0 to 767"),
        ({"layer": 6}, "layer=6: this model has 6 layers"),
        ({"position": 500}, "position=500: 3 of 3 texts are too short"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        take(planted, **options)


def test_coordinates_at_several_positions_are_refused(planted):
    scan = lp.massive.scan(planted, ENGLISH, ratio=500, progress=False)
    one = scan.at(0)
    other = type(one)(one.dim, 2, one.layers, one.site, one.value)
    with pytest.raises(ArgumentError, match=r"at one position; got positions \[0, 2\]"):
        take(planted, ENGLISH, dim=None, at=[one, other])


def test_an_effect_that_was_not_measured_is_refused(gone):
    with pytest.raises(ArgumentError, match=r"the measures are loss.*the kinds zero"):
        gone.effect("loss", "nothing")


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
