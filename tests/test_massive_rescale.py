"""One coordinate multiplied: the planted closed forms, and whole passes of their own."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adapter import block_calls
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import rescale
from lensprobe.massive.effects import Comparison, Meter
from lensprobe.massive.place import numbers
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.tokens import Encoded

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
ENGLISH = [
    "The river had risen in the night, and by morning the lower field was grey water.",
    "She closed the door.",
    "One more short line of text.",
]
FACTORS = [0.0, 0.1, 0.5, 1.0, 2.0]


def take(model, texts=TEXTS, **options):
    return rescale(model, texts, progress=False, **{"dim": 3, **options})


def of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def pair(position=0, layer=1):
    """Two findings at one position."""
    return [lp.massive.Finding(dim, position, (layer,), "resid_post", 1.0) for dim in (3, 9)]


@pytest.fixture(scope="module")
def swept(planted):
    return rescale(planted, ENGLISH, factors=FACTORS, progress=False)


@pytest.fixture(scope="module")
def ids(planted):
    return [planted.to_tokens(text)[0].cpu().numpy() for text in ENGLISH]


# ---- the planted answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("factor", FACTORS)
def test_loss_and_divergence_follow_their_closed_forms(swept, ids, factor):
    losses = [PLANTED.losses(tokens, factor) for tokens in ids]
    row = swept.effect("loss", factor)
    close([row["value"]], [np.concatenate(losses).mean()])
    plain = np.concatenate([PLANTED.losses(tokens) for tokens in ids]).mean()
    close([row["change"]], [np.concatenate(losses).mean() - plain])
    each = of(swept.documents, measure="loss", factor=factor)
    close(each["value"], [part.mean() for part in losses])
    assert each["count"].tolist() == [len(part) for part in losses]
    perplexity = swept.effect("perplexity", factor)
    np.testing.assert_allclose(perplexity["value"], np.exp(row["value"]), rtol=1e-12)
    np.testing.assert_allclose(
        perplexity["change"], np.exp(row["value"]) - np.exp(swept.plain["value"][0]), atol=1e-9
    )


@pytest.mark.parametrize("factor", FACTORS)
def test_heads_follow_their_closed_forms(swept, ids, factor):
    heads = of(swept.heads, factor=factor).set_index(["layer", "head"])
    for sink in PLANTED.sink_heads:
        mean = np.mean([PLANTED.mean_attention(sink.strength, factor, len(t)) for t in ids])
        close(heads.loc[(sink.layer, sink.head), "value"], mean)
        # Minus one of the value's own bias: drained where the planted value stands.
        assert heads.loc[(sink.layer, sink.head), "value_norm"] == pytest.approx(
            2**-7.5 * abs(1 - PLANTED.share(factor)), abs=1e-6
        )
        assert heads.loc[(sink.layer, sink.head), "other_norm"] == pytest.approx(2**-7.5, rel=1e-4)
    close(heads.loc[(0, 1), "value"], np.mean([PLANTED.uniform_attention(len(t)) for t in ids]))


def test_the_sinks_go_with_the_value(swept):
    rates = of(swept.effects, measure="sink_rate").set_index("factor")["value"]
    eighth = len(PLANTED.sink_heads) / (PLANTED.n_layers * PLANTED.n_heads)
    assert rates[0.0] < eighth / 2
    close(rates[[0.5, 1.0]], [eighth, eighth])
    assert of(swept.effects, measure="attention").set_index("factor")["change"][0.0] < -0.1


def test_nothing_needs_to_be_named(swept):
    assert swept.provenance["dims"] == [PLANTED.dims[0]]
    assert swept.provenance["layer"] == PLANTED.writer_layer
    assert any("first at which it is massive" in note for note in swept.provenance["notes"])
    facts = swept.summary()
    assert (facts["dim"], facts["factor"], facts["documents"]) == (447, 0.0, 3)
    assert facts["change"] == pytest.approx(np.log(2), abs=0.05)


def test_a_coordinate_named_by_hand_is_edited_where_it_is_born(planted):
    result = take(planted, ENGLISH, dim=PLANTED.dims[0], factors=[0])
    assert result.provenance["layer"] == PLANTED.writer_layer
    assert any("born at layer 1, by its trajectory" in note for note in result.provenance["notes"])


def test_the_control_dimension_leaves_the_sinks_alone(planted):
    result = take(planted, ENGLISH, dim=PLANTED.dims[1], factors=[0.0])
    assert abs(result.effect("loss", 0)["change"]) < 1e-3
    assert result.effect("sink_rate", 0)["change"] == 0


# ---- against passes of their own -------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "position", "layer"), [(3, 0, 0), (40, 0, 3), (7, 2, 1)])
def test_every_factor_equals_an_independent_run(shaped, dim, position, layer):
    result = take(shaped, dim=dim, position=position, layer=layer, factors=[-40, 0, 1, 30])
    for factor in (-40.0, 0.0, 1.0, 30.0):
        edit = lp.Scale(factor=factor, dim=dim, layers=layer, positions=lp.positions.at(position))
        alone = lp.score(shaped, TEXTS, edits=edit).tokens
        # Predictions before the position cannot change and are not counted.
        alone = alone[alone["position"] > position].groupby("text")["loss"]
        each = of(result.documents, measure="loss", factor=factor)
        close(each["value"], alone.mean())
        assert each["count"].tolist() == alone.size().tolist()
        attention, norms = heads_of(shaped, edit, position)
        heads = of(result.heads, factor=factor)
        close(heads["value"], attention.reshape(-1))
        close(heads["value_norm"], norms[..., 0].reshape(-1), "residual")
        close(heads["other_norm"], norms[..., 1].reshape(-1), "residual")


@torch.no_grad()
def heads_of(model, edit, position):
    """Mean attention `[layer head]` and norms of v · W_O, from `run_with_cache` text by text."""
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    attention, norms = np.zeros(shape), np.zeros((*shape, 2))
    with lp.editing(model, edit):
        for text in TEXTS:
            _, cache = model.run_with_cache(model.to_tokens(text))
            for n in range(shape[0]):
                pattern = cache[f"blocks.{n}.attn.hook_pattern"][0]
                attention[n] += pattern[:, position:, position].mean(1).numpy() / len(TEXTS)
                v = cache[f"blocks.{n}.attn.hook_v"][0].flatten(1)
                v = v.unflatten(1, (-1, model.cfg.d_head))
                v = v.repeat_interleave(shape[1] // v.shape[1], 1)
                written = torch.einsum("thd,hdw->thw", v, model.blocks[n].attn.W_O).norm(dim=-1)
                norms[n, :, 0] += written[position].numpy() / len(TEXTS)
                norms[n, :, 1] += written[position + 1 :].mean(0).numpy() / len(TEXTS)
    return attention, norms


def test_several_coordinates_are_multiplied_together(decoder):
    result = take(decoder, dim=None, at=pair(), factors=[-20, 0])
    assert result.provenance["dims"] == [3, 9] and result.summary()["dim"] == "3, 9"
    assert result.provenance["layer"] == 1
    for factor in (-20.0, 0.0):
        edit = lp.Scale(factor=factor, dim=[3, 9], layers=1, positions=lp.positions.front(1))
        alone = lp.score(decoder, TEXTS, edits=edit).tokens.groupby("text")["loss"].mean()
        close(of(result.documents, measure="loss", factor=factor)["value"], alone)


def test_the_divergence_is_that_of_the_distributions(decoder):
    result = take(decoder, layer=1, factors=[50])
    edit = lp.Scale(factor=50, dim=3, layers=1, positions=lp.positions.front(1))
    logs = [torch.tensor(lp.forward(decoder, TEXTS, edits=e).logits) for e in ([], edit)]
    plain, edited = (part.double().log_softmax(-1) for part in logs)
    gap = (edited.exp() * (edited - plain)).sum(-1).numpy()
    # The last token of each text predicts nothing that is there.
    lengths = [len(part) for part in (decoder.to_tokens(t)[0] for t in TEXTS)]
    ends = np.cumsum(lengths) - 1
    close([result.effect("kl", 50)["value"]], [np.delete(gap, ends).mean()])
    assert result.effect("kl", 50)["value"] > 0


def test_factor_one_is_the_plain_run(decoder):
    result = take(decoder, layer=1, factors=[0.5, 1])
    same = of(result.effects, factor=1.0)
    assert (same[["change", "change_low", "change_high"]] == 0).all(axis=None)
    assert same.set_index("measure")["value"].to_dict() == (
        result.plain.set_index("measure")["value"].to_dict()
    )


def test_a_branch_at_factor_one_is_plain_bit_for_bit(decoder):
    adapter = adapter_for(decoder)
    rows = [Encoded(tuple(decoder.to_tokens(text)[0].tolist())) for text in TEXTS]
    edit = lp.Scale(factor=1.0, dim=3, layers=1, positions=lp.positions.at(0))
    read = Comparison(Meter(adapter, 0), rows, [edit])
    assert torch.equal(read.fan.run([edit], stop=adapter.n_layers), read.fan.ends)
    again = read.run([edit])
    for name, values in vars(read.plain).items():
        np.testing.assert_array_equal(getattr(again, name), values, err_msg=name)


def test_batching_changes_nothing(decoder):
    one = take(decoder, layer=2, factors=[0, 3], batch_tokens=1)
    many = take(decoder, layer=2, factors=[0, 3], batch_tokens=4096)
    close(one.effects.iloc[:, 2:], many.effects.iloc[:, 2:])
    close(one.heads.iloc[:, 3:], many.heads.iloc[:, 3:])


def test_lower_layers_run_once(tiny_gpt2):
    calls, handles = block_calls(tiny_gpt2)
    try:
        take(tiny_gpt2, layer=1, factors=[0, 0.5, 1, 2], batch_tokens=4096)
    finally:
        for handle in handles:
            handle.remove()
    assert [calls.count(n) for n in range(4)] == [1, 1, 2, 2]


# ---- documents, hooks, interrupts ------------------------------------------------------------------


def test_pieces_of_a_document_count_as_one(tiny_gpt2):
    ids = [5, 9, 3, 8, 1, 7, 2, 6, 4, 11, 12, 13]
    result = take(tiny_gpt2, [ids, ids[:5]], layer=1, factors=[9], length=6, bos=False)
    loss = of(result.documents, measure="loss")
    assert loss["document"].tolist() == [0, 1] and loss["count"].tolist() == [10, 4]
    rates = of(result.documents, measure="attention")
    assert rates["count"].tolist() == [2, 1]
    halves = take(tiny_gpt2, [ids[:6], ids[6:]], layer=1, factors=[9], bos=False)
    parts = of(halves.documents, measure="loss")
    close(loss["value"].iloc[:1], [parts["value"].mean()])


def test_the_users_hooks_stay_and_see_whole_passes(tiny_gpt2):
    plain = take(tiny_gpt2, layer=2, position=1, factors=[0, 4])
    seen = []
    point = tiny_gpt2.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: seen.append(value.shape[1]))
    try:
        result = take(tiny_gpt2, layer=2, position=1, factors=[0, 4], batch_tokens=4096)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    # Plain, then each factor in a pass of its own: those hooks see every row once.
    assert len(seen) == 3 and len(set(seen)) == 1
    assert any("hooks of your own" in note for note in result.provenance["notes"])
    close(result.effects.iloc[:, 2:], plain.effects.iloc[:, 2:])


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.massive.rescale"]
    whole, calls = home.Comparison, []

    def read(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args)

    monkeypatch.setattr(home, "Comparison", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        take(tiny_gpt2, layer=1, batch_tokens=1)
    partial = caught.value.partial
    assert not partial.summary()["complete"] and partial.summary()["documents"] == 1
    with pytest.raises(Interrupted, match="before the first"):
        take(tiny_gpt2, layer=1, batch_tokens=1)


def test_weights_that_cannot_be_read_cost_the_norms_alone(tiny_gpt2, monkeypatch):
    def refuse(adapter):
        raise ModelError("packed")

    monkeypatch.setattr(sys.modules["lensprobe.massive.effects"], "weights_of", refuse)
    result = take(tiny_gpt2, layer=1, factors=[2])
    assert "value_norm" not in set(result.effects["measure"])
    assert result.heads["value_norm"].isna().all() and result.heads["value"].notna().all()
    assert any("norms of v · W_O are left out" in note for note in result.provenance["notes"])


def test_it_is_saved_and_opened(swept, tmp_path):
    swept.save(tmp_path / "r.zip")
    again = lp.open(tmp_path / "r.zip")
    for table in swept.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), swept.to_frame(table))
    assert again.summary() == swept.summary()
    assert "sun2024massive" in swept.cite() and "guo2024active" in swept.cite()


# ---- bad input -------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=5))
def test_factors_are_finite_and_different(values):
    fine = values and np.isfinite(values).all() and len(set(values)) == len(values)
    if fine:
        assert numbers("factors", values) == tuple(sorted(values))
    else:
        with pytest.raises(ArgumentError, match=r"factors=.* one or more different finite"):
            numbers("factors", values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": []}, r"factors=\[\]: one or more different finite"),
        ({"factors": [1.0, float("nan")]}, "factors=.*finite"),
        ({"factors": "high"}, "factors='high': numbers"),
        ({"dim": 768}, "dim=768: .* 0 to 767"),
        ({"layer": 6}, "layer=6: this model has 6 layers"),
        ({"position": 500}, "position=500: 3 of 3 texts are too short"),
        ({"position": 19}, "position=19: text 2 ends there|position=19: 1 of 3"),
        ({"at": [], "dim": None}, r"at=\[\]"),
        ({"epsilon": 1.5}, "epsilon=1.5"),
        ({"position": -1}, "position=-1: positions count from 0"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        take(planted, **options)


def test_a_text_that_ends_at_the_position_is_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="position=2: text 1 ends there"):
        take(tiny_gpt2, [[1, 2, 3, 4], [1, 2, 3]], position=2)


def test_coordinates_at_several_positions_are_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match=r"coordinates at one position; got positions \[0, 2\]"):
        take(tiny_gpt2, dim=None, at=[pair()[0], pair(2)[1]])


def test_an_effect_that_was_not_measured_is_refused(swept):
    with pytest.raises(ArgumentError, match=r"the measures are loss.*the factors 0, 0.1"):
        swept.effect("loss", 7)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
