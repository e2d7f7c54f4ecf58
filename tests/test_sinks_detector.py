"""The first-token detector: exact sums of heads, identities of repeated tokens, and its repair."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import weights_of
from lensprobe.sinks.detector import separation

TEXTS = [
    "Hello world, this is",
    "The cat sat on the mat. And then",
    "one two three four",
    "the cat",
]


def take(model, texts=TEXTS, **options):
    return lp.sinks.first_token_detector(model, texts, progress=False, **{"n": 3, **options})


@torch.no_grad()
def attention_out(model, ids, layer):
    _, cache = model.run_with_cache(torch.tensor([ids]))
    return cache[f"blocks.{layer}.hook_attn_out"][0].double()


@pytest.mark.parametrize("layer", [0, 2])
def test_the_direction_is_the_mean_difference(shaped, layer):
    result = take(shaped, layer=layer)
    rows = [shaped.to_tokens(text)[0].tolist() for text in TEXTS]
    gaps = []
    for ids in rows[::2]:  # every other document finds, the rest judge
        placed = attention_out(shaped, ids, layer)
        gaps += [attention_out(shaped, [t], layer)[0] - placed[i] for i, t in enumerate(ids) if i]
    mean = torch.stack(gaps).mean(0)
    close(result.heads.set_index("head").loc[-1, "value"], mean.norm(), "residual")
    close(result.direction, mean / mean.norm())
    own = result.heads[result.heads["head"] >= 0]
    # A bias in front of a norm has a part of its own.
    projection = weights_of(adapter_for(shaped)).attention(layer)
    if projection.norm is None or projection.bias is None:
        assert own["share"].sum() == pytest.approx(1.0, abs=1e-5)
    direction = torch.tensor(result.direction)
    low = torch.cat([attention_out(shaped, ids, layer)[1:] @ direction for ids in rows[1::2]])
    high = torch.stack(
        [attention_out(shaped, [t], layer)[0] @ direction for ids in rows[1::2] for t in ids[1:]]
    )
    close(result.components, [low.mean(), high.mean()])
    wins = (high[:, None] > low[None]).double().mean()
    close(result.separation, wins)


def test_copies_without_bos_look_alone_where_positions_are_relative(tiny_llama):
    result = take(tiny_llama, lengths=[1, 2, 9])
    bare = result.distances[~result.distances["bos"]]
    assert (bare["ratio"] < 1e-5).all()
    fronted = result.distances[result.distances["bos"] & (result.distances["head"] == -1)]
    assert (fronted["ratio"] > 1e-2).all()


def test_absolute_positions_tell_copies_apart(tiny_gpt2):
    result = take(tiny_gpt2, lengths=[1, 9])
    bare = result.distances[~result.distances["bos"] & (result.distances["head"] == -1)]
    assert (bare.loc[bare["count"] == 1, "ratio"] < 1e-5).all()
    assert (bare.loc[bare["count"] == 9, "ratio"] > 1e-2).all()


def test_distances_are_those_of_the_attention_output(decoder):
    result = take(decoder, lengths=[1, 5], layer=1)
    whole = result.distances[result.distances["head"] == -1]
    begin = decoder.tokenizer.bos_token_id
    for row in whole.itertuples():
        ids = [begin] * bool(row.bos) + [row.id] * row.count
        gap = attention_out(decoder, ids, 1)[-1] - attention_out(decoder, [row.id], 1)[0]
        close(row.value, gap.norm())


def test_tokens_are_scaled_between_the_two_kinds(decoder):
    result = take(decoder)
    later = result.tokens[result.tokens["position"] > 0]
    assert later["value"].mean() == pytest.approx(0.0, abs=1e-5)
    assert set(result.tokens["document"]) == {1, 3}
    first = result.tokens[result.tokens["position"] == 0]
    assert len(first) == 2


def test_the_repair_puts_every_later_token_in_its_place(decoder):
    """Behind position 0 the component is what tokens have in their places; the rest stays."""
    result = take(decoder)
    ids = [7] * 6
    adapter = adapter_for(decoder)
    plain = attention_out(decoder, ids, 0)
    with lp.editing(decoder, result.repair()), torch.no_grad():
        _, cache = decoder.run_with_cache(torch.tensor([ids]))
    repaired = cache[adapter.hook_name("attn_out", 0)][0].double()
    direction = torch.tensor(result.direction)
    close(repaired[0], plain[0])
    close(repaired[1:] @ direction, np.full(5, result.components[0]))
    rest = torch.eye(len(direction)) - direction[:, None] * direction
    close(repaired @ rest, plain @ rest)
    twice = result.repair(amount=2.0)
    gap = result.components[1] - result.components[0]
    assert float(twice.value) == pytest.approx(result.components[0] - gap)


def test_batching_changes_nothing(decoder):
    one, many = take(decoder, batch_tokens=1), take(decoder)
    close(one.direction, many.direction)
    close(one.distances["value"], many.distances["value"])
    close(one.heads["separation"], many.heads["separation"])


def test_the_users_hooks_stay_and_see_whole_passes(tiny_gpt2):
    plain = take(tiny_gpt2)
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    seen = []
    point.add_hook(lambda value, hook: seen.append(1))
    try:
        close(take(tiny_gpt2).direction, plain.direction)
        assert len(point.fwd_hooks) == 1 and seen
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_separation_counts_pairs(high, low):
    pairs = [(a > b) + 0.5 * (a == b) for a in high for b in low]
    assert separation(np.array(high), np.array(low)) == pytest.approx(np.mean(pairs))


def test_it_is_saved_and_opened(tiny_llama, tmp_path):
    result = take(tiny_llama)
    result.save(tmp_path / "d.zip")
    again = lp.open(tmp_path / "d.zip")
    for table in result.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), result.to_frame(table))
    np.testing.assert_array_equal(again.direction, result.direction)
    assert again.summary() == result.summary()


def test_an_interrupt_is_said(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.detector"]

    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(home.HeadReader, "each", stop)
    with pytest.raises(Interrupted, match="before the texts were read"):
        take(tiny_gpt2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 4}, "layer=4: this model has 4 layers"),
        ({"lengths": []}, r"lengths=\[\]: give at least one"),
        ({"lengths": [0]}, "lengths=0: a positive whole number"),
        ({"lengths": [256]}, "256 tokens and a BOS; this model's context is 256"),
        ({"n": 0}, "n=0"),
        ({"texts": ["only one text"]}, "at least two documents"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, options, message):
    texts = options.pop("texts", TEXTS)
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, texts, **options)


@pytest.mark.parametrize("amount", [float("nan"), "much", True])
def test_an_amount_is_a_finite_number(tiny_llama, amount):
    with pytest.raises(ArgumentError, match="amount="):
        take(tiny_llama).repair(amount=amount)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
