"""Figures of sink conditions, values and scores: what they show is what the tables say."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import sink_scan

from lensprobe import sinks
from lensprobe.errors import ArgumentError

TEXTS = ["the cat sat on the mat and then it went away, one two three four five " * 2] * 2


@pytest.fixture(scope="module")
def found(tiny_llama):
    texts = {"<b>prose": TEXTS, "counting": ["one two three four five six seven " * 3]}
    options = {"conditions": ("random", "repeated"), "seed": 0, "length": 40}
    return {
        "scan": sinks.scan(tiny_llama, texts, epsilon=0.1, threshold=0.5, ratio=2.0, **options),
        "values": sinks.values(tiny_llama, TEXTS),
        "scores": sinks.scores(tiny_llama, TEXTS[0]),
    }


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
def test_every_view_draws_and_says_what_it_found(found, theme):
    for result in found.values():
        for name in result.plot.names:
            figure = getattr(result.plot, name)(theme=theme)
            assert figure.data and figure.layout.meta["finding"].startswith("Here")
            assert figure.layout.meta["caption"] and "<b>prose" not in str(figure.layout.title)


def test_conditions_are_panels_of_one_scale(found):
    scan = found["scan"]
    figure = scan.plot.conditions()
    assert len(figure.data) == 4
    assert {(trace.zmin, trace.zmax) for trace in figure.data} == {(0, 1)}
    rows = scan.conditions[scan.conditions["condition"] == "counting"]
    drawn = np.array(figure.data[1].z, dtype=float)
    assert np.allclose(np.sort(drawn, axis=None), np.sort(rows["value"]))
    names = [note.text for note in figure.layout.annotations]
    assert names[0] == "&lt;b&gt;prose"


def test_the_parts_drawn_sum_to_the_lift(found):
    scores = found["scores"]
    cells = np.array(scores.plot.parts().data[0].z, dtype=float)
    lift = scores.score - scores.queries["others"].mean()
    assert cells.sum() == pytest.approx(lift, abs=1e-3)
    bars = np.array(scores.plot.dims().data[0].x, dtype=float)
    assert bars.sum() == pytest.approx((scores.dims["value"] - scores.dims["others"]).sum())


def test_a_scan_without_the_newer_tables_says_so():
    scan = sink_scan()
    for name in ("rates", "conditions", "mass", "secondary"):
        with pytest.raises(ArgumentError, match="this scan has no"):
            getattr(scan.plot, name)()
    scan.profile["mass"] = np.nan
    assert "no position is massive" in scan.plot.mass().layout.meta["finding"]
