"""Sets of different tokens: the search against passes of its own, and sets that never repeat."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError


def take(model, word=40, **options):
    settings = {"n": 20, "length": 3, "repeats": 4, "progress": False}
    return lp.sinks.clusters(model, word, **{**settings, **options})


@torch.no_grad()
def largest(model, result, ids):
    layer = result.provenance["sink_layer"]
    _, cache = model.run_with_cache(torch.tensor([ids]))
    return cache[f"blocks.{layer}.hook_resid_post"][0].abs().amax(-1)


def test_the_search_is_greedy_and_every_value_that_of_a_pass(decoder):
    result = take(decoder)
    rows = result.candidates.sort_values("share", ascending=False, kind="stable")
    for row in rows.head(3).itertuples():
        close(row.value, largest(decoder, result, [40, row.id])[-1], "residual")
    members = result.members["id"].tolist()
    assert members[0] == 40 and len(set(members)) == 3
    # The second member is the best candidate behind the word.
    assert members[1] == rows["id"].iloc[0]
    for count in (1, 2, 3):
        close(
            result.members["value"][count - 1],
            largest(decoder, result, members[:count])[-1],
            "residual",
        )
    others = [largest(decoder, result, [*members[:2], int(c)])[-1] for c in rows["id"].iloc[1:]]
    close(result.members["value"][2], np.max(others), "residual")
    assert result.candidates["member"].sum() == 2


def test_similarity_is_the_cosine_of_what_attention_adds(shaped):
    result = take(shaped, n=4)

    def written(token):
        with torch.no_grad():
            _, cache = shaped.run_with_cache(torch.tensor([[token]]))
        return cache["blocks.0.hook_attn_out"][0, 0]

    for row in result.candidates.head(2).itertuples():
        cosine = torch.cosine_similarity(written(40), written(row.id), dim=0)
        assert row.similarity == pytest.approx(float(cosine), abs=1e-4)
    kinds = result.candidates.groupby("kind")["similarity"]
    assert kinds.min()["similar"] >= kinds.max()["random"] - 1e-12


def test_no_sequence_repeats_a_token(decoder):
    home, seen = sys.modules["lensprobe.sinks.clusters"], []
    whole = home.head_statistics

    def read(adapter, rows, **options):
        seen.extend(row.ids for row in rows)
        return whole(adapter, rows, **options)

    home.head_statistics = read
    try:
        result = take(decoder)
    finally:
        home.head_statistics = whole
    assert len(seen) == 8 and all(len(set(ids)) == 3 for ids in seen)
    members = set(result.members["id"])
    assert all(set(ids) == members for ids in seen[:4])
    least = result.provenance["ratio"] * result.provenance["reference"]
    for row, ids in zip(result.trials.itertuples(), seen, strict=True):
        found = largest(decoder, result, list(ids))
        assert row.success == float((found[1:] >= least).float().mean())
        close(row.value, found[-1], "residual")


def test_the_planted_model_is_never_fooled(planted):
    result = take(planted, "a", n=30)
    assert result.success() == result.success("random") == 0.0
    assert (result.candidates["share"] < 0.01).all()


def test_bos_stands_in_front_where_it_is_asked_for(decoder):
    result = take(decoder, bos=True)
    begin = decoder.tokenizer.bos_token_id
    row = next(result.candidates.itertuples())
    close(row.value, largest(decoder, result, [begin, 40, row.id])[-1], "residual")


def test_batches_and_seeds(decoder):
    one, many = take(decoder, batch_tokens=1), take(decoder)
    close(one.candidates["value"], many.candidates["value"], "residual")
    assert one.members["id"].tolist() == many.members["id"].tolist()
    other = take(decoder, seed=1)
    assert set(other.candidates["id"]) != set(many.candidates["id"])


def test_the_users_hooks_stay(tiny_gpt2):
    plain = take(tiny_gpt2)
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    seen = []
    point.add_hook(lambda value, hook: seen.append(1))
    try:
        close(take(tiny_gpt2).members["value"], plain.members["value"], "residual")
        assert len(point.fwd_hooks) == 1 and seen
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


def test_an_interrupt_is_said(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.clusters"]

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(home, "head_statistics", stop)
    with pytest.raises(Interrupted, match="before the set was found"):
        take(tiny_gpt2)


def test_it_is_saved_and_opened(tiny_gpt2, tmp_path):
    result = take(tiny_gpt2)
    result.save(tmp_path / "c.zip")
    again = lp.open(tmp_path / "c.zip")
    for table in result.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), result.to_frame(table))
    assert again.summary() == result.summary()
    with pytest.raises(ArgumentError, match="kind='plain'"):
        result.success("plain")


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ([5, 6], {}, "word: one word; got 2"),
        ("the cat", {}, "word: 'the cat' is"),
        (40, {"length": 1}, "length=1: at least 2"),
        (40, {"length": 30}, "length=30: at least 2, and at most n"),
        (40, {"n": 0}, "n=0"),
        (40, {"ratio": 2}, "ratio=2"),
        (40, {"layer": 4}, "layer=4"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, word, options, message):
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, word, **options)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
