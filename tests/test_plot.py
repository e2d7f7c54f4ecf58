"""The figures, read by their fields: no pixels, no model, no torch."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from synthetic import HOSTILE, massive_scan, sink_scan

from lensprobe.errors import ArgumentError
from lensprobe.plot import axes, tokens
from lensprobe.plot.theme import THEMES, number
from lensprobe.plot.views import views
from lensprobe.results import Result

MASSIVE = ("trajectories", "landscape", "values", "kinds")
SINKS = ("heads", "keys", "entropy", "values")
EVERY = [("massive", name) for name in MASSIVE] + [("sinks", name) for name in SINKS]


@pytest.fixture(scope="module")
def massive():
    return massive_scan()


@pytest.fixture(scope="module")
def sinks():
    return sink_scan()


def drawn(result: Result, name: str, **options: object) -> go.Figure:
    figure = getattr(result.plot, name)(**options)
    figure.to_json()  # what a page or a notebook does with it
    return figure


def markup(figure: go.Figure) -> list[str]:
    """Every string of the figure that plotly renders as markup; `meta` captions it does not."""
    found: list[str] = []

    def walk(value, path=()):
        if isinstance(value, dict):
            for key, inner in value.items():
                if path or key in ("data", "layout"):
                    walk(inner, (*path, key))
        elif isinstance(value, (list, tuple, np.ndarray)):
            for inner in value:
                walk(inner, path)
        elif isinstance(value, str) and path[:2] != ("layout", "meta"):
            found.append(value)

    walk(figure.to_plotly_json())
    return found


@pytest.mark.parametrize(("part", "name"), EVERY)
@pytest.mark.parametrize("theme", list(THEMES))
def test_every_figure_says_what_it_is_in_every_theme(request, part, name, theme):
    figure = drawn(request.getfixturevalue(part), name, theme=theme)
    layout = figure.layout
    assert layout.title.text
    assert layout.title.subtitle.text
    assert layout.xaxis.title.text.startswith(("layer (", "dimension"))
    assert layout.yaxis.title.text
    assert layout.meta["caption"].endswith(".")
    assert layout.meta["finding"].startswith("Here ")
    assert layout.template.layout.paper_bgcolor == THEMES[theme].surface
    for trace in figure.data:
        assert trace.hovertemplate


@pytest.mark.parametrize(("part", "name"), EVERY)
def test_a_hostile_token_is_never_markup(request, part, name):
    figure = drawn(request.getfixturevalue(part), name)
    for text in markup(figure):
        assert "<img" not in text
        assert "<s>" not in text
        assert "\n" not in text
        assert "\u202e" not in text
    for trace in figure.data:
        # A token such as %{x} inside a template would be filled in.
        assert "%{x}·" not in trace.hovertemplate
        assert "alert" not in trace.hovertemplate


def test_a_hostile_model_name_is_never_markup():
    for figure in (
        drawn(massive_scan(model="<b>x</b>"), "trajectories"),
        drawn(sink_scan(model="<b>x</b>"), "heads"),
    ):
        assert "<b>x" not in figure.layout.title.subtitle.text


def test_default_views(massive, sinks):
    assert massive.plot.names == MASSIVE
    assert sinks.plot.names == (*SINKS, "rates", "conditions", "mass", "secondary")
    assert massive.plot().layout.title.text == drawn(massive, "trajectories").layout.title.text
    assert sinks.plot().data[0].type == "heatmap"
    assert set(MASSIVE) <= set(dir(massive.plot))
    assert "landscape" in repr(massive.plot)


def test_views_keep_the_help_of_their_functions(massive):
    assert "dims" in inspect.signature(massive.plot.landscape).parameters
    assert "scan" not in inspect.signature(massive.plot.landscape).parameters
    assert "tokens as rows" in massive.plot.landscape.__doc__


def test_unknown_views_and_options_name_the_nearest(massive):
    with pytest.raises(AttributeError, match="Did you mean 'landscape'"):
        massive.plot.landscap  # noqa: B018
    with pytest.raises(ArgumentError, match="Did you mean 'theme'"):
        massive.plot(them="dark")
    with pytest.raises(ArgumentError, match="Did you mean 'dark'"):
        massive.plot(theme="dar")
    with pytest.raises(ArgumentError, match="width_mm"):
        massive.plot(width_mm=-3)
    with pytest.raises(ArgumentError, match="dims"):
        massive.plot.landscape(dims=0)
    with pytest.raises(ArgumentError, match="keys 0, 1, 2, 3"):
        sink_scan().plot.heads(key=9)


def test_a_result_without_figures_says_so():
    with pytest.raises(ArgumentError, match=r"massive\.scan"):
        views(Result({}))


def test_title_and_width(massive):
    figure = drawn(massive, "trajectories", title="GPT-2 <small>", width_mm=85)
    assert figure.layout.title.text == "GPT-2 &lt;small&gt;"
    assert figure.layout.width == 321
    assert not drawn(massive, "trajectories", title="").layout.title.text


def test_plotly_defaults_are_untouched(massive, sinks):
    before = pio.templates.default, list(pio.templates)
    for part, name in EVERY:
        drawn({"massive": massive, "sinks": sinks}[part], name, theme="dark")
    assert (pio.templates.default, list(pio.templates)) == before


def test_trajectories_name_the_findings(massive):
    figure = drawn(massive, "trajectories")
    names = [trace.name for trace in figure.data]
    assert names == ["largest", "second", "third", "median", "threshold", "massive"]
    assert figure.layout.yaxis.type == "log"
    assert figure.data[0].y[8] == 3007
    assert any("dim 447 at position 0" in note.text for note in figure.layout.annotations)
    ring = figure.data[-1]
    assert (ring.x[0], ring.y[0]) == (8, 3012.4)
    assert "&lt;s&gt;" in ring.text[0]
    assert "3,012" in figure.layout.meta["finding"]
    # The threshold is 1,000 medians, but never below 100.
    assert figure.data[4].y[0] == pytest.approx(590)


def test_landscape_is_thinned_with_a_visible_note(massive):
    figure = drawn(massive, "landscape")
    cells = figure.data[0]
    assert np.shape(cells.z) == (32, 24)
    assert "24 largest of 768" in figure.layout.xaxis.title.text
    assert "32 of 54" in figure.layout.yaxis.title.text
    dims = [int(text) for text in figure.layout.xaxis.ticktext]
    assert dims == sorted(dims)
    assert {447, 138, 378} <= set(dims)
    # Repeated tokens keep a row each: the axis is integers, the tokens are labels.
    assert list(figure.layout.yaxis.tickvals) == list(range(32))
    column = dims.index(447)
    assert cells.z[0][column] == pytest.approx(np.log10(3012.4), abs=1e-3)
    assert cells.customdata[0][column][3] == "3,012.40"
    assert cells.customdata[0][dims.index(138)][3] == "-790.00"
    assert figure.layout.shapes  # a line wherever tokens were left out


def test_landscape_shows_a_short_text_whole():
    scan = massive_scan(tokens=["<s>", " a", " a"])
    figure = drawn(scan, "landscape", dims=768)
    assert figure.layout.yaxis.title.text == "token and its position"
    assert figure.layout.xaxis.title.text == "dimension"
    assert not figure.layout.shapes


def test_the_map_of_heads(sinks):
    figure = drawn(sinks, "heads")
    cells = figure.data[0]
    frame = sinks.heads
    row = frame[(frame["layer"] == 5) & (frame["head"] == 7) & (frame["key"] == 0)].iloc[0]
    assert cells.z[7][5] == pytest.approx(row["value"])
    assert (cells.zmin, cells.zmax) == (0, 1)
    assert cells.customdata[7][5][0] == pytest.approx(row["sink_rate"])
    assert drawn(sinks, "heads", key=1).data[0].z[7][5] == pytest.approx(0.04)


def test_value_norms_diverge_around_equal(sinks):
    cells = drawn(sinks, "values").data[0]
    assert cells.zmid == 0
    assert cells.zmin == -cells.zmax
    ratio = sinks.profile.query("layer == 5 and head == 7")["ratio"].iloc[0]
    assert cells.z[7][5] == pytest.approx(np.log2(ratio))


def test_without_findings_the_figures_say_so():
    scan = massive_scan(empty=True)
    for name in MASSIVE:
        drawn(scan, name)
    assert "no activation is massive" in scan.plot().layout.meta["finding"]
    assert "no massive activation" in scan.plot.values().layout.annotations[0].text


def test_one_layer_one_head_one_key():
    for name in MASSIVE:
        low, high = drawn(massive_scan(layers=1), name).layout.xaxis.range
        assert low < high
    for name in SINKS:
        drawn(sink_scan(layers=1, heads=1, keys=1), name)


def test_what_is_not_finite_is_a_gap():
    scan = massive_scan()
    for column in ("value", "mean", "median", "ratio"):
        scan.layers.loc[3:5, column] = np.nan
    scan.layers.loc[9, "mean"] = np.inf
    scan.landscape[2, 447], scan.landscape[3, 447] = np.nan, np.inf
    for name in MASSIVE:
        assert "NaN" not in drawn(scan, name).to_json()
    assert scan.plot().data[0].y[1] is None
    other = sink_scan()
    other.heads.loc[:, ["value", "sink_rate"]] = np.nan
    other.layers.loc[:, ["value", "sink_rate"]] = np.nan
    other.profile.loc[:, ["entropy", "ratio"]] = np.nan
    for name in SINKS:
        assert "no " in drawn(other, name).layout.meta["finding"]


def test_an_empty_landscape_draws():
    drawn(massive_scan(tokens=[]), "landscape")


def test_token_labels():
    assert [tokens.label(token) for token in HOSTILE[:5]] == [
        "&lt;s&gt;", "&lt;img·src=x·onerror=aler…", "↵", "·the", "🙂"
    ]  # fmt: skip
    assert tokens.label("&lt;") == "&amp;lt;"
    assert tokens.visible("\u202eabc\x00\ud800") == "\\u202eabc\\x00\\ud800"
    assert tokens.visible("👩\u200d💻") == "👩\u200d💻"
    axis = tokens.token_axis([" the", " the"])
    assert axis["tickvals"] == [0, 1]
    assert axis["ticktext"] == ["·the", "·the"]


def test_large_attention_grids_travel_as_bytes():
    small = axes.attention_grid(np.full((4, 4), 0.5))
    assert small["z"][0][0] == 0.5
    large = axes.attention_grid(np.full((300, 300), 0.5))
    assert large["z"].dtype == np.uint8
    assert large["zmax"] == 255
    assert large["z"][0, 0] == 128


def test_numbers_as_prose_shows_them():
    given = (0.0, 3012.4, -131.2, 0.5934, 1e-6, float("inf"))
    assert [number(v) for v in given] == ["0", "3,012", "-131", "0.593", "1.0e-06", "infinite"]


def test_drawing_needs_no_torch():
    code = "import sys, lensprobe.plot.massive, lensprobe.plot.sinks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
