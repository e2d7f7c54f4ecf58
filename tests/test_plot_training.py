"""Figures of a watched training and of checkpoints, read by their fields."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensprobe.errors import ArgumentError
from lensprobe.massive import CheckpointSeries, TrainingWatch
from lensprobe.massive.training.tables import COLUMNS, spread_tables
from lensprobe.plot.theme import THEMES

VIEWS = ("values", "account", "tensors", "emergence")
PROVENANCE = {
    "model": "made-up",
    "complete": True,
    "epsilon": 0.3,
    "watched_place": {"layer": 2, "dim": 447, "position": 0},
}
HOSTILE = "<img src=x onerror=alert(1)> %{x}"
VALUES = {"adamw": [3000.0, 2900.0, 2800.0], HOSTILE: [3000.0, 3001.0, 3002.0]}


def made_up(**changes) -> TrainingWatch:
    """Two runs of two seeds: one falls by 100 a step, the other rises by 1."""
    frames = {name: [] for name in COLUMNS}
    for run, values in VALUES.items():
        for seed in (0, 1):
            for step, value in enumerate(values):
                key = {"run": run, "seed": seed, "step": step}
                place = {"layer": 2, "dim": 447, "position": 0}
                amount = value + 10 * seed
                frames["steps"].append(
                    {**key, **place, "value": amount, "median": 1.5, "ratio": amount / 1.5}
                    | {"loss": 3.0 - 0.1 * step, "sink_rate": 0.5}
                )
                frames["peaks"].append(
                    {**key, **place, "value": amount, "median": 1.5, "ratio": amount / 1.5}
                    | {"massive": True}
                )
                if step == len(values) - 1:
                    continue
                taken = {**key, "step": step + 1}
                moved = values[step + 1] - value
                frames["changes"].append(
                    {**taken, **place, "value": amount, "predicted": moved, "measured": moved + 1}
                    | {"remainder": 1.0}
                )
                parts = {"gradient": 0.25, "momentum": 0.65, "decay": 0.1, "rounding": 0.0}
                for component, share in parts.items():
                    for kind, part in (("writer", 0.75), ("other", 0.25)):
                        frames["account"].append(
                            {**taken, "component": component, "tensor": "W_out", "kind": kind}
                            | {"value": moved * share * part}
                        )
    tables = {n: pd.DataFrame(rows, columns=COLUMNS[n]) for n, rows in frames.items()}
    spread, paired = spread_tables(tables["steps"])
    runs = pd.DataFrame(
        [
            {"run": run, "seed": seed, "step": 2, "status": "finished"}
            for run in VALUES
            for seed in (0, 1)
        ]
    )
    return TrainingWatch(
        provenance={**PROVENANCE, **changes},
        **tables,
        spread=spread,
        paired=paired,
        runs=runs,
        order=pd.DataFrame(columns=["seed", "step", "row", "document", "index"]),
    )


@pytest.fixture(scope="module")
def watch():
    return made_up()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("theme", list(THEMES))
def test_every_figure_says_what_it_is(watch, name, theme):
    figure = getattr(watch.plot, name)(theme=theme)
    layout = figure.layout
    assert layout.title.text and "made-up" in layout.title.subtitle.text
    assert layout.xaxis.title.text and layout.yaxis.title.text
    assert layout.meta["caption"].endswith(".")
    assert layout.meta["finding"].startswith("Here ")
    assert layout.template.layout.paper_bgcolor == THEMES[theme].surface
    figure.to_json()


def test_the_default_is_the_value(watch):
    assert watch.plot.names == VIEWS
    figure = watch.plot()
    lines = {trace.name: trace for trace in figure.data if not trace.fill and trace.yaxis == "y"}
    assert list(lines["adamw"].y) == [3005.0, 2905.0, 2805.0]
    assert list(lines["adamw"].customdata[0]) == [3000.0, 3010.0, 2.0]
    bands = [trace for trace in figure.data if trace.fill == "toself" and trace.yaxis == "y"]
    assert bands[0].mode == "lines"
    assert list(bands[0].y) == [3010.0, 2910.0, 2810.0, 2800.0, 2900.0, 3000.0]
    below = [trace for trace in figure.data if trace.yaxis == "y2" and not trace.fill]
    assert list(below[0].y) == pytest.approx([3.0, 2.9, 2.8])
    assert "adamw takes it from 3,005 to 2,805 in 2 steps" in figure.layout.meta["finding"]


def test_one_run_that_blows_up_has_its_losses_in_decades_where_it_is_drawn(watch):
    spread = watch.spread.copy()
    last = spread["step"] == spread["step"].max()
    spread.loc[(spread["run"] == HOSTILE) & (spread["kind"] == "loss") & last, "mean"] = 3e8
    blown = replace(watch, spread=spread)
    assert (blown.plot().layout.yaxis2.type, blown.plot().layout.yaxis2.dtick) == ("log", 2)
    assert blown.plot(runs="adamw").layout.yaxis2.type is None


def test_some_of_the_runs(watch):
    names = {trace.name for trace in watch.plot.values(runs="adamw").data if trace.name}
    assert names == {"adamw"}
    with pytest.raises(ArgumentError, match="Did you mean 'adamw'"):
        watch.plot.values(runs=["adamv"])
    with pytest.raises(ArgumentError, match="runs='sgd': one of adamw"):
        watch.plot.account(runs="sgd")


def test_bars_sum_to_the_prediction(watch):
    figure = watch.plot.account()
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert list(bars) == ["this step's gradient", "momentum carried over", "weight decay"]
    assert np.sum([trace.y for trace in bars.values()], axis=0).tolist() == pytest.approx(
        [-100] * 2
    )
    dots = {trace.name: list(trace.y) for trace in figure.data if trace.type == "scatter"}
    assert dots["measured"] == [-99.0, -99.0]
    assert dots["predicted, their sum"] == [-100.0, -100.0]
    assert figure.layout.barmode == "relative"
    assert "momentum carried over -130" in figure.layout.meta["finding"]


def test_the_writer_stands_apart(watch):
    figure = watch.plot.tensors()
    assert list(figure.data[0].y) == ["W_out (rest)", "W_out (writes it)"]
    net = np.sum([trace.x for trace in figure.data], axis=0)
    assert net.tolist() == pytest.approx([-50.0, -150.0])


def test_what_is_massive(watch):
    figure = watch.plot.emergence()
    assert figure.layout.yaxis.type == "log"
    dotted = next(trace for trace in figure.data if trace.line.dash == "dot")
    assert list(dotted.y) == [1000.0, 1000.0]
    assert "massive activations are there from step 0 on" in figure.layout.meta["finding"]
    assert "the sink rate reaches 50%" in figure.layout.meta["finding"]


@pytest.mark.parametrize("name", VIEWS)
def test_nothing_watched_is_said(watch, name):
    bare = {
        table: watch.to_frame(table).iloc[:0]
        for table in watch.tables
        if table not in ("runs", "order")
    }
    empty = TrainingWatch(provenance=watch.provenance, **bare, runs=watch.runs, order=watch.order)
    figure = getattr(empty.plot, name)()
    assert figure.layout.annotations[0].text
    figure.to_json()


@pytest.mark.parametrize("name", VIEWS)
def test_a_hostile_name_is_never_markup(watch, name):
    option = {} if name in ("values", "emergence") else {"runs": HOSTILE}
    figure = getattr(watch.plot, name)(**option)
    assert "<img" not in str(figure.layout.title.to_plotly_json())
    for trace in figure.data:
        assert "<img" not in (trace.name or "")
        assert "onerror" not in (trace.hovertemplate or "")
        assert not any("<img" in str(text) for text in (trace.text or ()))


def series(**changes) -> CheckpointSeries:
    given = {
        "provenance": {"model": "tiny", "complete": True},
        "checkpoints": pd.DataFrame(
            {
                "source": ["a", "b", "b"],
                "revision": ["", "", "step4"],
                "step": [0.0, 2.0, 4.0],
                "error": ["", "ModelError: gone", ""],
                "sink_rate": [0.1, np.nan, 0.4],
            }
        ),
        "values": pd.DataFrame(
            {
                "source": ["a", "a", "b@step4"],
                "rank": [1, 2, 1],
                "value": [50.0, 40.0, 900.0],
            }
        ),
        "table": "layers",
        "analysis": "massive.scan",
        **changes,
    }
    return CheckpointSeries(**given)


def test_checkpoints_by_step():
    figure = series().plot()
    assert list(figure.data[0].x) == [0.0, 2.0, 4.0]
    assert list(figure.data[0].y) == [50.0, None, 900.0]
    assert figure.layout.yaxis.type == "log"
    assert "1 checkpoint could not be analysed" in figure.layout.meta["caption"]
    assert "goes from 50 at 0 to 900 at 4" in figure.layout.meta["finding"]


def test_any_number_of_a_checkpoint():
    figure = series().plot.by_step(column="sink_rate")
    assert list(figure.data[0].y) == [0.1, None, 0.4]
    with pytest.raises(ArgumentError, match="Did you mean 'sink_rate'"):
        series().plot(column="sinkrate")
    plain = series(values=pd.DataFrame({"source": ["a"]})).plot()
    assert plain.layout.yaxis.title.text == "sink_rate"


def test_checkpoints_without_steps_or_numbers():
    frame = series().checkpoints.assign(step=np.nan).drop(columns="sink_rate")
    figure = series(checkpoints=frame, values=pd.DataFrame()).plot()
    assert figure.layout.xaxis.title.text == "checkpoint"
    assert figure.layout.annotations[0].text == "nothing to draw"
