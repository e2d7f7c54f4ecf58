"""The lens over a text, before and after: against residuals and unembeddings written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.interpolation import trace
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import weights_of
from lensprobe.tokens import encode

TEXT = "The cat sat on the mat and then it went away"
STRONG = {"layer": [1, 2], "weight": [0.9, 0.6], "norm": "raw"}


@pytest.fixture(scope="module")
def ids(tiny_gpt2):
    return encode(adapter_for(tiny_gpt2), TEXT)


def cells(found, condition, kind, column="probability"):
    """One column as an array `[layer position]`; NaN where there is no such token."""
    rows = found.lens.query("condition == @condition and kind == @kind")
    return rows.pivot(index="layer", columns="position", values=column).to_numpy(float)


def unembedded(model, residual):
    """Log-probabilities of residuals through norm and matrix, written out."""
    norm = weights_of(adapter_for(model)).norm("ln_final")
    bias = getattr(model, "b_U", None)
    logits = norm(residual) @ model.W_U.detach()
    return (logits if bias is None else logits + bias.detach()).log_softmax(-1)


def residuals_by_hand(model, ids, weights):
    """Every layer's output `[pos d_model]` where each place but the first and the newest is blended."""
    found = {}

    def write(weight, layer):
        def hook(stream, hook):
            stream = stream.clone()
            for t in range(1, len(ids) - 1):
                row = model.W_E.detach()[ids[t + 1]]
                stream[0, t] = (1 - weight) * stream[0, t] + weight * row
            found[layer] = stream[0].detach()
            return stream

        return hook

    hooks = [
        (f"blocks.{layer}.hook_resid_post", write(weights.get(layer, 0.0), layer))
        for layer in range(model.cfg.n_layers)
    ]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
    return found


@pytest.mark.parametrize("condition", ["plain", "interpolated"])
def test_readings_are_those_of_residuals_written_out(decoder, ids, condition):
    found = trace(decoder, TEXT, **STRONG)
    weights = {1: 0.9, 2: 0.6} if condition == "interpolated" else {}
    by_hand = residuals_by_hand(decoder, ids, weights)
    plain = unembedded(decoder, residuals_by_hand(decoder, ids, {})[3])
    wanted = {"current": ids, "next": ids[1:], "guess": plain.argmax(-1).tolist()}
    for layer, residual in by_hand.items():
        logs = unembedded(decoder, residual)
        for kind, tokens in wanted.items():
            places = range(len(tokens))
            close(cells(found, condition, kind)[layer][: len(tokens)], logs[places, tokens].exp())
            order = logs[: len(tokens)].argsort(-1, descending=True)
            rank = (order == torch.tensor(tokens)[:, None]).int().argmax(-1) + 1
            assert (
                cells(found, condition, kind, "rank")[layer][: len(tokens)].tolist()
                == rank.tolist()
            )
        assert cells(found, condition, "top", "id")[layer].tolist() == logs.argmax(-1).tolist()
    assert np.isnan(cells(found, condition, "current")).sum() == 0


def test_the_last_plain_reading_is_the_model(shaped):
    """Whatever a model does to its logits behind the unembedding is done here too."""
    found = trace(shaped, TEXT, layer=1, weight=0.5)
    scored = lp.score(shaped, TEXT).tokens["probability"].to_numpy()[1:]
    rows = found.lens.query(f"condition == 'plain' and layer == {shaped.cfg.n_layers - 1}")
    close(rows.query("kind == 'next'")["probability"], scored)
    close(found.tokens["probability"][:-1], scored)
    assert (rows.query("kind == 'guess'")["rank"] == 1).all()
    assert (
        rows.query("kind == 'guess'")["id"].tolist() == rows.query("kind == 'top'")["id"].tolist()
    )


def test_it_reads_what_transformerlens_reads(tiny_gpt2, legacy):
    if legacy:
        pytest.skip("TransformerLens 3.9 has no logit lens")
    from transformer_lens.tools.analysis import logit_lens

    found = trace(tiny_gpt2, TEXT, layer=1, weight=0.5)
    ids = torch.tensor([found.tokens["id"].tolist()])
    theirs = logit_lens(tiny_gpt2, ids[:, :-1], positions=None, targets=ids[:, 1:])
    # Theirs begins with the embedding.
    close(cells(found, "plain", "next", "rank"), theirs.rank_trajectory()[1:, 0] + 1)


@settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layer=st.integers(0, 3), weight=st.floats(0.1, 1.0), place=st.integers(2, 9))
def test_nothing_but_the_next_token_is_seen(decoder, ids, layer, weight, place):
    """Whatever comes after the token at `place`, what stands before it reads the same."""
    other = [*ids[: place + 1], *reversed(ids[place + 1 :])]
    one, two = (trace(decoder, row, layer=layer, weight=weight, norm="raw") for row in (ids, other))
    for condition in ("plain", "interpolated"):
        for kind in ("current", "next", "guess", "top"):
            first, second = (cells(f, condition, kind)[:, :place] for f in (one, two))
            close(first, second)


def test_below_the_blend_and_at_the_newest_position_nothing_changes(decoder):
    found = trace(decoder, TEXT, layer=2, weight=1.0, norm="raw", keep_first=True)
    for kind in ("current", "guess", "top"):
        plain, edited = (cells(found, one, kind) for one in ("plain", "interpolated"))
        close(plain[:2], edited[:2])
        close(plain[2][[0, -1]], edited[2][[0, -1]])
        assert np.abs(plain[2:, 1:-1] - edited[2:, 1:-1]).max() > 1e-4
    assert found.tokens["blended"].tolist() == [False, *[True] * (len(found.tokens) - 2), False]


def test_replaced_by_unembedding_directions_the_lens_reads_the_next_token(decoder):
    """Along `W_U[:, next]` times the gain no other logit of random rows grows as fast."""
    found = trace(decoder, TEXT, layer=2, weight=1.0, target="unembedding", norm="raw")
    assert found.share("next", "interpolated", 2) > 0.9 > found.share("next", "plain", 2)
    assert "next first after layer 2" in found.summary()


def test_the_rule_picks_what_the_plain_model_did_not_expect(decoder):
    probability = trace(decoder, TEXT, layer=1, weight=0.5).tokens["probability"].to_numpy()[:-1]
    below = float(np.median(probability))
    found = trace(decoder, TEXT, layer=1, weight=0.5, below=below)
    expected = [False, *(probability[1:] < below), False]
    assert found.tokens["blended"].tolist() == expected
    plain, edited = (cells(found, one, "current")[1] for one in ("plain", "interpolated"))
    changed = np.abs(plain - edited) > 1e-6
    assert changed.tolist() == expected


def test_a_weight_of_zero_is_plain(decoder):
    found = trace(decoder, TEXT, layer=1, weight=0.0)
    for kind in ("current", "next", "guess", "top"):
        plain, edited = (cells(found, one, kind) for one in ("plain", "interpolated"))
        np.testing.assert_array_equal(plain, edited)
    assert not found.tokens["blended"].any()


def test_it_saves_prints_and_leaves_nothing(tiny_llama, tmp_path):
    points = {id(point): point for point in tiny_llama.hook_dict.values()}.values()
    found = trace(tiny_llama, TEXT, **STRONG)
    assert not any(point.fwd_hooks for point in points)
    again = lp.open(found.save(tmp_path / "found.zip"))
    assert again.lens.equals(found.lens) and again.tokens.equals(found.tokens)
    assert "logit lens" in found.cite() and "next first" in repr(found)


def test_the_users_hooks_are_said(tiny_gpt2):
    point = tiny_gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: value)
    try:
        assert "hooks of your own" in trace(tiny_gpt2, TEXT, **STRONG).provenance["notes"][0]
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ([TEXT, TEXT], {}, "2 texts; a trace is of one"),
        ([5], {}, "one token has no next one"),
        ("", {}, "empty"),
        ([5] * 300, {}, "300 tokens; this model's context is 256"),
        ([9999, 1], {}, "vocabulary"),
        (TEXT, {"weight": 2.0}, "extrapolate"),
        (TEXT, {"layer": 9}, "layer"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, text, options, words):
    with pytest.raises(ArgumentError, match=words):
        trace(tiny_gpt2, text, **{"layer": 1, "weight": 0.5, **options})


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        trace(tiny_t5, "a", layer=1, weight=0.5)
