"""Figures of steering comparisons, read by their fields: no pixels, no model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic import HOSTILE, provenance

from lensprobe.errors import ArgumentError
from lensprobe.plot.theme import THEMES
from lensprobe.steering import (
    Calibration,
    DepthComparison,
    PersistenceComparison,
    PositionsComparison,
    SitesComparison,
    Stability,
)

STEPS = 4
ODD = "<b>odd</b>"
FACTS = provenance(texts=2, layer=3, scale=1.5, target=None, mixing=["a", "b"])


def conditions(names):
    rows = []
    for index, name in enumerate(names):
        for measure in ("kl", "loss", "loss_change", "perplexity", "repetition", "count"):
            value = float(index) + (measure == "perplexity")
            ends = {"value": value, "low": value - 0.25, "high": value + 0.5}
            rows.append({"condition": name, "scale": 1.5, "measure": measure, **ends})
    return pd.DataFrame(rows)


def tokens(names):
    return pd.DataFrame(
        [
            {"condition": name, "scale": 1.5, "text": text, "position": 7 + step}
            | {"token": HOSTILE[step + text], "kl": float(index * step), "loss": 1.0}
            for index, name in enumerate(names)
            for text in range(2)
            for step in range(STEPS)
        ]
    )


def texts(names):
    return pd.DataFrame(
        [
            {"condition": name, "scale": 1.5, "text": text, "prompt": "<s>\nI think"}
            | {"completion": HOSTILE[1] + "\n" * index, "kl": 0.1, "loss": 1.0}
            | {"perplexity": 3.25, "repetition": 0.0, "count": 4}
            for index, name in enumerate(names)
            for text in range(2)
        ]
    )


def positions():
    names = ["plain", "all", ODD]
    places = pd.DataFrame({"condition": names[1:], "positions": "all()", "scale": 1.5})
    return PositionsComparison(FACTS, conditions(names), tokens(names), texts(names), places)


def depth():
    names = ["plain", "once", "repeated", "divided", "matched"]
    journey = pd.DataFrame(
        [
            {"condition": name, "scale": 1.5, "layer": layer, "site": "resid_post", "value": 9.0}
            | {"ratio": 1.0 + index, "component": 1.0, "added": 2.0, "share": 1 - layer / 10}
            | {"low": 0.2, "high": 1.1}
            for index, name in enumerate(names)
            for layer in range(3, 6)
        ]
    )
    return DepthComparison(FACTS, conditions(names), tokens(names), texts(names), journey)


def persistence():
    pairs = [("kept", "plain"), ("moving", "plain"), ("moving", "kept")]
    names = ["kept", "moving", "plain"]
    divergence = pd.DataFrame(
        [
            {"condition": name, "steered": one, "reference": other, "step": step}
            | {"value": 0.1 * step, "low": 0.05 * step, "high": 0.2 * step, "count": 2}
            for name in names
            for one, other in pairs
            for step in range(STEPS)
        ]
    )
    by_token = pd.DataFrame(
        [
            {"condition": name, "text": text, "step": step, "position": 7 + step}
            | {"token": HOSTILE[step + text], "steered": one, "reference": other, "kl": 0.1 * step}
            for name in names
            for text in range(2)
            for one, other in pairs
            for step in range(STEPS)
        ]
    )
    parting = pd.DataFrame(
        [
            {"steered": one, "reference": other, "text": text, "step": [2.0, np.nan][text]}
            for one, other in pairs
            for text in range(2)
        ]
    )
    control = pd.DataFrame(
        [
            {"kind": kind, "text": 0, "step": step, "kl": step * size, "value": size}
            for kind, size in (("front", 1e-8), ("newest", 0.1))
            for step in range(STEPS)
        ]
    )
    return PersistenceComparison(FACTS, divergence, by_token, texts(names), parting, control)


def sites():
    cells = [
        (site, layer, scale)
        for site, scales in (("attn.v", [0.0, 10.0, 17.0]), ("resid_post", [0.0, 1.0, 2.0]))
        for layer in (2, 5)
        for scale in scales
    ]
    sweep = pd.DataFrame(
        [
            {"site": site, "layer": layer, "scale": scale, "measure": measure}
            | {"value": scale / 20, "low": 0.0, "high": 1.0}
            for site, layer, scale in cells
            for measure in ("kl", "logprob", "repetition", "carry", "probability")
        ]
    )
    rows = pd.DataFrame(
        [
            {"site": site, "layer": layer, "scale": scale, "mixing": ODD, "text": 0}
            | {"prompt": "I", "completion": HOSTILE[1], "kl": 0.0, "logprob": -1.5}
            | {"repetition": np.nan, "carry": 0.25, "probability": 0.1}
            for site, layer, scale in cells
        ]
    )
    return SitesComparison(FACTS, sweep, rows, pd.DataFrame({"site": []}))


def calibration():
    curve = pd.DataFrame({"scale": [-2.0, 1.0, 2.0, 4.0], "value": [0.7, 0.3, 1.01, 0.0]})
    curve = curve.assign(mean=curve["value"] / 2, median=curve["value"] / 4, count=8)
    drawn = pd.DataFrame({"text": 0, "position": range(9), "token": HOSTILE, "kl": range(9)})
    place = {"layer": 3, "site": "resid_post", "stack": None, "provenance": {}}
    return Calibration(FACTS, curve, drawn, 2.0, 1.01, 1.0, 95.0, 0.7, np.ones(4), place)


def stability(measures=("cosine", "kl")):
    numbers = [(measure, n) for measure in measures for n in (1, 4, 16)]
    curve = pd.DataFrame(
        [
            {"measure": measure, "n": n, "value": 0.5, "std": 1 / n, "low": 0.1, "high": 0.9}
            | {"predicted": n / (n + 4) if measure == "cosine" else np.nan, "count": 2}
            for measure, n in numbers
        ]
    )
    drawn = pd.DataFrame(
        [
            {"measure": measure, "n": n, "repeat": repeat, "value": 0.4 + 0.2 * repeat}
            for measure, n in numbers
            for repeat in range(2)
        ]
    )
    return Stability(FACTS, curve, drawn, 1.0, 4.0, 1.25, 40)


MADE = {
    "positions": positions,
    "depth": depth,
    "persistence": persistence,
    "sites": sites,
    "calibration": calibration,
    "stability": stability,
}
EVERY = [(name, view) for name, make in MADE.items() for view in make().plot.names]


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize(("name", "view"), EVERY)
def test_every_figure_says_what_it_is(name, view, theme):
    figure = getattr(MADE[name]().plot, view)(theme=theme)
    figure.to_json()
    layout = figure.layout
    assert layout.title.text
    assert "gpt2-made-up" in layout.title.subtitle.text
    assert layout.meta["caption"].endswith(".")
    assert layout.meta["finding"].startswith("Here ") and layout.meta["finding"].endswith(".")
    assert layout.template.layout.paper_bgcolor == THEMES[theme].surface
    for trace in figure.data:
        if trace.type == "table":
            assert trace.cells.font.color == THEMES[theme].ink
            continue
        assert layout.xaxis.title.text and layout.yaxis.title.text
        assert trace.hovertemplate or trace.hoverinfo == "skip"
    markup = str(figure.data) + str(layout.annotations) + str(layout.yaxis) + str(layout.title)
    assert "<img" not in markup and "<b>odd" not in markup and "\u202e" not in markup
    assert "<s>" not in markup


def test_the_unsteered_line_stands_in_every_panel():
    figure = positions().plot()
    lines = [trace for trace in figure.data if trace.name == "unsteered"]
    assert [list(line.x) for line in lines] == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    assert [line.showlegend for line in lines] == [True, False, False]
    dots = figure.data[0]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;odd&lt;/b&gt;", "all"]
    assert list(dots.x) == [2.0, 1.0]
    assert list(dots.error_x.array) == [0.5, 0.5] and list(dots.error_x.arrayminus) == [0.25, 0.25]


def test_a_target_is_said_where_places_were_scaled_to_it():
    found = positions()
    found.provenance["target"] = 1.0
    try:
        assert "95th percentile" in found.plot().layout.title.subtitle.text
    finally:
        found.provenance["target"] = None


def test_tokens_stand_in_rows_and_are_cut_short():
    figure = positions().plot.tokens(text=1)
    (trace,) = figure.data
    np.testing.assert_allclose(np.array(trace.z, float), [[0, 1, 2, 3], [0, 2, 4, 6]])
    assert trace.zmin == 0 and trace.zmax == 6
    assert all(len(text) <= 30 for row in trace.text for text in row)
    with pytest.raises(ArgumentError, match="texts 0 to 1"):
        positions().plot.tokens(text=5)


def test_the_parting_is_marked():
    figure = persistence().plot.parting(text=0)
    (shape,) = figure.layout.shapes
    assert shape.x0 == shape.x1 == 1.5
    assert figure.layout.annotations[0].text == "kept and moving part"
    assert not persistence().plot.parting(text=1).layout.shapes
    assert "1 of 2 prompts" in figure.layout.meta["finding"]


def test_divergence_draws_three_lines_with_their_bands():
    figure = persistence().plot()
    named = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in named] == [
        "kept, from plain", "moving, from plain", "moving, from kept",
    ]  # fmt: skip
    assert len(figure.data) == 9
    np.testing.assert_allclose(named[0].y, [0.0, 0.1, 0.2, 0.3])
    with pytest.raises(ArgumentError, match="completions are kept, moving, plain"):
        persistence().plot(whose="nobody")


def test_equal_up_to_rounding_is_drawn_at_the_floor():
    front = next(t for t in persistence().plot.control().data if t.name == "at the front")
    assert front.y[0] == 1e-9 and front.customdata[0] == 0.0


def test_the_journey_shows_shares_and_norms_show_ratios():
    once = next(t for t in depth().plot.journey().data if t.name == "once")
    np.testing.assert_allclose(once.y, [0.7, 0.6, 0.5])
    once = next(t for t in depth().plot.norms().data if t.name == "once")
    np.testing.assert_allclose(once.y, [2.0, 2.0, 2.0])
    assert "0.5 of the single addition" in depth().plot.journey().layout.meta["finding"]


def test_sites_have_scales_of_their_own():
    figure = sites().plot()
    lines = [trace for trace in figure.data if trace.name == "layer 2"]
    assert [list(line.x) for line in lines] == [[10.0, 17.0], [1.0, 2.0]]
    assert figure.layout.xaxis2.matches is None
    plain = [trace for trace in figure.data if trace.name == "unsteered"]
    assert [list(trace.y) for trace in plain] == [[0.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ArgumentError, match="Did you mean 'carry'"):
        sites().plot(measure="cary")
    with pytest.raises(ArgumentError, match=r"has the layers \[2, 5\]"):
        sites().plot.completions(layer=3)


def test_a_table_holds_one_text_at_one_block():
    (table,) = sites().plot.completions().data
    headings = list(table.header.values)
    assert headings[0] == "<b>site</b>"
    assert len(table.cells["values"][0]) == 6


def test_calibration_marks_what_it_found():
    figure = calibration().plot()
    ring = next(t for t in figure.data if t.name == "calibrated")
    assert (ring.x[0], ring.y[0]) == (2.0, 1.01)
    other = next(t for t in figure.data if t.name == "the other way")
    assert (other.x[0], other.y[0]) == (2.0, 0.7)
    line = next(t for t in figure.data if t.name == "95th percentile")
    # Only positive scales stand on the log axis, and zero is a gap there.
    assert list(line.x) == [1.0, 2.0, 4.0] and line.y[2] is None


def test_stability_draws_what_theory_predicts():
    figure = stability().plot()
    line = next(t for t in figure.data if t.name == "predicted")
    np.testing.assert_allclose([line.y[0], line.y[-1]], [1 / 5, 16 / 20])
    points = next(t for t in figure.data if t.name == "draws")
    assert len(points.x) == 6
    assert list(figure.layout.xaxis.tickvals) == [1, 4, 16]
    with pytest.raises(ArgumentError, match="no effects were measured"):
        stability(("cosine",)).plot.effect()
