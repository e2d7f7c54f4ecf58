"""Figures of the sink's mechanism, read by their fields: words, intervals, hostile tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import HOSTILE

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.plot.theme import THEMES
from lensprobe.reporting.words import LEADS, TITLES

TEXTS = ["Hello world, this is the cat", "The cat sat on the mat. And then", "one two three four"]
KINDS = ("brittle", "clusters", "detector", "neurons", "patch", "repeats")


@pytest.fixture(scope="module")
def results(tiny_llama):
    quiet = {"progress": False}
    sinks = lp.sinks
    return {
        "brittle": sinks.brittle(tiny_llama, TEXTS, edits=lp.Scale(factor=2.0, layers=0), **quiet),
        "clusters": sinks.clusters(tiny_llama, 40, n=8, length=3, repeats=3, **quiet),
        "detector": sinks.first_token_detector(tiny_llama, TEXTS, n=2, **quiet),
        "neurons": sinks.neurons(tiny_llama, TEXTS, n=2, ratio=1e-9, repeats=1, **quiet),
        "patch": sinks.patch(
            tiny_llama, [3, 4, 5, 6], [3, 7, 7, 7], sites=["attn_out", "mlp_out"], layer=2, **quiet
        ),
        "repeats": sinks.repeats(tiny_llama, [40, 41], lengths=[1, 4], **quiet),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_draws_in_every_theme_and_says_what_it_shows(results, kind):
    result = results[kind]
    assert result.kind in TITLES and result.kind in LEADS
    for name in result.plot.names:
        for theme in THEMES:
            figure = getattr(result.plot, name)(theme=theme, width_mm=120)
            assert figure.data and figure.layout.title.text
            meta = figure.layout.meta
            assert meta["caption"].endswith((".", ")")) and meta["finding"].startswith("Here")
            for axis in (figure.layout.xaxis, figure.layout.yaxis):
                assert axis.title.text or axis.ticktext
        assert getattr(result.plot, name)(title="").layout.title.text == ""


def test_bars_of_neurons_are_the_table(results):
    result = results["neurons"]
    figure = result.plot.removed()
    for panel, measure in zip(figure.data, ("value", "sink_rate", "loss"), strict=True):
        rows = result.effects[result.effects["measure"] == measure]
        assert list(panel.x) == rows["value"].tolist()
    names = list(figure.layout.yaxis.ticktext)
    assert names[0] == "nothing silent" and names[-1].endswith("random (1)")
    bars = result.plot.ranking().data[0]
    assert list(bars.y) == result.ranking["norm"].head(30).tolist()


def test_shares_of_heads_are_the_table(results):
    result = results["detector"]
    bars = result.plot.heads().data[0]
    own = result.heads[result.heads["head"] >= 0]
    assert list(bars.y) == own["share"].tolist()
    points = result.plot.text().data[0]
    assert list(points.y) == result.tokens["value"].tolist()
    bare, fronted = result.plot.copies().data
    assert max(bare.y) < 1e-5 < min(fronted.y)


def test_hostile_tokens_stay_text(results):
    repeats = results["repeats"]
    words, copies = repeats.words.copy(), repeats.copies.copy()
    for frame in (words, copies):
        frame["token"] = frame["id"].map({40: HOSTILE[1], 41: HOSTILE[5]})
    odd = replace(repeats, words=words, copies=copies)
    for trace in odd.plot.copies().data:
        assert "<" not in trace.name and "onerror" not in trace.hovertemplate
        # Where it could be filled in, a token stands as data.
        assert trace.hovertemplate.startswith("<b>%{text}</b>")
    patch = replace(results["patch"], corrupt_tokens=HOSTILE[:4])
    ticks = " ".join(patch.plot.grid().layout.xaxis.ticktext)
    assert "<" not in ticks and "&lt;" in ticks
    clusters = results["clusters"]
    trials = clusters.trials.assign(text=HOSTILE[1])
    drawn = replace(clusters, trials=trials).plot.success()
    assert all("<img" not in text for trace in drawn.data for text in trace.text)


def test_the_map_of_patches_is_the_change(results):
    result = results["patch"]
    for measure in ("value", "attention", "sink_rate"):
        figure = result.plot.grid(measure=measure)
        attention, mlp = figure.data
        expected = result.grid(measure, "attn_out") - result.end("corrupt", measure)
        np.testing.assert_allclose(np.array(attention.z, dtype=float), expected)
        assert attention.zmin == -attention.zmax == mlp.zmin
    sink = result.plot.sink()
    assert "attention" in sink.layout.title.text


def test_plain_and_repaired_stand_side_by_side(results):
    result = results["brittle"]
    figure = result.plot()
    assert [trace.name for trace in figure.data] == ["plain", "repaired"] * 2
    own = result.effects[
        (result.effects["measure"] == "loss")
        & ~result.effects["bos"]
        & (result.effects["condition"] == "repaired")
    ]
    assert list(figure.data[1].x) == own["value"].tolist()
    assert result.plot.massive().layout.xaxis.tickformat == ".0%"


@pytest.mark.parametrize(
    ("kind", "view"), [("brittle", "loss"), ("patch", "grid"), ("repeats", "attention")]
)
def test_an_unknown_measure_is_refused(results, kind, view):
    with pytest.raises(ArgumentError, match="measure='colour'"):
        getattr(results[kind].plot, view)(measure="colour")


def test_many_words_are_thinned_with_a_note(tiny_llama):
    many = lp.sinks.repeats(tiny_llama, list(range(30, 44)), lengths=[2], bos=False, progress=False)
    figure = many.plot.copies()
    assert len(figure.data) == 12
    assert "The first 12 of 14 words are drawn" in figure.layout.meta["caption"]
