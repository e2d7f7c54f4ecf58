"""A little more of one dimension behind the norm: against hooks on the norms themselves."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, HookPointError, Interrupted, ModelError
from lensprobe.massive import bos_pull
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]


def take(model, texts=TEXTS, **options):
    return bos_pull(model, texts, progress=False, seed=3, **{"dim": 3, **options})


def of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


@pytest.fixture(scope="module")
def pulled(planted):
    return bos_pull(planted, TEXTS, seed=0, progress=False)


# ---- the planted answers ---------------------------------------------------------------------------


def test_the_heads_that_read_the_dimension_attend_more(pulled):
    """Sink heads, and their twins that have the same keys where the value is not."""
    heads = pulled.heads.set_index(["layer", "head"])
    readers = {(h.layer, h.head) for h in (*PLANTED.sink_heads, *PLANTED.twin_heads)}
    for place, row in heads.iterrows():
        assert row["share"] == (place in readers)
        assert row["falls"] == 0
    twins = [(h.layer, h.head) for h in PLANTED.twin_heads]
    assert (heads.loc[twins, "value"] > 0).all()


def test_sink_heads_use_half_of_their_query_space(pulled):
    heads = pulled.heads.set_index(["layer", "head"])
    sinks = [(h.layer, h.head) for h in PLANTED.sink_heads]
    assert (heads.loc[sinks, ["positive", "side"]] == 1).all(axis=None)


def test_random_dimensions_do_not_pull(pulled):
    random = of(pulled.layers, kind="random")
    assert len(pulled.provenance["random_dims"]) == 4
    assert [PLANTED.dims[0]] not in pulled.provenance["random_dims"]
    plateau = of(pulled.layers, kind="dim").set_index("layer").loc[[2, 3, 4], "share"]
    close(plateau, np.full(3, 3 / 12))
    assert random["share"].max() < 3 / 12
    assert pulled.summary()["dim"] == 447 and pulled.summary()["share"] > 0


# ---- against the norms themselves ------------------------------------------------------------------


@torch.no_grad()
def loop(model, dim, position, amount):
    """Scores and patterns `[layer]` of each text, plain and with each layer's norm shifted alone."""
    found = []
    for text in TEXTS:
        tokens = model.to_tokens(text)
        plain = [one(model, tokens, n) for n in range(4)]
        shifted = []
        for n in range(4):

            def shift(module, args, output):
                more = torch.zeros_like(output)
                more[:, position, dim] = amount
                return output + more

            handle = model.blocks[n].ln1.register_forward_hook(shift)
            shifted.append(one(model, tokens, n))
            handle.remove()
        found.append((plain, shifted))
    return found


def one(model, tokens, layer):
    names = [f"blocks.{layer}.attn.hook_{what}" for what in ("attn_scores", "pattern")]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return [cache[name][0].double() for name in names]


@pytest.mark.parametrize(("dim", "position"), [(3, 0), (17, 2)])
def test_every_number_is_its_definition(shaped, dim, position):
    result = take(shaped, dim=dim, position=position, amount=0.1)
    heads = result.heads.set_index(["layer", "head"])
    texts = loop(shaped, dim, position, 0.1)
    for n in range(4):
        ups, moved, count, sides, after = 0.0, 0.0, 0, [], []
        for plain, shifted in texts:
            later = slice(position + 1, None)
            scores, pattern = (part[:, later, position] for part in plain[n])
            new_scores, new_pattern = (part[:, later, position] for part in shifted[n])
            ups = ups + (new_scores > scores).sum(1)
            moved = moved + (new_pattern - pattern).sum(1)
            count += scores.shape[1]
            sides.append((scores > 0).double().mean(1))
            behind = plain[n][0][:, position + 2 :, position + 1]
            after.append((behind > 0).double().mean(1))
        rows = heads.loc[n]
        close(rows["share"], ups / count)
        close(rows["falls"], 1 - ups / count)
        close(rows["value"], moved / count)
        positive, behind = torch.stack(sides), torch.stack(after)
        close(rows["positive"], positive.mean(0))
        close(rows["side"], torch.maximum(positive, 1 - positive).mean(0))
        close(rows["next_positive"], behind.mean(0))
        close(rows["next_side"], torch.maximum(behind, 1 - behind).mean(0))
        layer = of(result.layers, kind="dim", layer=n).iloc[0]
        close([layer["share"], layer["value"]], [rows["share"].mean(), rows["value"].mean()])


def test_several_dimensions_pull_together(decoder):
    at = [lp.massive.Finding(dim, 0, (1,), "resid_post", 1.0) for dim in (3, 9)]
    result = take(decoder, dim=None, at=at, repeats=3)
    assert result.provenance["dims"] == [3, 9] and result.summary()["dim"] == "3, 9"
    drawn = result.provenance["random_dims"]
    assert np.shape(drawn) == (3, 2) and len({3, 9, *np.ravel(drawn)}) == 8
    texts = loop(decoder, [3, 9], 0, 0.1)
    for n in range(4):
        moved = sum(
            (new[1] - old[1])[:, 1:, 0].sum() for p, s in texts for old, new in [(p[n], s[n])]
        )
        queries = sum(plain[n][1][:, 1:, 0].numel() for plain, _ in texts)
        row = of(result.layers, kind="dim", layer=n).iloc[0]
        close([row["value"]], [float(moved) / queries])


def test_less_pulls_the_other_way(decoder):
    more, less = take(decoder, amount=0.1), take(decoder, amount=-0.1)
    close(more.heads["share"], less.heads["falls"])
    close(more.heads["positive"], less.heads["positive"])


def test_batching_changes_nothing(decoder):
    one, many = take(decoder, batch_tokens=1), take(decoder, batch_tokens=4096)
    for table in one.tables:
        numeric = one.to_frame(table).select_dtypes(float)
        close(numeric, many.to_frame(table)[numeric.columns])


def test_a_seed_draws_the_same_dimensions(tiny_gpt2):
    first, again = take(tiny_gpt2, repeats=2), take(tiny_gpt2, repeats=2)
    assert first.provenance["random_dims"] == again.provenance["random_dims"]
    pd.testing.assert_frame_equal(first.layers, again.layers)
    free = bos_pull(tiny_gpt2, TEXTS, dim=3, progress=False)
    again = bos_pull(tiny_gpt2, TEXTS, dim=3, progress=False, seed=free.provenance["seed"])
    assert again.provenance["random_dims"] == free.provenance["random_dims"]


def test_the_users_hooks_stay_and_see_whole_passes(decoder):
    plain = take(decoder, position=1)
    seen = []
    point = decoder.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: seen.append(value.shape[:2]))
    try:
        result = take(decoder, position=1, batch_tokens=4096)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert len(set(seen)) == 1 and seen[0][0] == len(TEXTS)
    assert any("hooks of your own" in note for note in result.provenance["notes"])
    close(result.heads, plain.heads)


def test_a_sliding_window_hides_the_position(tmp_path):
    import transformers
    from tiny_models import write_tokenizer

    config = transformers.MistralConfig(
        vocab_size=write_tokenizer(tmp_path), sliding_window=4, hidden_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    result = take(lp.load(tmp_path), [[1, 2, 3, 4, 5, 6, 7, 8, 9]])
    # Three queries see the position, and every one of them answers.
    shares = result.heads["share"] + result.heads["falls"]
    close(shares * 3, np.round(shares * 3))
    assert (shares <= 1).all() and shares.max() == 1


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.massive.bos_pull"]
    whole, calls = home._Run.read, []

    def read(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args)

    monkeypatch.setattr(home._Run, "read", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        take(tiny_gpt2, batch_tokens=1)
    assert not caught.value.partial.summary()["complete"]


def test_it_is_saved_and_opened(pulled, tmp_path):
    pulled.save(tmp_path / "b.zip")
    again = lp.open(tmp_path / "b.zip")
    for table in pulled.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), pulled.to_frame(table))
    assert again.summary() == pulled.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 0}, "amount=0: a finite number other than 0"),
        ({"amount": float("nan")}, "amount=nan"),
        ({"amount": "much"}, "amount='much'"),
        ({"repeats": 0}, "repeats=0: a whole number from 1 to 767"),
        ({"dim": -1}, "dim=-1: .* 0 to 767"),
        ({"position": 500}, "position=500: 3 of 3 texts are too short"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        take(planted, **options)


def test_a_model_whose_attention_reads_through_no_norm_is_refused(tmp_path):
    import transformers
    from tiny_models import write_tokenizer

    config = transformers.Olmo2Config(
        vocab_size=write_tokenizer(tmp_path), hidden_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, intermediate_size=64,
    )  # fmt: skip
    transformers.Olmo2ForCausalLM(config).save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    # 3.9 gives that name to the norm behind attention.
    with pytest.raises(
        HookPointError, match=r"ln1\.hook_out|no norm, attention scores and pattern"
    ):
        take(model)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
