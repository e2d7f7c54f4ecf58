"""Bootstrap intervals over documents."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lensprobe.statistics import interval


def test_a_mean_over_documents_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    value, low, high = interval(values)
    wanted = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert value == pytest.approx(values.mean())
    np.testing.assert_allclose([low, high], wanted, atol=0.03)


def test_tokens_weigh_documents():
    sums, counts = np.array([10.0, 1.0]), np.array([10.0, 2.0])
    value, low, high = interval(sums, counts)
    assert value == pytest.approx(11 / 12)
    # Two documents: every resample is one of them twice, or both.
    assert (low, high) == (pytest.approx(0.5), pytest.approx(1.0))


def test_cells_are_resampled_together():
    values = np.random.default_rng(1).normal(size=50)
    cells = np.stack([values, values + 5.0, 2.0 * values])
    value, low, high = interval(cells)
    np.testing.assert_allclose(value[1] - value[0], 5.0)
    np.testing.assert_allclose(low[1] - low[0], 5.0)
    np.testing.assert_allclose(high[2], 2 * high[0])
    for cell in range(3):
        np.testing.assert_allclose(interval(cells[cell])[1:], (low[cell], high[cell]))


def test_all_cells_at_once_equal_scipys_paired_bootstrap_of_each():
    generator = np.random.default_rng(7)
    sums, counts = generator.gamma(2.0, size=(2, 3, 20)), generator.integers(1, 9, 20)
    _, low, high = interval(sums, counts, seed=5)
    for cell in np.ndindex(2, 3):
        found = stats.bootstrap(
            (sums[cell], counts),
            lambda a, b, axis: a.sum(axis) / b.sum(axis),
            paired=True,
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(5),
        ).confidence_interval
        np.testing.assert_allclose([low[cell], high[cell]], found, rtol=1e-12)


def test_paired_differences_are_tighter_than_their_parts():
    generator = np.random.default_rng(2)
    plain = generator.normal(4.0, 1.0, 60)
    steered = plain + 0.1 + generator.normal(0.0, 0.01, 60)
    value, low, high = interval(steered - plain)
    assert low < value < high and low > 0 and high - low < 0.01


def test_documents_that_are_not_finite_are_left_out_of_their_cell():
    cells = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    value, low, high = interval(cells)
    np.testing.assert_allclose(value, [2.0, 2.0])
    assert low[0] == 1.0 and high[0] == 3.0


@pytest.mark.parametrize("values", [[2.0], [2.0, np.nan]])
def test_one_document_has_a_value_and_no_interval(values):
    value, low, high = interval(values)
    assert value == 2.0 and np.isnan(low) and np.isnan(high)


def test_many_cells_take_bounded_memory_and_keep_their_shape():
    cells = np.random.default_rng(3).normal(size=(30, 9, 40))
    value, low, high = interval(cells)
    assert value.shape == low.shape == high.shape == (30, 9)
    assert (low <= value).all() and (value <= high).all()
