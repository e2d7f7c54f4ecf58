"""Vectors from few and many pairs: closed forms, and effects against plain runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerance import close

import lensprobe as lp
from lensprobe import positions as where
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for
from lensprobe.steering import Question, Questions, SteeringVector
from lensprobe.steering.effects import effects_on
from lensprobe.steering.resampling import (
    draws,
    noise_dimensions,
    predicted_cosine,
    signal_and_noise,
    split_half_cosines,
)

LOVED = [f"I love {thing}" for thing in ("cats", "dogs", "the mat", "a fox", "this house", "time")]
HATED = [text.replace("love", "hate") for text in LOVED]
ASKED = Questions(
    Question(f"Is {n} a cat?\n (A) this\n (B) that", *pair)
    for n, pair in enumerate([(" (A)", " (B)"), (" (B)", " (A)")] * 5)
)


def planted(pairs, width, signal, noise, seed=0):
    """Differences with a known mean (norm² `signal`) and total variance `noise`."""
    generator = np.random.default_rng(seed)
    mean = np.zeros(width)
    mean[0] = np.sqrt(signal)
    return mean + generator.normal(0.0, np.sqrt(noise / width), (pairs, width))


@given(
    signal=st.floats(0.05, 10.0),
    noise=st.floats(0.05, 50.0),
    n=st.sampled_from([1, 2, 8, 32]),
    seed=st.integers(0, 1000),
)
def test_split_halves_follow_the_formula(signal, noise, n, seed):
    differences = planted(400, 2000, signal, noise, seed)
    found = split_half_cosines(differences, n, 20, np.random.default_rng(seed))
    # Of one repeat the cosine strays by about 1/sqrt(width) and what the mean's own noise adds.
    assert found.mean() == pytest.approx(float(predicted_cosine(signal, noise, n)), abs=0.05)


def test_signal_and_noise_are_estimated_without_bias():
    found = np.array([signal_and_noise(planted(8, 300, 2.0, 30.0, seed)) for seed in range(300)])
    assert found[:, 0].mean() == pytest.approx(2.0, abs=0.15)
    assert found[:, 1].mean() == pytest.approx(30.0, rel=0.01)
    # The observed mean's own square would have been too large by noise / pairs.
    naive = np.mean([np.square(planted(8, 300, 2.0, 30.0, s).mean(0)).sum() for s in range(50)])
    assert naive == pytest.approx(2.0 + 30.0 / 8, rel=0.05)


def test_halves_are_disjoint():
    """Orthogonal differences: any pair in both halves would give a positive cosine."""
    found = split_half_cosines(np.eye(12), 6, 50, np.random.default_rng(0))
    np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_draws_are_with_replacement_and_spread_with_one_over_root_n():
    differences = planted(2000, 50, 1.0, 50.0)
    spread = [draws(differences, n, 400, np.random.default_rng(n)).std(0).mean() for n in (4, 64)]
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.1)
    small = planted(5, 3, 1.0, 3.0)
    assert draws(small, 5, 50, np.random.default_rng(0)).std(0).min() > 0


def test_dimensions_of_the_noise():
    generator = np.random.default_rng(0)
    line = generator.normal(size=(500, 1)) * np.ones(20)
    assert noise_dimensions(line) == pytest.approx(1.0)
    assert noise_dimensions(generator.normal(size=(5000, 20))) == pytest.approx(20.0, rel=0.02)
    assert np.isnan(noise_dimensions(np.ones((4, 3))))


# ---- on models ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stable(decoder):
    return lp.steering.stability(decoder, LOVED, HATED, layer=1, n=(1, 2, "all"), repeats=12)


def differences_of(model, positive, negative, layer):
    sides = [
        np.stack([lp.forward(model, t, layers=layer, logits=None).activation(layer)[-1] for t in s])
        for s in (positive, negative)
    ]
    return (sides[0] - sides[1]).astype(np.float64)


def test_numbers_are_those_of_differences_read_one_by_one(decoder, stable):
    differences = differences_of(decoder, LOVED, HATED, 1)
    signal, noise = signal_and_noise(differences)
    assert stable.signal == pytest.approx(signal, rel=1e-3, abs=1e-4)
    assert stable.noise == pytest.approx(noise, rel=1e-3)
    assert stable.pairs == len(LOVED)
    rows = stable.curve[stable.curve["measure"] == "cosine"]
    assert rows["n"].tolist() == [1, 2, 3]
    close(rows["predicted"], predicted_cosine(signal, noise, np.array([1, 2, 3])), "logits")
    # Every draw is a cosine of two of these differences.
    units = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    known = (units @ units.T)[~np.eye(len(units), dtype=bool)]
    drawn = stable.draws[(stable.draws["measure"] == "cosine") & (stable.draws["n"] == 1)]["value"]
    assert np.abs(drawn.to_numpy()[:, None] - known).min(1).max() < 1e-3


def test_the_curve_summarises_the_draws(stable):
    for row in stable.curve.itertuples():
        mine = stable.draws[(stable.draws["measure"] == row.measure) & (stable.draws["n"] == row.n)]
        assert row.count == len(mine)
        assert row.value == pytest.approx(mine["value"].mean())
        assert row.std == pytest.approx(mine["value"].std())
        low, high = np.percentile(mine["value"], [2.5, 97.5])
        assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    effects = stable.curve[stable.curve["measure"] == "kl"]
    assert effects["n"].tolist() == [1, 2, 6]
    assert effects["predicted"].isna().all()


def test_batching_and_repeating_change_nothing(decoder, stable):
    with lp.options(batch_tokens=8):
        again = lp.steering.stability(decoder, LOVED, HATED, layer=1, n=(1, 2, "all"), repeats=12)
    close(again.draws["value"], stable.draws["value"])
    other = lp.steering.stability(
        decoder, LOVED, HATED, layer=1, n=(1, 2, "all"), repeats=12, seed=9
    )
    assert not np.allclose(other.draws["value"], stable.draws["value"])


def test_effects_on_questions_are_changes_of_log_odds(decoder):
    vectors = torch.randn(
        3, adapter_for(decoder).d_model, generator=torch.Generator().manual_seed(0)
    )
    held = ASKED[:3]
    effects = effects_on(
        decoder_adapter := adapter_for(decoder), held, bos="auto", positions=None, layer=1,
        site="resid_post",
    )  # fmt: skip
    assert effects.measure == "log_odds"
    assert decoder_adapter is effects.adapter
    found = effects(vectors.numpy())
    for value, values in zip(found, vectors, strict=True):
        swept = lp.steering.sweep(
            decoder, held, vector=SteeringVector(values, 1), layers=1, scales=[0.0, 1.0],
            measure="log_odds",
        ).effects  # fmt: skip
        assert value == pytest.approx(swept[swept["scale"] == 1.0]["change"].item(), abs=1e-3)


@pytest.mark.parametrize("place", [where.after_prompt(), where.all(), where.front(2)])
def test_effects_on_texts_are_divergences(decoder, place):
    vectors = torch.randn(
        2, adapter_for(decoder).d_model, generator=torch.Generator().manual_seed(0)
    )
    effects = effects_on(
        adapter_for(decoder), LOVED, bos="auto", positions=place, layer=1, site="resid_post"
    )
    found = effects(vectors.numpy())
    plain = torch.from_numpy(lp.forward(decoder, LOVED, logits="last").logits).log_softmax(-1)
    for value, values in zip(found, vectors, strict=True):
        edit = SteeringVector(values, 1).add(1.0, place)
        steered = lp.forward(decoder, LOVED, edits=edit, logits="last").logits
        steered = torch.from_numpy(steered).log_softmax(-1)
        wanted = (steered.exp() * (steered - plain)).sum(-1).mean()
        assert value == pytest.approx(float(wanted), abs=1e-4)


def test_vectors_are_compared_at_one_norm(decoder):
    """With one pair drawn, the effect is that of the pair's direction at the whole vector's norm."""
    found = lp.steering.stability(decoder, LOVED, HATED, layer=1, n=1, repeats=4, scale=2.0)
    differences = differences_of(decoder, LOVED, HATED, 1)
    norm = np.linalg.norm(differences.mean(0))
    effects = effects_on(
        adapter_for(decoder), None, bos="auto", positions=None, layer=1, site="resid_post"
    )
    units = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    known = effects(2.0 * norm * units)
    drawn = found.draws[found.draws["measure"] == "kl"]["value"].to_numpy()
    assert np.abs(drawn[:, None] - known).min(1).max() < 1e-3


def test_questions_are_held_out(decoder):
    found = lp.steering.stability(decoder, ASKED, layer=2, n=(1, "all"), repeats=3)
    assert found.pairs == 8
    assert found.provenance["effect"]["texts"] == 2
    assert set(found.curve["measure"]) == {"cosine", "log_odds"}
    given = lp.steering.stability(
        decoder, ASKED, layer=2, n=(1, "all"), repeats=3, prompt=["Hello world, this"]
    )
    assert given.pairs == 10
    assert set(given.curve["measure"]) == {"cosine", "kl"}


def test_cosines_alone_cost_no_passes_beyond_reading(tiny_gpt2):
    found = lp.steering.stability(tiny_gpt2, ASKED, n=(1, 2), repeats=3, measure="cosine")
    assert set(found.curve["measure"]) == {"cosine"}
    assert found.pairs == 10
    assert found.provenance["layer"] == 2


def test_numbers_that_are_too_large_are_left_out_and_named(stable, tiny_gpt2):
    found = lp.steering.stability(tiny_gpt2, LOVED, HATED, layer=1, n=(2, 64), repeats=2)
    notes = " ".join(found.provenance["notes"])
    assert "cosine at n=64 left out" in notes and "kl at n=64 left out" in notes
    with pytest.raises(ArgumentError, match="none fits twice into 6 pairs"):
        lp.steering.stability(tiny_gpt2, LOVED, HATED, layer=1, n=64, measure="cosine")


def test_pairs_needed(stable):
    for cosine in (0.5, 0.9):
        n = stable.needed(cosine)
        expected = predicted_cosine(stable.signal, stable.noise, n)
        assert float(expected) == pytest.approx(cosine)
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        stable.needed(1.0)


def test_it_saves_and_opens(stable, tmp_path):
    again = lp.open(stable.save(tmp_path / "stable"))
    pd.testing.assert_frame_equal(again.curve, stable.curve)
    assert again.summary() == stable.summary()
    assert "2312.06681" in again.cite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": ()}, "n is empty"),
        ({"n": (0,)}, "positive whole numbers"),
        ({"n": ("some",)}, 'or "all"'),
        ({"n": (1.5,)}, 'or "all"'),
        ({"n": np.array([0])}, 'or "all"'),
        ({"n": None}, 'or "all"'),
        ({"repeats": 0}, "repeats=0"),
        ({"repeats": 1}, "two or more"),
        ({"measure": "loss"}, "measure='loss'"),
        ({"layer": 9}, "4 layers"),
        ({"site": "attn.pattern"}, "vectors are added at"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"positions": where.last()}, "moves with every token"),
        ({"positions": 3}, "a selector such as"),
        ({"negative": HATED[:2]}, "pairs are needed"),
    ],
)
def test_bad_options_are_refused(tiny_gpt2, options, message):
    options = {"negative": HATED, **options}
    with pytest.raises(ArgumentError, match=message):
        lp.steering.stability(tiny_gpt2, LOVED, **options)


def test_too_few_pairs_are_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="needs 4 pairs or more, not 2"):
        lp.steering.stability(tiny_gpt2, LOVED[:2], HATED[:2])
    with pytest.raises(ArgumentError, match="needs 5, one of them held out"):
        lp.steering.stability(tiny_gpt2, ASKED[:4])
