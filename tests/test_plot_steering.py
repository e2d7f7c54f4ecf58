"""Figures of steering sweeps, read by their fields."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic import HOSTILE, provenance

from lensprobe.errors import ArgumentError
from lensprobe.plot.theme import THEMES
from lensprobe.steering import Sweep

LAYERS, SCALES = [0, 5, 6, 11], [-2.0, 0.0, 2.0]
GROUPS = {"<b>asks</b>": ("probability", "log_odds", "kl"), "prose": ("loss", "ratio", "kl")}


def made_up(groups=GROUPS, *, tokens: bool = True) -> Sweep:
    """A sweep whose change is layer times scale / 100, its interval a tenth to each side."""
    rows, plain = [], []
    for group, measures in groups.items():
        for measure in measures:
            base = 1.0 if measure == "ratio" else 0.5
            plain.append(
                {"group": group, "measure": measure, "value": base, "low": 0.4, "high": 0.6}
            )
            for layer in LAYERS:
                for scale in SCALES:
                    change = abs(layer * scale / 100) if measure == "kl" else layer * scale / 100
                    ends = {"value": base + change, "low": 0.1, "high": 0.9, "change": change}
                    ends |= {"change_low": change - 0.05, "change_high": change + 0.05}
                    rows.append(
                        {"group": group, "measure": measure, "layer": layer, "scale": scale, **ends}
                    )
    moved = [
        {"group": "prose", "layer": 5, "scale": 2.0, "token": token, "id": i, "probability": 0.1}
        | {"change": (i - 4) / 10}
        for i, token in enumerate(HOSTILE)
    ]
    columns = ["group", "layer", "scale", "token", "id", "probability", "change"]
    return Sweep(
        provenance=provenance(finished={"<b>asks</b>": 8, "prose": 1}, asks=["<b>asks</b>"]),
        effects=pd.DataFrame(rows),
        plain=pd.DataFrame(plain),
        documents=pd.DataFrame({"group": []}),
        tokens=pd.DataFrame(moved if tokens else [], columns=columns),
    )


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("name", ["heat", "curves", "tradeoff", "tokens"])
def test_every_figure_says_what_it_is(name, theme):
    figure = getattr(made_up().plot, name)(theme=theme)
    assert figure.layout.title.text
    wanted = "layer 5, scale 2" if name == "tokens" else "8 questions, 1 text"
    assert wanted in figure.layout.title.subtitle.text
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")
    for trace in figure.data:
        assert trace.hovertemplate or trace.hoverinfo == "skip"
    shown = str(figure.data) + str(figure.layout.annotations) + str(figure.layout.yaxis)
    assert "<img" not in shown and "<b>asks" not in shown and "\u202e" not in shown


def test_the_map_is_centred_on_no_change_and_keeps_layers_without_gaps():
    figure = made_up().plot()
    (trace,) = figure.data
    assert trace.zmin == -trace.zmax == -0.22
    assert list(trace.y) == ["0", "5", "6", "11"] and figure.layout.yaxis.type == "category"
    np.testing.assert_allclose(np.array(trace.z, dtype=float)[3], [-0.22, 0.0, 0.22])


def test_groups_with_the_measure_stand_side_by_side_on_one_scale():
    figure = made_up().plot.heat(measure="kl")
    assert len(figure.data) == 2 and {t.zmax for t in figure.data} == {0.22}
    assert figure.data[0].zmin == 0.0
    assert [a.text for a in figure.layout.annotations] == ["&lt;b&gt;asks&lt;/b&gt;", "prose"]
    assert figure.layout.yaxis2.matches == "y"


def test_curves_carry_the_interval_of_the_paired_change():
    figure = made_up().plot.curves(layers=[11])
    high, low, value, plain = figure.data
    np.testing.assert_allclose(value.y, [0.28, 0.5, 0.72])
    np.testing.assert_allclose(high.y, np.array(value.y) + 0.05)
    np.testing.assert_allclose(low.y, np.array(value.y) - 0.05)
    assert list(plain.y) == [0.5, 0.5] and plain.name == "unsteered"


def test_curves_choose_the_layer_that_moves_most():
    names = {t.name for t in made_up().plot.curves().data if t.name}
    assert {"layer 11", "layer 0", "unsteered"} <= names


def test_the_price_is_on_the_other_axis():
    figure = made_up().plot.tradeoff(layers=5)
    (trace,) = figure.data
    np.testing.assert_allclose(trace.x, [0.9, 1.0, 1.1])
    np.testing.assert_allclose(trace.y, [0.4, 0.5, 0.6])


def test_findings_within_the_noise_say_so():
    result = made_up({"a": ("loss",)})
    result.effects["change_low"] = -1.0
    result.effects["change_high"] = 1.0
    assert "within the noise" in result.plot().layout.meta["finding"]
    assert "within the noise" not in made_up().plot().layout.meta["finding"]


def test_what_a_sweep_lacks_is_said():
    result = made_up({"a": ("loss",)}, tokens=False)
    with pytest.raises(ArgumentError, match="this sweep has loss"):
        result.plot(measure="probability")
    with pytest.raises(ArgumentError, match="questions and texts"):
        result.plot.tradeoff()
    with pytest.raises(ArgumentError, match="kept no tokens"):
        result.plot.tokens()
    with pytest.raises(ArgumentError, match="has the layers"):
        result.plot.curves(layers=3)
    with pytest.raises(ArgumentError, match="no such cell"):
        made_up().plot.tokens(layer=9)
