"""Any partition, merged in any order, is the single pass."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lensprobe.statistics import (
    Bundle,
    Counts,
    Covariance,
    Earliest,
    Histogram,
    KeyedMoments,
    Moments,
    Reservoir,
    Rows,
    TopK,
)

FINITE = st.floats(-1e5, 1e5, allow_nan=False, width=32)
ANY = st.one_of(FINITE, st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0]))


@st.composite
def partitions(draw, size: int) -> list[np.ndarray]:
    """The indices below `size`, shuffled and cut into parts, some of them empty."""
    order = np.array(draw(st.permutations(range(size))), dtype=int)
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=5)))
    return np.split(order, cuts)


def merged(draw, parts):
    """Merge in a drawn order and tree shape; every part goes through its state and back."""
    waiting = [type(part).from_state(part.state()) for part in parts]
    while len(waiting) > 1:
        second = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
        first = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
        first.merge(second)
        waiting.append(first)
    return waiting[0]


def close(one: dict, two: dict, scale: float) -> None:
    assert set(one) == set(two)
    for name, column in one.items():
        if name in ("mean", "std"):
            # Relative to what was summed: a mean of opposite numbers is all rounding. A standard
            # deviation of nearly equal ones is the root of a rounding error.
            power = 2 if name == "std" else 1
            tolerance = 1e-9 * max(scale, 1e-300) ** power
            np.testing.assert_allclose(column**power, two[name] ** power, rtol=0, atol=tolerance)
        else:
            np.testing.assert_array_equal(column, two[name])


@given(st.data())
def test_moments(data):
    shape = data.draw(st.sampled_from([(), (3,), (2, 2)]))
    size = data.draw(st.integers(0, 25))
    values = data.draw(hnp.arrays(np.float64, (size, *shape), elements=ANY))
    whole = Moments(shape)
    whole.update(values)
    parts = []
    for indices in data.draw(partitions(size)):
        parts.append(Moments(shape))
        parts[-1].update(values[indices])
    scale = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    close(merged(data.draw, parts).result(), whole.result(), scale)


def test_moments_are_numpys():
    values = np.random.default_rng(0).normal(3000, 2, (50, 4))
    whole = Moments((4,))
    for row in values:
        whole.update(row[None])
    result = whole.result()
    np.testing.assert_allclose(result["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result["std"], values.std(0), rtol=1e-9)
    np.testing.assert_array_equal(result["min"], values.min(0))
    np.testing.assert_array_equal(result["max"], values.max(0))
    assert (result["count"] == 50).all()


def test_moments_leave_out_what_is_not_finite():
    whole = Moments((2,))
    whole.update(np.array([[1.0, np.inf], [3.0, np.nan]]))
    result = whole.result()
    assert result["count"].tolist() == [2, 0]
    assert result["mean"][0] == 2.0
    assert np.isnan(result["mean"][1])


@given(st.data())
def test_keyed_moments_are_moments_of_each_key(data):
    size = data.draw(st.integers(0, 30))
    keys = data.draw(hnp.arrays(np.int64, (size, 2), elements=st.integers(-1, 2)))
    values = data.draw(hnp.arrays(np.float64, size, elements=ANY))
    parts = []
    for indices in data.draw(partitions(size)):
        parts.append(KeyedMoments(2))
        parts[-1].update(keys[indices], values[indices])
    result = merged(data.draw, parts).result()
    use = np.isfinite(values)
    found = np.unique(keys[use], axis=0) if use.any() else np.zeros((0, 2), np.int64)
    np.testing.assert_array_equal(result.pop("keys"), found)
    for index, key in enumerate(found):
        mine = values[use & (keys == key).all(1)]
        one = Moments()
        one.update(mine)
        close({n: c[index] for n, c in result.items()}, one.result(), np.abs(mine).max())


@given(st.data())
def test_top_k_does_not_depend_on_order(data):
    size, k = data.draw(st.integers(0, 120)), data.draw(st.integers(1, 4))
    # Few different values, so that ties are common.
    values = data.draw(
        hnp.arrays(np.float64, size, elements=st.sampled_from([-2.0, -0.0, 0.0, 1.5, 7.0, np.nan]))
    )
    places = np.stack([np.arange(size) // 4, np.arange(size) % 4, np.arange(size) % 3])
    parts = []
    for indices in data.draw(partitions(size)):
        parts.append(TopK(k))
        parts[-1].update(values[indices], *places[:, indices])
    result = merged(data.draw, parts).result()
    use = np.flatnonzero(~np.isnan(values))
    order = sorted(use, key=lambda i: (-values[i], *places[:, i]))[:k]
    expected = {"value": values[order] + 0.0}
    expected.update(zip(("document", "position", "dim"), places[:, order], strict=True))
    for name, column in expected.items():
        np.testing.assert_array_equal(result[name], column)
        assert not np.signbit(result["value"][result["value"] == 0]).any()


@given(st.data())
def test_counts_and_histograms_are_exact(data):
    size = data.draw(st.integers(0, 40))
    values = data.draw(hnp.arrays(np.float64, size, elements=ANY))
    keys = data.draw(hnp.arrays(np.int64, (size, 2), elements=st.integers(0, 2)))
    edges = np.array([-100.0, 0.0, 1.0, 500.0])
    counts, bins = [], []
    for indices in data.draw(partitions(size)):
        counts.append(Counts(2))
        counts[-1].update(keys[indices])
        bins.append(Histogram(edges))
        bins[-1].update(values[indices])
    expected = {}
    for key in sorted(map(tuple, keys.tolist())):
        expected[key] = expected.get(key, 0) + 1
    assert merged(data.draw, counts).result() == expected
    result = merged(data.draw, bins).result()
    inside = [((values >= a) & (values < b)).sum() for a, b in pairwise(edges)]
    assert result["counts"].tolist() == inside
    assert result["below"] == (values < -100).sum()
    assert result["above"] == (values >= 500).sum()
    assert result["nan"] == np.isnan(values).sum()
    assert result["counts"].sum() + result["below"] + result["above"] + result["nan"] == size


def test_counts_beyond_double_precision():
    counts = Counts()
    counts.update(np.array([[1], [1]]), np.array([2**60, 1]))
    assert counts[(1,)] == 2**60 + 1
    assert counts[(2,)] == 0


def test_common_breaks_ties_by_the_smallest():
    counts = Counts(2)
    counts.update(np.array([[5, 9], [5, 3], [6, 1], [6, 2], [6, 2]]))
    assert counts.common() == {(5,): 3, (6,): 2}


def test_a_bundle_goes_through_one_flat_mapping(tmp_path):
    def make(values, order):
        bundle = Bundle(
            {"m": Moments((2,)), "c": Counts(1), "first": Earliest(), "k": KeyedMoments(1)}
        )
        bundle["m"].update(values)
        bundle["c"].update(np.arange(len(values))[:, None])
        bundle["first"].update(order, values=values[0])
        bundle["k"].update(np.zeros((len(values), 1)), values[:, 0])
        return bundle

    rng = np.random.default_rng(1)
    early, late = make(rng.normal(size=(3, 2)), (0, 1)), make(rng.normal(size=(4, 2)), (2, 0))
    np.savez(tmp_path / "state.npz", **late.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        again = Bundle.from_state(state)
    again.merge(early)
    late.merge(early)
    assert again["first"].order == (0, 1)
    for one, two in zip(again.state().values(), late.state().values(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Moments((2,)), Moments((3,))),
        (TopK(2), TopK(3)),
        (Histogram(np.arange(3)), Histogram(np.arange(4))),
        (Bundle({"a": Counts()}), Bundle({"b": Counts()})),
    ],
)
def test_what_does_not_fit_is_refused(one, two):
    with pytest.raises(ValueError, match=r"cannot merge|shape"):
        one.merge(two)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Moments((2,)).update(np.zeros((3, 4))),
        lambda: KeyedMoments(2).update(np.zeros((3, 1)), np.zeros(3)),
        lambda: Counts(2).update(np.zeros(3)),
        lambda: Histogram(np.array([1.0, 0.0])),
        lambda: TopK(0),
    ],
)
def test_wrong_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"shape|ascending|at least"):
        wrong()


# ---- states that fit nothing ----------------------------------------------------------------------


def filled() -> dict[str, Any]:
    """One of each statistic with a few observations."""
    drawn, ids = np.random.default_rng(0).normal(size=(5, 2, 3)), np.arange(5)
    parts = {
        "Counts": Counts(2),
        "Covariance": Covariance(3, (2,)),
        "Earliest": Earliest(),
        "Histogram": Histogram(np.arange(3.0)),
        "KeyedMoments": KeyedMoments(2),
        "Moments": Moments((2, 3)),
        "Reservoir": Reservoir(4, (2, 3)),
        "Rows": Rows(2),
        "TopK": TopK(3),
    }
    pairs = np.column_stack([ids, ids])
    parts["Counts"].update(pairs)
    parts["Earliest"].update((0, 1), values=drawn[0])
    parts["Histogram"].update(drawn)
    parts["KeyedMoments"].update(pairs, drawn[:, 0, 0])
    parts["Reservoir"].update(ids, drawn)
    parts["TopK"].update(drawn[:, 0, 0], ids, ids, ids)
    for name in ("Covariance", "Moments"):
        parts[name].update(drawn)
    for row in ids.tolist():
        parts["Rows"].update((row, 0), a=ids[:row], b=drawn[row, 0])
    return parts


ODD = {
    "text": lambda array: np.full(array.shape, "os.system"),
    "an axis more": lambda array: array[None],
    "an entry less": lambda array: array[:-1],
    "an entry more": lambda array: np.concatenate([array, array[-1:]]),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_state_whose_fields_do_not_fit_is_refused(odd):
    for name, part in filled().items():
        for field, array in part.state().items():
            # What came first may be of any shape.
            free = name == "Earliest" and odd != "text"
            if free or (not array.ndim and "entry" in odd):
                continue
            with pytest.raises(ValueError, match=r"not numbers|ascending numbers"):
                type(part).from_state({**part.state(), field: ODD[odd](array)})


def test_a_state_that_lacks_a_field_is_refused():
    for name, part in filled().items():
        for field in part.state().keys() - ({"values"} if name == "Earliest" else set()):
            rest = {other: array for other, array in part.state().items() if other != field}
            with pytest.raises((KeyError, ValueError)):
                type(part).from_state(rest)


def test_what_was_observed_otherwise_is_not_merged():
    others = {
        "Counts": Counts(1),
        "Covariance": Covariance(2),
        "Histogram": Histogram(np.arange(4.0)),
        "KeyedMoments": KeyedMoments(3),
        "Moments": Moments((3,)),
        "Reservoir": Reservoir(4, (3,)),
        "Rows": Rows(1),
        "TopK": TopK(2),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match="cannot merge"):
            filled()[name].merge(other)
