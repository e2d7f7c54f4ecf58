"""Figures of what a massive activation does: read by their fields, on the planted model."""

from __future__ import annotations

import numpy as np
import pytest
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.models.planted import PLANTED
from lensprobe.plot.massive_ablate import NAMES
from lensprobe.plot.theme import THEMES

TEXTS = ["The river had risen in the night, and by morning.", "She closed the door.", "One more."]
VIEWS = [
    ("rescale", "factors"),
    ("rescale", "heads"),
    ("ablate", "effects"),
    ("gradient", "slopes"),
    ("gradient", "paths"),
    ("gradient", "heads"),
    ("bos_pull", "layers"),
    ("bos_pull", "heads"),
    ("bos_pull", "sides"),
]
FACTORS = [0.0, 0.5, 1.0, 2.0]


@pytest.fixture(scope="module")
def results(planted):
    given = {"dim": 447, "progress": False}
    return {
        "rescale": lp.massive.rescale(planted, TEXTS, factors=FACTORS, **given),
        "ablate": lp.massive.ablate(planted, TEXTS, seed=0, **given),
        "gradient": lp.massive.gradient(planted, TEXTS, factors=FACTORS[1:], **given),
        "bos_pull": lp.massive.bos_pull(planted, TEXTS, seed=0, **given),
    }


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_figures_say_what_they_show(results, name, view, theme):
    assert list(results[name].plot.names) == [v for n, v in VIEWS if n == name]
    figure = getattr(results[name].plot, view)(theme=theme)
    figure.to_json()
    assert figure.layout.title.text and figure.layout.title.subtitle.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")


def test_a_line_a_measure_with_its_interval_and_the_plain_value(results):
    result = results["rescale"]
    figure = result.plot()
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.yaxis for trace in lines] == ["y", "y2", "y3"]
    for trace, measure in zip(lines, ("loss", "sink_rate", "attention"), strict=True):
        rows = result.effects[result.effects["measure"] == measure]
        assert list(trace.x) == FACTORS
        close(np.array(trace.y), rows["value"].to_numpy())
    dashed = [trace for trace in figure.data if trace.name == "as it is"]
    close([dashed[0].y[0]], [lines[0].y[FACTORS.index(1.0)]])
    # Panels have different units.
    assert figure.layout.yaxis2.matches is None
    assert "at factor 0 the loss changes by +0.69" in figure.layout.meta["finding"]
    alone = result.plot.factors(measure="kl")
    assert "KL" in alone.layout.yaxis.title.text


def test_the_head_maps_are_the_table(results):
    result = results["rescale"]
    figure = result.plot.heads()
    plain, gone = (np.array(trace.z, dtype=float) for trace in figure.data)
    assert figure.layout.annotations[0].text == "factor 1"
    for head in PLANTED.sink_heads:
        assert plain[head.head, head.layer] > 0.9 and gone[head.head, head.layer] < 0.6
    assert figure.data[0].zmax == figure.data[1].zmax == 1


def test_controls_are_grey_and_bars_are_changes(results):
    result = results["ablate"]
    figure = result.plot()
    loss = figure.data[0]
    kinds = list(dict.fromkeys(result.effects["kind"]))
    close(np.array(loss.x), [result.effect("loss", kind)["change"] for kind in kinds])
    grey = {
        kind
        for kind, colour in zip(kinds, loss.marker.color, strict=True)
        if colour != loss.marker.color[0]
    }
    assert grey == {kind for kind in kinds if kind.startswith("random")}
    assert set(kinds) <= set(NAMES)
    assert figure.layout.yaxis.ticktext[0] == NAMES["zero"]
    assert "zero costs 0.693 nats" in figure.layout.meta["finding"]


def test_the_slopes_are_drawn_by_document(results):
    result = results["gradient"]
    points, *_, line = result.plot().data
    assert len(points.y) == len(TEXTS) * len(FACTORS[1:])
    rows = result.slopes[result.slopes["measure"] == "log_factor"]
    close(np.array(line.y), rows["value"].to_numpy())
    assert "grows larger" in result.plot().layout.meta["finding"]


def test_the_paths_sum_to_the_total(results):
    parts = {
        trace.name.split(":")[0]: np.array(trace.y)
        for trace in results["gradient"].plot.paths().data
    }
    total = parts.pop("all of it")
    close(sum(parts.values()), total, "residual")


def test_only_heads_above_the_number_are_drawn(results):
    keys, values = results["gradient"].plot.heads(factor=0.5).data
    assert list(keys.x) == list(values.x) == list(range(2, 6))
    assert keys.zmin == -keys.zmax == values.zmin


def test_the_dimension_pulls_and_random_ones_do_not(results):
    result = results["bos_pull"]
    lines = [trace for trace in result.plot().data if trace.mode == "lines+markers"]
    assert [trace.name for trace in lines] == ["dim 447 at position 0", "random other dimensions"]
    close(np.array(lines[0].y), result.layers.loc[result.layers["kind"] == "dim", "share"])
    own, control = result.plot.sides().data
    wide = result.heads.pivot(index="head", columns="layer")
    close(np.array(own.z, float), wide["side"].to_numpy())
    close(np.array(control.z, float), wide["next_side"].to_numpy())


@pytest.mark.parametrize(
    ("name", "view", "options", "message"),
    [
        ("rescale", "factors", {"measure": "speed"}, "measure='speed': it was measured in loss"),
        ("rescale", "heads", {"factor": 3}, "factor=3: it was run at 0, 0.5, 1, 2"),
        ("ablate", "effects", {"measure": "speed"}, "measure='speed'"),
        ("gradient", "heads", {"factor": 0}, "factor=0: it was taken at 0.5, 1, 2"),
    ],
)
def test_what_was_not_measured_is_refused(results, name, view, options, message):
    with pytest.raises(ArgumentError, match=message):
        getattr(results[name].plot, view)(**options)
