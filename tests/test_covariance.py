"""Covariances and bounded samples: any partition, merged in any order, is the single pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_statistics import FINITE, merged, partitions

from lensprobe.statistics import Bundle, Covariance, Reservoir


@given(st.data())
def test_covariances_merge(data):
    shape = data.draw(st.sampled_from([(), (2,)]))
    size = data.draw(st.integers(0, 20))
    values = data.draw(hnp.arrays(np.float64, (size, *shape, 3), elements=FINITE))
    whole = Covariance(3, shape)
    whole.update(values)
    parts = []
    for indices in data.draw(partitions(size)):
        parts.append(Covariance(3, shape))
        parts[-1].update(values[indices])
    one, two = merged(data.draw, parts).state(), whole.state()
    scale = max(np.abs(values).max(initial=0.0), 1e-3)
    assert one["count"] == two["count"] == size
    for name, power in (("mean", 1), ("scatter", 2), ("cubic", 3), ("quartic", 4)):
        allowed = 1e-9 * (size + 1) * scale**power
        np.testing.assert_allclose(one[name], two[name], rtol=0, atol=allowed)


def test_the_sums_are_what_they_say():
    values = np.random.default_rng(0).normal(3000, 2, (40, 5))
    whole = Covariance(5)
    for part in np.split(values, [1, 7, 7, 30]):
        whole.update(part)
    centred = values - values.mean(0)
    square = (centred**2).sum(1)
    state = whole.state()
    np.testing.assert_allclose(state["scatter"], centred.T @ centred, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(state["cubic"], square @ centred, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(state["quartic"], (square**2).sum(), rtol=1e-9)
    result = whole.result()
    np.testing.assert_allclose(result["covariance"], np.cov(values.T, bias=True), rtol=1e-9)
    np.testing.assert_allclose(result["second"], values.T @ values / 40, rtol=1e-12)


def test_two_layers_are_two_covariances():
    values = np.random.default_rng(1).normal(size=(9, 2, 4))
    both, each = Covariance(4, (2,)), [Covariance(4), Covariance(4)]
    both.update(values)
    for layer, one in enumerate(each):
        one.update(values[:, layer])
        for name, array in one.state().items():
            got = both.state()[name]
            np.testing.assert_allclose(got if name == "count" else got[layer], array, atol=1e-12)


def test_covariance_refuses_what_does_not_fit():
    whole = Covariance(2)
    with pytest.raises(ValueError, match="expected"):
        whole.update(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        whole.update(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="cannot merge"):
        whole.merge(Covariance(3))


@given(st.data())
def test_samples_do_not_depend_on_the_cut(data):
    size, room = data.draw(st.integers(0, 30)), data.draw(st.integers(1, 12))
    seed = data.draw(st.integers(-5, 2**70))
    values = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
    whole = Reservoir(room, (2,), seed)
    whole.update(np.arange(size), values)
    parts = []
    for indices in data.draw(partitions(size)):
        parts.append(Reservoir(room, (2,), seed))
        parts[-1].update(indices, values[indices])
    one, two = merged(data.draw, parts).result(), whole.result()
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])
    assert len(two["numbers"]) == min(size, room) and two["count"] == size
    np.testing.assert_array_equal(two["values"], values[two["numbers"]])


def test_every_observation_is_as_likely_as_any_other():
    kept = np.zeros(50)
    for seed in range(400):
        sample = Reservoir(10, (), seed)
        sample.update(np.arange(50), np.zeros(50))
        kept[sample.numbers] += 1
    # Binomial(400, 0.2): mean 80, standard deviation 8.
    assert abs(kept.mean() - 80) < 1e-9 and kept.min() > 50 and kept.max() < 110


def test_samples_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at least 1"):
        Reservoir(0, ())
    with pytest.raises(ValueError, match="shape"):
        Reservoir(2, (3,)).update(np.arange(2), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="cannot merge"):
        Reservoir(2, (3,)).merge(Reservoir(2, (3,), seed=1))


def test_both_travel_in_a_bundle():
    part = Bundle({"c": Covariance(2), "r": Reservoir(3, (2,), seed=7)})
    part["c"].update(np.eye(2))
    part["r"].update(np.arange(2), np.eye(2))
    again = Bundle.from_state(part.state())
    again.merge(part)
    assert again["c"].count == 4 and again["r"].seed == 7
