"""The derivative of the loss by one number: finite differences, closed forms, and its exact parts."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import gradient
from lensprobe.massive.paths import Cut, constant_weights
from lensprobe.massive.target import Group
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.running import hooked
from lensprobe.tokens import Encoded

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
ENGLISH = [
    "The river had risen in the night, and by morning the lower field was grey water.",
    "She closed the door.",
    "One more short line of text.",
]
FACTORS = [0.1, 0.5, 1.0, 2.0]


def take(model, texts=TEXTS, **options):
    return gradient(model, texts, progress=False, **{"dim": 3, **options})


def of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


@pytest.fixture(scope="module")
def sloped(planted):
    return gradient(planted, ENGLISH, factors=FACTORS, progress=False)


@pytest.fixture(scope="module")
def ids(planted):
    return [planted.to_tokens(text)[0].cpu().numpy() for text in ENGLISH]


# ---- the planted answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("factor", FACTORS)
def test_the_slope_follows_its_closed_form(sloped, ids, factor):
    wanted = [PLANTED.loss_slope(tokens, factor) for tokens in ids]
    each = of(sloped.documents, factor=factor, measure="log_factor")
    # The value itself is 3,000 to about 1e-7 of it.
    np.testing.assert_allclose(each["value"], wanted, rtol=1e-3, atol=1e-7)
    counts = np.array([len(tokens) - 1 for tokens in ids])
    row = of(sloped.slopes, factor=factor, measure="log_factor").iloc[0]
    pooled = np.average(each["value"], weights=counts)
    np.testing.assert_allclose(row["value"], pooled, rtol=1e-9)
    by_value = of(sloped.slopes, factor=factor, measure="value")["value"]
    np.testing.assert_allclose(by_value * 3000 * factor, [row["value"]], rtol=1e-6)


def test_a_larger_value_lowers_the_planted_loss(sloped):
    rows = of(sloped.slopes, measure="log_factor")
    assert (rows["value"] < 0).all() and (rows["high"] < 0).all()
    assert (rows["share"] == 1).all() and (rows["count"] == 3).all()
    # Three of three: the two-sided sign test cannot say more than one in four.
    close(rows["p_value"], np.full(len(FACTORS), 0.25))


def test_the_parts_follow_their_closed_forms(sloped, ids):
    """Attention to the position and the value there enter the path's logit as a product."""
    step, factor = 1e-6, 0.5
    share = [PLANTED.share(factor * np.exp(s)) for s in (-step, step)]
    change = (share[1] - share[0]) / (2 * step)
    key, value = 0.0, 0.0
    for tokens in ids:
        length = len(tokens) - 1
        logits = PLANTED.bigrams[tokens[:-1]].copy()
        logits[:, PLANTED.mumble_token] += PLANTED.path(factor, length)
        logits[0] *= PLANTED.spread(0, 0) / PLANTED.spread(PLANTED.leftover(factor), 0)
        likely = np.exp(logits)
        mumble = (likely / likely.sum(1, keepdims=True))[:, PLANTED.mumble_token]
        for head in PLANTED.sink_heads:
            seen = PLANTED.attention(head.strength, factor, length)
            moved = seen * (1 - seen) * head.strength * change
            gain = -np.log(PLANTED.d_vocab + 1) / len(PLANTED.sink_heads)
            key += (mumble * gain * moved * PLANTED.share(factor))[1:].sum()
            value += (mumble * gain * seen * change)[1:].sum()
    count = sum(len(tokens) - 1 for tokens in ids)
    parts = of(sloped.paths, factor=factor).set_index("component")["value"]
    np.testing.assert_allclose(parts["key"], key / count, rtol=1e-3)
    np.testing.assert_allclose(parts["value"], value / count, rtol=1e-3)


def test_only_the_sink_heads_carry_it(sloped):
    heads = of(sloped.heads, factor=0.5)
    sinks = {(head.layer, head.head) for head in PLANTED.sink_heads}
    inside = [pair in sinks for pair in zip(heads["layer"], heads["head"], strict=True)]
    assert heads["layer"].min() == PLANTED.writer_layer + 1
    assert (heads.loc[inside, "value"] < 0).all()
    assert heads.loc[~np.array(inside), "value"].abs().max() < 1e-3 * heads["value"].abs().max()


# ---- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "position", "layer"), [(3, 0, 0), (40, 0, 3), (7, 2, 1), (9, 0, 2)]
)
def test_autograd_equals_finite_differences(shaped, dim, position, layer):
    result = take(shaped, dim=dim, position=position, layer=layer, factors=[0.5, 1])
    for factor in (0.5, 1.0):
        step = 0.02
        losses = []
        for moved in (factor * (1 - step), factor * (1 + step)):
            edit = lp.Scale(
                factor=moved, dim=dim, layers=layer, positions=lp.positions.at(position)
            )
            tokens = lp.score(shaped, TEXTS, edits=edit).tokens
            losses.append(tokens[tokens["position"] > position].groupby("text")["loss"].mean())
        wanted = (losses[1] - losses[0]) / (2 * step)
        each = of(result.documents, factor=factor, measure="log_factor")["value"]
        np.testing.assert_allclose(each, wanted, atol=5e-5)


@pytest.mark.parametrize(
    ("dim", "position", "layer"), [(3, 0, 0), (40, 0, 3), (7, 2, 1), (9, 0, 2)]
)
def test_the_parts_sum_to_the_total(shaped, dim, position, layer):
    result = take(shaped, dim=dim, position=position, layer=layer, factors=[-2, 0.3, 1])
    for factor in (-2.0, 0.3, 1.0):
        parts = of(result.paths, factor=factor).set_index("component")["value"]
        scale = of(result.heads, factor=factor)["value"].abs().sum() + abs(parts["own"])
        assert abs(parts["remainder"]) <= 1e-5 * max(scale, 1e-3)
        close(parts.drop("total").sum(), parts["total"])
        for component in ("key", "value"):
            by_head = of(result.heads, factor=factor, component=component)["value"]
            close([by_head.sum()], [parts[component]])
    assert set(result.heads["layer"]) == set(range(layer + 1, 4))


def test_several_coordinates_grow_together(decoder):
    at = [lp.massive.Finding(dim, 2, (1,), "resid_post", 1.0) for dim in (3, 9)]
    result = take(decoder, dim=None, at=at, factors=[0.5, 1])
    assert result.provenance["dims"] == [3, 9] and result.summary()["dim"] == "3, 9"
    step, where = 0.02, lp.positions.at(2)
    for factor in (0.5, 1.0):
        losses = []
        for moved in (factor * (1 - step), factor * (1 + step)):
            edit = lp.Scale(factor=moved, dim=[3, 9], layers=1, positions=where)
            tokens = lp.score(decoder, TEXTS, edits=edit).tokens
            losses.append(tokens[tokens["position"] > 2].groupby("text")["loss"].mean())
        each = of(result.documents, factor=factor, measure="log_factor")
        np.testing.assert_allclose(each["value"], (losses[1] - losses[0]) / (2 * step), atol=5e-5)
        parts = of(result.paths, factor=factor).set_index("component")["value"]
        close(parts.drop("total").sum(), parts["total"])
        # By the length of their vector: the logarithm's derivative is length × factor times it.
        by_length = of(result.documents, factor=factor, measure="value")
        close(by_length["value"] * by_length["activation"] * factor, each["value"])
    residual = lp.forward(decoder, TEXTS[0], layers=1).activations[0, 2, [3, 9]]
    close([by_length["activation"].iloc[0]], [np.linalg.norm(residual)], "residual")


@pytest.mark.parametrize("component", ["k", "v"])
def test_a_part_is_what_its_layer_alone_passes_on(shaped, component):
    """One layer's keys or values move with the number, all others at the position stay."""
    adapter = adapter_for(shaped)
    rows = [Encoded(tuple(shaped.to_tokens(text)[0].tolist())) for text in TEXTS[:1]]
    with constant_weights(shaped):
        found = Cut(adapter, rows, Group((3,), 0), 0).slopes(1.0)
    ids, step = torch.tensor(rows[0].ids)[None], 0.05
    names = [adapter.hook_name(f"attn.{site}", n) for n in (1, 2, 3) for site in ("k", "v")]
    moving = adapter.hook_name(f"attn.{component}", 2)

    @torch.no_grad()
    def first_tokens(factor):
        """Keys and values at the position with the number at a factor."""
        kept = {}
        edit = lp.Scale(factor=factor, dim=3, layers=0, positions=lp.positions.at(0))
        hooks = {name: lambda x, name=name: kept.__setitem__(name, x[:, :1]) for name in names}
        with lp.editing(shaped, edit), hooked(adapter, hooks):
            shaped(ids)
        return kept

    plain = first_tokens(1.0)

    @torch.no_grad()
    def loss(factor):
        given = plain | {moving: first_tokens(factor)[moving]}
        hooks = {name: lambda x, name=name: torch.cat([given[name], x[:, 1:]], 1) for name in names}
        with hooked(adapter, hooks):
            logits = shaped(ids)[0, 1:-1].double()
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 2:], reduction="sum"))

    slope = (loss(1 + step) - loss(1 - step)) / (2 * step)
    part = {"k": found.key, "v": found.value}[component][0, 2].sum() * found.activation[0]
    assert abs(slope) > 1e-5
    np.testing.assert_allclose(part, slope, atol=2e-5, rtol=2e-2)


def test_the_slope_by_the_value_is_known_at_factor_zero(decoder):
    at_zero = take(decoder, layer=1, factors=0.0)
    rows = at_zero.slopes.set_index("measure")
    assert rows.loc["log_factor", "value"] == 0 and np.isnan(rows.loc["log_factor", "p_value"])
    assert rows.loc["value", "value"] != 0 and rows.loc["value", "count"] == 3


def test_the_sign_test_counts_documents(decoder):
    texts = [[5, 9, 3 + i, 7, 11 + i] for i in range(12)]
    result = take(decoder, texts, layer=1)
    each = of(result.documents, measure="value")["value"]
    row = of(result.slopes, measure="value").iloc[0]
    falls = int((each < 0).sum())
    assert row["share"] == falls / 12 and row["count"] == 12
    assert row["p_value"] == stats.binomtest(falls, 12).pvalue


def test_batching_changes_nothing(decoder):
    one = take(decoder, layer=1, factors=[0.5, 2], batch_tokens=1)
    many = take(decoder, layer=1, factors=[0.5, 2], batch_tokens=4096)
    for table in one.tables:
        numeric = one.to_frame(table).select_dtypes(float)
        close(numeric, many.to_frame(table)[numeric.columns])


def test_the_loss_is_that_of_rescale(decoder):
    slopes = take(decoder, layer=1, factors=[0.5, 2]).documents
    effects = lp.massive.rescale(decoder, TEXTS, dim=3, layer=1, factors=[0.5, 2], progress=False)
    losses = of(effects.documents, measure="loss")["value"]
    close(of(slopes, measure="value")["loss"], losses)


# ---- what is left of the model ---------------------------------------------------------------------


def test_flags_hooks_and_gradients_are_as_before(tiny_gpt2):
    parameters = list(tiny_gpt2.parameters())
    for parameter in parameters:
        parameter.grad = None
    parameters[0].requires_grad_(False)
    before = [p.requires_grad for p in parameters]
    try:
        with torch.inference_mode():
            inside = take(tiny_gpt2, layer=1)
        assert [p.requires_grad for p in parameters] == before
        assert all(p.grad is None for p in parameters)
        assert not any(point.fwd_hooks for point in tiny_gpt2.hook_dict.values())
        outside = take(tiny_gpt2, layer=1)
        close(inside.slopes["value"], outside.slopes["value"])
        with constant_weights(tiny_gpt2):
            assert not any(p.requires_grad for p in parameters)
        assert [p.requires_grad for p in parameters] == before
    finally:
        parameters[0].requires_grad_(True)


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
    close(result.heads["value"], plain.heads["value"])


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.massive.gradient"]
    whole, calls = home.Cut, []

    def read(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(*args)

    monkeypatch.setattr(home, "Cut", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        take(tiny_gpt2, layer=1, batch_tokens=1)
    assert not caught.value.partial.summary()["complete"]
    assert tiny_gpt2.W_E.requires_grad


def test_it_is_saved_and_opened(sloped, tmp_path):
    sloped.save(tmp_path / "g.zip")
    again = lp.open(tmp_path / "g.zip")
    for table in sloped.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), sloped.to_frame(table))
    assert again.summary() == sloped.summary()
    assert again.summary()["factor"] == 1.0 and "sun2024massive" in sloped.cite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": []}, r"factors=\[\]: one or more different finite"),
        ({"factors": float("inf")}, "factors=inf.*finite"),
        ({"dim": 768}, "dim=768: .* 0 to 767"),
        ({"layer": -7}, "layer=-7: this model has 6 layers"),
        ({"position": 500}, "position=500: 3 of 3 texts are too short"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        take(planted, **options)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
