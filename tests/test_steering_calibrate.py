"""The search for a scale, and vectors at the scale that reaches a target."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recomputing import kl_of, recomputed
from tolerance import close

import lensprobe as lp
from lensprobe import positions as where
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for
from lensprobe.steering import SteeringVector
from lensprobe.steering.reaching import reach

PROMPTS = ["Hello world, this is", "I think that", "The cat sat on the mat and"]
NEW = 6

# ---- the search --------------------------------------------------------------------------------


def of(function):
    """Many scales at once, remembering what was asked."""

    def evaluate(scales):
        asked.append(list(scales))
        return [function(scale) for scale in scales]

    asked: list[list[float]] = []
    evaluate.asked = asked
    return evaluate


@given(
    power=st.floats(0.3, 3.0),
    factor=st.floats(1e-4, 1e4),
    start=st.floats(1e-2, 1e2),
    target=st.floats(0.01, 10.0),
)
def test_a_power_law_is_met_where_it_is(power, factor, start, target):
    wanted = (target / factor) ** (1 / power)
    if not 2.0**-20 < wanted / start < 2.0**20:
        return
    found = reach(of(lambda scale: factor * scale**power), target, start)
    assert target <= found.value <= target * 1.02 or found.scale <= wanted * 1.005
    assert found.scale == pytest.approx(wanted, rel=0.07)
    assert found.scale >= wanted * (1 - 1e-9)
    assert not [note for note in found.notes if "monotone" in note]
    assert [scale for scale, _ in found.curve] == sorted(scale for scale, _ in found.curve)


@given(target=st.floats(0.01, 0.6), start=st.floats(0.01, 100.0))
def test_a_closed_form_divergence_is_met(target, start):
    """KL of Bernoulli(sigmoid(s)) from a fair coin, whose inverse is known to a root finder."""
    from scipy.optimize import brentq

    def kl(s):
        p = 1 / (1 + math.exp(-s))
        return sum(q * math.log(2 * q) for q in (p, 1 - p) if q > 0)

    wanted = brentq(lambda s: kl(s) - target, 1e-9, 40)
    found = reach(of(kl), target, start)
    assert found.value == pytest.approx(target, rel=0.021)
    assert wanted * (1 - 1e-9) <= found.scale
    # Flat where it nears its ceiling: there 2% of the value is more of the scale.
    assert found.scale <= brentq(lambda s: kl(s) - target * 1.021, 1e-9, 40)


def test_a_jump_across_the_target_is_said():
    found = reach(of(lambda s: 0.5 if s < 3.3 else 1.7), 1.0, 1.0)
    assert found.scale == pytest.approx(3.3, rel=0.005)
    assert found.value == 1.7
    assert "jumps from 0.5 to 1.7" in found.notes[0]


def test_the_smallest_crossing_is_given_and_the_fall_is_said():
    found = reach(of(lambda s: s if s < 2 else 4 / s if s < 8 else s), 1.5, 4.0)
    assert found.scale == pytest.approx(1.5, rel=0.02)
    assert "not monotone: at scale 4" in found.notes[0]


def test_a_target_out_of_reach_is_refused_with_what_was_found():
    with pytest.raises(ArgumentError, match=r"target=2 is out of reach: the largest value .* is 1"):
        reach(of(lambda s: s / (1 + s)), 2.0, 1.0)
    with pytest.raises(ArgumentError, match="target=2 is passed at every scale"):
        reach(of(lambda s: 3.0), 2.0, 1.0)


def test_broken_distributions_count_as_beyond_any_target():
    found = reach(of(lambda s: s if s < 4 else math.nan), 2.5, 1.0)
    assert found.scale == pytest.approx(2.5, rel=0.02)
    assert found.value < 2.6


def test_scales_are_asked_for_together():
    evaluate = of(lambda s: s**1.7)
    reach(evaluate, 1.3, 1.0)
    assert len(evaluate.asked) <= 4
    assert all(len(asked) > 1 for asked in evaluate.asked)


# ---- calibrate ---------------------------------------------------------------------------------


def vector_for(model, layer=1, tokens=None, seed=3):
    width = adapter_for(model).d_model
    shape = (width,) if tokens is None else (tokens, width)
    generator = torch.Generator().manual_seed(seed)
    return SteeringVector(torch.randn(*shape, generator=generator), layer)


def by_hand(model, vector, scale, place=None):
    """The 95th percentile of token KL at one scale, from plain generations and plain passes."""
    place = place or where.after_prompt()
    steered, plain = [], []
    for prompt in PROMPTS:
        made = lp.generate(model, [prompt], edits=vector.add(scale, place), max_new_tokens=NEW)
        written = made.tokens["id"].tolist()
        ids = model.to_tokens(prompt)[0].tolist()
        for end in range(len(ids), len(ids) + len(written)):
            so_far = (ids + written)[:end]
            steered.append((so_far, [end - 1] if place.moves else range(len(ids) - 1, end)))
            plain.append((so_far, []))
    found = kl_of(recomputed(model, vector, steered, scale), recomputed(model, vector, plain))
    return float(np.percentile(found, 95))


@pytest.fixture(scope="module")
def calibrated(decoder):
    return lp.steering.calibrate(
        decoder, vector_for(decoder), target=0.3, prompt=PROMPTS, max_new_tokens=NEW
    )


@pytest.mark.parametrize("place", [where.after_prompt(), where.last()], ids=lambda p: p.text)
def test_the_target_is_hit_and_the_number_is_the_one_defined(decoder, place):
    vector = vector_for(decoder)
    found = lp.steering.calibrate(
        decoder, vector, target=0.3, prompt=PROMPTS, positions=place, max_new_tokens=NEW
    )
    assert found.reached == pytest.approx(
        by_hand(decoder, vector, found.scale, place=place), abs=1e-4
    )
    if not any("jumps" in note for note in found.provenance["notes"]):
        assert 0.3 <= found.reached <= 0.3 * 1.02
    assert found.opposite == pytest.approx(
        by_hand(decoder, vector, -found.scale, place=place), abs=1e-4
    )


def test_no_smaller_scale_that_was_tried_reaches_it(decoder, calibrated):
    curve = calibrated.curve
    assert (curve["scale"].diff().dropna() > 0).all()
    below = curve[(curve["scale"] > 0) & (curve["scale"] < calibrated.scale)]
    assert (below["value"] < calibrated.target).all()
    row = curve[curve["scale"] == calibrated.scale]
    assert row["value"].item() == calibrated.reached
    assert row["count"].item() == len(calibrated.tokens)


def test_every_scale_of_the_curve_is_that_of_a_run_alone(decoder, calibrated):
    """Scales ride together on one batch; none may know of the others."""
    rows = calibrated.curve.iloc[[0, len(calibrated.curve) // 2]]
    for row in rows.itertuples():
        assert row.value == pytest.approx(
            by_hand(decoder, vector_for(decoder), row.scale), abs=1e-4
        )


def test_a_brute_force_grid_crosses_there_too(decoder, calibrated):
    vector = vector_for(decoder)
    grid = calibrated.scale * np.array([0.5, 0.7, 0.8, 0.9, 0.97, 1.001, 1.1])
    above = [by_hand(decoder, vector, scale) >= calibrated.target for scale in grid]
    assert not above[0]
    # Greedy continuations jump, so the grid may cross more than once; one crossing is the one found.
    crossings = [
        (low, high)
        for low, high, one, two in zip(grid, grid[1:], above, above[1:], strict=False)
        if not one and two
    ]
    assert any(low <= calibrated.scale <= high * 1.02 for low, high in crossings)


def test_percentiles_are_those_of_the_tokens(decoder, calibrated):
    assert np.percentile(calibrated.tokens["kl"], 95) == pytest.approx(calibrated.reached)
    most = lp.steering.calibrate(
        decoder, vector_for(decoder), target=0.3, prompt=PROMPTS, percentile=100.0,
        max_new_tokens=NEW,
    )  # fmt: skip
    assert most.tokens["kl"].max() == pytest.approx(most.reached)
    assert most.scale <= calibrated.scale * 1.001


def test_the_vector_comes_at_its_strength(decoder, calibrated):
    close(calibrated.vector.values, calibrated.scale * vector_for(decoder).values, "residual")
    assert (calibrated.vector.layer, calibrated.vector.site) == (1, "resid_post")
    again = lp.steering.calibrate(
        decoder, calibrated.vector, target=0.3, prompt=PROMPTS, max_new_tokens=NEW
    )
    assert again.scale == pytest.approx(1.0, rel=0.02)


def test_a_longer_vector_has_a_smaller_scale(decoder, calibrated):
    found = lp.steering.calibrate(
        decoder, 8 * vector_for(decoder), target=0.3, prompt=PROMPTS, max_new_tokens=NEW
    )
    assert found.scale * 8 == pytest.approx(calibrated.scale, rel=1e-5)


def test_it_adds_where_it_is_told(decoder):
    vector = vector_for(decoder)
    options = {"target": 0.3, "prompt": PROMPTS, "max_new_tokens": NEW}
    n_layers = adapter_for(decoder).n_layers
    every = lp.steering.calibrate(decoder, vector, layers="all", **options)
    assert every.scale < lp.steering.calibrate(decoder, vector, **options).scale
    edits = every.provenance["edits"]["calibrated"]
    assert str(tuple(range(n_layers))) in edits[0] or "layers=all" in edits[0]


def test_masks_for_each_prompt_go_with_their_prompts(decoder):
    """Prompts are repeated for each scale; a mask must follow its own."""
    lengths = [len(decoder.to_tokens(prompt)[0]) for prompt in PROMPTS]
    mask = np.zeros((3, max(lengths)), dtype=bool)
    mask[range(3), [length - 1 for length in lengths]] = True
    options = {"target": 0.05, "prompt": PROMPTS, "max_new_tokens": 3}
    one = lp.steering.calibrate(
        decoder, vector_for(decoder), positions=where.where(mask), **options
    )
    two = lp.steering.calibrate(decoder, vector_for(decoder), positions=where.at(-1), **options)
    close(one.curve["value"], two.curve["value"])
    assert one.scale == pytest.approx(two.scale)


def test_the_default_prompts_are_packaged(decoder):
    found = lp.steering.calibrate(decoder, vector_for(decoder), target=0.1, max_new_tokens=2)
    assert found.provenance["texts"] == 6
    assert "Alice" in found.provenance["prompts"]


def test_the_summary_says_where_the_vector_was_added(decoder):
    found = lp.steering.calibrate(
        decoder,
        vector_for(decoder),
        target=0.3,
        prompt=PROMPTS,
        layers=[1, 2],
        positions=where.all(),
        max_new_tokens=2,
    )
    assert found.summary()["layers"] == "1, 2"
    assert found.summary()["positions"] == "all()"


def test_it_saves_and_opens(calibrated, tmp_path):
    again = lp.open(calibrated.save(tmp_path / "scale"))
    pd.testing.assert_frame_equal(again.curve, calibrated.curve)
    assert again.vector.norm == pytest.approx(calibrated.vector.norm)
    assert again.summary() == calibrated.summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.0}, "target=0.0: a number above 0"),
        ({"target": float("nan")}, "target=nan"),
        ({"target": "much"}, "target='much'"),
        ({"percentile": 101}, "percentile=101: a number above 0 and at most 100"),
        ({"percentile": 0}, "percentile=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"positions": where.at(99)}, "position 99 is out of range"),
        ({"layers": [7]}, "4 layers"),
        ({"prompt": []}, "no texts"),
    ],
)
def test_bad_options_are_refused(tiny_gpt2, options, message):
    with pytest.raises(ArgumentError, match=message):
        lp.steering.calibrate(tiny_gpt2, vector_for(tiny_gpt2), **options)


def test_a_vector_that_cannot_do_it_is_refused(tiny_gpt2):
    zero = SteeringVector(np.zeros(48), 1)
    with pytest.raises(ArgumentError, match="vector is zero"):
        lp.steering.calibrate(tiny_gpt2, zero)
    # The only token is chosen before any generated one is edited.
    late = {"positions": where.generated(), "max_new_tokens": 1}
    with pytest.raises(ArgumentError, match=r"target=1 is out of reach: .* is 0"):
        lp.steering.calibrate(tiny_gpt2, vector_for(tiny_gpt2), **late)
    with pytest.raises(ArgumentError, match="one SteeringVector"):
        lp.steering.calibrate(tiny_gpt2, np.ones(48))
