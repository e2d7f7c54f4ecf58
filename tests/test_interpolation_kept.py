"""Interpolated losses that keep what is finished: they go on, and the answer is the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lensprobe as lp
from lensprobe.errors import Interrupted, OutputError
from lensprobe.interpolation import texts as texts_module
from lensprobe.shards import keeping
from lensprobe.statistics import Bundle, Rows

TEXTS = [f"Hello world, this is number {n}. " * (1 + n % 5) for n in range(15)]
OPTIONS = {"layer": 1, "weight": 0.5, "batch_tokens": 128, "length": 24}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 200)


@pytest.fixture(params=["score", "surprise", "sweep"])
def call(request):
    analysis = getattr(lp.interpolation, request.param)
    many = request.param == "sweep"

    def run(model, texts, **more):
        given = {**OPTIONS, **more}
        if many:
            given |= {"layers": [given.pop("layer")], "weights": [given.pop("weight"), 1.0]}
        return analysis(model, texts, **given)

    return run


def equal(one, two, **close):
    assert {**one.provenance, "notes": []} == {**two.provenance, "notes": []}
    for table in one.tables:
        exact = close if close else {"check_exact": True}
        pd.testing.assert_frame_equal(one.to_frame(table), two.to_frame(table), **exact)


def test_an_interrupted_run_goes_on(tiny_gpt2, call, tmp_path, monkeypatch):
    texts = [*TEXTS[:5], "", *TEXTS[5:]]
    plain = call(tiny_gpt2, texts, on_error="skip")
    whole = call(tiny_gpt2, texts, on_error="skip", out=tmp_path / "whole")
    equal(whole, plain, rtol=1e-4, atol=1e-5)
    real, calls = texts_module.Texts._do, []

    def do(self, *given):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(texts_module.Texts, "_do", do)
    with pytest.raises(Interrupted):
        call(tiny_gpt2, texts, on_error="skip", out=tmp_path / "run")
    assert list((tmp_path / "run").glob("shard-*.npz"))
    for _ in range(2):
        again = call(tiny_gpt2, texts, on_error="skip", out=tmp_path / "run")
        equal(again, whole)
        assert again.provenance == whole.provenance and "texts[5]" in again.provenance["notes"][0]
    equal(lp.open(tmp_path / "run"), whole)


def test_what_is_another_run_is_refused(tiny_gpt2, call, tmp_path):
    call(tiny_gpt2, TEXTS, out=tmp_path)
    for other in ({"weight": 0.25}, {"layer": 0}, {"keep_first": False}):
        with pytest.raises(OutputError, match="holds another run"):
            call(tiny_gpt2, TEXTS, out=tmp_path, **other)
    with pytest.raises(OutputError, match="not those of the run"):
        call(tiny_gpt2, TEXTS[1:], out=tmp_path)


@given(st.data())
@settings(max_examples=30)
def test_rows_do_not_depend_on_who_saw_them(data):
    sizes = data.draw(st.lists(st.integers(0, 3), max_size=6))
    rows = {(n, n % 2): {"a": np.arange(k) + n, "b": np.full(2, n)} for n, k in enumerate(sizes)}
    parts = [Rows(2) for _ in range(3)]
    for key in data.draw(st.permutations(sorted(rows))):
        parts[data.draw(st.integers(0, 2))].update(key, **rows[key])
    total = Bundle({"rows": parts[0]})
    for index in data.draw(st.permutations([1, 2])):
        total.merge(Bundle.from_state(Bundle({"rows": parts[index]}).state()))
    found = Bundle.from_state(total.state())["rows"].result()
    assert list(found) == sorted(rows) and len(total["rows"]) == len(rows)
    for key, arrays in rows.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[key][name], array)


def test_rows_that_do_not_fit_are_refused():
    rows = Rows(1)
    rows.update((1,), a=np.zeros(2))
    for key, arrays in (((1,), {"a": 1}), ((1, 2), {"a": 1}), ((2,), {"b": 1})):
        with pytest.raises(ValueError, match=r"the key|among rows of"):
            rows.update(key, **{name: np.zeros(size) for name, size in arrays.items()})
