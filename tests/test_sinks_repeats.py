"""Repeated tokens: identities of relative positions, the planted model's protection, single runs."""

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

WORDS = [" the", 40]


def take(model, words=WORDS, **options):
    return lp.sinks.repeats(model, words, progress=False, **{"lengths": [1, 3, 9], **options})


def of(result, **where):
    rows = result.copies
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def test_copies_are_alike_without_bos_where_positions_are_relative(tiny_llama):
    """Every copy attends to copies of itself alone: each is a first token, at every layer."""
    result = take(tiny_llama, layer=2, bos=False)
    for _, rows in result.copies.groupby("id"):
        for name in ("value", "norm"):
            close(rows[name], np.full(len(rows), rows[name].iloc[0]), "residual")
    long = of(result, count=9)
    alone = of(result, count=1)
    np.testing.assert_array_equal(long["massive"], alone["massive"])
    fooling = alone["share"].to_numpy() >= result.provenance["ratio"]
    np.testing.assert_array_equal(result.words["fooled"], fooling)
    np.testing.assert_array_equal(result.words["first"], np.where(fooling, 3, -1))


def test_all_attention_goes_to_copies_where_each_is_massive(tiny_llama):
    result = take(tiny_llama, layer=2, bos=False, ratio=1e-6)
    close(result.copies["mass"], np.ones(len(result.copies)))
    assert (result.copies["massive"] == 1).all()


def test_absolute_positions_protect_the_planted_model(planted):
    result = take(planted, ["a", "b", 120], lengths=[1, 2, 20])
    assert not result.words["fooled"].any()
    assert result.provenance["position_kind"] == "standard"
    later = of(result, count=20)
    assert (later["share"] < 0.01).all()
    # Position 0 alone has a massive value, with BOS or with a word.
    close(later["massive"], 1 / (20 + later["bos"].to_numpy()))
    assert (result.words["first"] == -1).all()


def test_every_number_is_that_of_a_run_of_its_own(decoder):
    result = take(decoder, layer=1, lengths=[1, 4], ratio=0.4)
    begin = decoder.tokenizer.bos_token_id
    adapter = adapter_for(decoder)
    reference = result.provenance["reference"]
    for row in result.copies.itertuples():
        ids = [begin] * bool(row.bos) + [row.id] * row.count
        with torch.no_grad():
            logits, cache = decoder.run_with_cache(torch.tensor([ids]))
        residual = cache[adapter.hook_name("resid_post", 1)][0]
        close(row.value, residual[-1].abs().max(), "residual")
        close(row.norm, residual[-1].norm(), "residual")
        close(row.share, row.value / reference)
        massive = residual.abs().amax(-1) >= 0.4 * reference
        patterns = torch.stack(
            [cache[adapter.hook_name("attn.pattern", n)][0] for n in range(adapter.n_layers)]
        )
        close(row.mass, patterns[..., massive].sum(-1).mean())
        close(row.massive, massive.float().mean())
        assert row.sink_rate == float((patterns[..., 0].mean(-1) > 0.3).float().mean())
        if len(ids) > 1:
            logs = logits[0].log_softmax(-1)
            close(row.loss, -np.mean([float(logs[t, i]) for t, i in enumerate(ids[1:])]))
        else:
            assert np.isnan(row.loss)


def test_batching_changes_nothing(decoder):
    one, many = take(decoder, batch_tokens=1), take(decoder)
    numbers = ["value", "norm", "sink_rate", "mass", "massive", "loss"]
    close(one.copies[numbers], many.copies[numbers], "residual")


def test_edits_act_and_their_absence_is_plain(decoder):
    nothing = lp.Add(torch.ones(48), scale=0.0, layers=0)
    plain = take(decoder)
    close(take(decoder, edits=nothing).copies["value"], plain.copies["value"], "residual")
    pushed = take(decoder, edits=[lp.Scale(factor=3.0, layers=0)])
    assert not np.allclose(pushed.copies["value"], plain.copies["value"])
    assert pushed.provenance["edits"][0].startswith("Scale(")


def test_one_policy_of_bos(decoder):
    assert set(take(decoder, bos=True).copies["bos"]) == {True}
    assert set(take(decoder).copies["bos"]) == {False, True}


def test_the_users_hooks_stay(tiny_gpt2):
    plain = take(tiny_gpt2)
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    point.add_hook(lambda value, hook: value)
    try:
        close(take(tiny_gpt2).copies["value"], plain.copies["value"], "residual")
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


def test_an_interrupt_keeps_the_finished_sequences(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.repeats"]
    whole, calls = home.head_statistics, []

    def read(*args, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args, **options)

    monkeypatch.setattr(home, "head_statistics", read)
    with pytest.raises(Interrupted, match="after 1 of 12 sequences") as caught:
        take(tiny_gpt2, batch_tokens=1)
    assert len(caught.value.partial.copies) == 1
    assert caught.value.partial.summary()["complete"] is False
    with pytest.raises(Interrupted, match="before the first"):
        take(tiny_gpt2)


def test_it_is_saved_and_opened(tiny_gpt2, tmp_path):
    result = take(tiny_gpt2)
    result.save(tmp_path / "r.zip")
    again = lp.open(tmp_path / "r.zip")
    for table in result.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), result.to_frame(table))
    assert again.summary() == result.summary()


@pytest.mark.weights
def test_smollm2_is_fooled_without_bos_by_every_word_and_with_it_by_few(smollm2):
    result = lp.sinks.repeats(smollm2, [" the", " cat", " poem"], lengths=[1, 16], progress=False)
    assert result.fooled(bos=False) == [" the", " cat", " poem"]
    assert result.fooled(bos=True) == [" poem"]
    assert result.provenance["sink_layer"] == 11 and result.provenance["dim"] == 507


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {}, r"words=\[\]: give at least one word"),
        (["the cat"], {}, r"words: 'the cat' is \d tokens, .* \+ .*; give words of one token"),
        ([""], {}, "words: '' is neither a word nor a token id"),
        ([100000], {}, "token id 100000; this model's vocabulary is 0 to"),
        ([5, 5], {}, "a word is there twice"),
        ([None], {}, "None is neither"),
        ([5], {"lengths": [400]}, "lengths: 400 tokens and a BOS"),
        ([5], {"ratio": 1.0}, "ratio=1.0: a share"),
        ([5], {"epsilon": -0.1}, "epsilon=-0.1"),
        ([5], {"bos": "maybe"}, "bos='maybe'"),
        ([5], {"layer": 7}, "layer=7: this model has 4 layers"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, words, options, message):
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, words, **options)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
