"""Figures of a watched training: the value by step, why it moved, and what appears from nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import finite, log_axis, positive, rows_of
from .lines import empty
from .theme import Look, Words, build, number, style
from .tokens import escape
from .training_account import account, tensors
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import TrainingWatch

__all__ = ["VIEWS", "account", "emergence", "tensors", "values"]

DASHES = ("solid", "dash", "dot", "dashdot")
WIDE = 20
"""Largest over smallest loss from which on losses are drawn on a log axis."""
THRESHOLD = 1000.0
"""Times the median from which a magnitude counts as massive, if it is above 100 too."""


def values(
    watch: TrainingWatch,
    *,
    runs: Sequence[str] | str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The watched value after each step, a line for each run, and below it the loss.

    Lines are means over seeds, bands reach from the smallest to the largest seed.

    Args:
        watch: a `TrainingWatch`.
        runs: names of the runs that are drawn; None is all.

    Raises:
        ArgumentError: a run of another name.
    """
    look = style(theme, width_mm, title)
    names = chosen(watch, runs)
    traces: list[Any] = []
    for index, run in enumerate(names):
        for axis, kind in (("y", "value"), ("y2", "loss")):
            rows = rows_of(watch.spread, run=run, kind=kind).sort_values(by=["step"])
            traces += _line(rows, run, index, axis, kind, look)
    seeds = int(watch.runs["seed"].nunique())
    words = Words(
        title="The value through training",
        subtitle=f"{model_name(watch)}, {_place(watch)}, {plural(seeds, 'seed')}",
        caption=(
            "Above, the value of the coordinate on sequences that are never trained on, after each "
            "number of optimizer steps; below, the loss on them. Each line is one way to train, "
            "on the same batches"
            + (
                ": the mean over seeds, with a band from the smallest to the largest."
                if seeds > 1
                else "."
            )
        ),
        finding=_values_sentence(watch, names),
    )
    figure = _panels(traces, look, words, "value a (signed)", "loss (nats)", names)
    losses = rows_of(watch.spread, kind="loss").query("run in @names")["mean"]
    if losses.min() > 0 and losses.max() > WIDE * losses.min():
        # One run that blew up would flatten all others.
        decades = math.log10(losses.max() / losses.min())
        figure.update_layout(yaxis2={"type": "log", "dtick": max(1, round(decades / 4))})
    return figure


def emergence(
    watch: TrainingWatch,
    *,
    runs: Sequence[str] | str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The largest magnitude anywhere over the median, and below it the sink rate, step by step.

    Raises:
        ArgumentError: a run of another name.
    """
    look = style(theme, width_mm, title)
    names = chosen(watch, runs)
    traces: list[Any] = []
    for index, run in enumerate(names):
        peaks = rows_of(watch.peaks, run=run).groupby("step", sort=True)["ratio"]
        rows = peaks.agg(mean="mean", low="min", high="max", count="count").reset_index()
        traces += _line(rows, run, index, "y", "ratio", look)
        rows = rows_of(watch.spread, run=run, kind="sink_rate").sort_values(by=["step"])
        traces += _line(rows, run, index, "y2", "sink rate", look)
    steps = watch.peaks["step"]
    if len(steps):
        traces.append(_threshold(int(steps.min()), int(steps.max()), look))
    words = Words(
        title="When massive activations and sinks appear",
        subtitle=f"{model_name(watch)}, largest magnitude after any layer",
        caption=(
            "Above, the largest magnitude in the residual stream, wherever it is, as a multiple of its "
            "layer's median; a massive activation is above the dotted line (and above 100). Below, the "
            "share of heads that give the first token more than "
            f"{float(watch.provenance.get('epsilon', 0.3)):g} of their attention."
        ),
        finding=_emergence_sentence(watch, names),
    )
    figure = _panels(traces, look, words, "largest |a| / median", "sink rate", names)
    shown = [y for trace in traces if trace.yaxis != "y2" for y in positive(trace.y or ())]
    return figure.update_layout(
        yaxis=log_axis(shown, "largest |a| / median"),
        yaxis2={"range": [-0.02, 1.02], "tickformat": ".0%"},
    )


def chosen(watch: TrainingWatch, runs: Sequence[str] | str | None) -> list[str]:
    """The runs to draw, checked.

    Raises:
        ArgumentError: a run of another name.
    """
    known = list(dict.fromkeys(watch.runs["run"]))
    names = known if runs is None else [runs] if isinstance(runs, str) else list(runs)
    for name in names:
        if name not in known:
            raise ArgumentError(
                f"runs: {name!r} is none of {', '.join(known)}.{nearest(str(name), known)}"
            )
    return names


def _line(
    rows: pd.DataFrame, run: str, index: int, axis: str, what: str, look: Look
) -> list[go.Scatter]:
    """One run's mean, over a band where there are several seeds."""
    colour = look.theme.lines[index % len(look.theme.lines)]
    steps = [int(step) for step in rows["step"]]
    place = {"yaxis": axis, "legendgroup": run}
    traces = []
    if len(rows) and int(rows["count"].max()) > 1:
        edge = [*finite(rows["high"]), *reversed(finite(rows["low"]))]
        traces.append(
            go.Scatter(
                x=[*steps, *reversed(steps)],
                y=edge,
                mode="lines",
                fill="toself",
                fillcolor=colour,
                opacity=0.16,
                line={"width": 0},
                hoverinfo="skip",
                hovertemplate="",
                showlegend=False,
                **place,
            )
        )
    spread = [list(row) for row in zip(rows["low"], rows["high"], rows["count"], strict=True)]
    traces.append(
        go.Scatter(
            x=steps,
            y=finite(rows["mean"]),
            name=escape(run),
            mode="lines+markers" if len(rows) <= 40 else "lines",
            line={
                "color": colour,
                "width": 2,
                "dash": DASHES[index // len(look.theme.lines) % len(DASHES)],
            },
            marker={"size": 5, "color": colour},
            customdata=spread,
            text=[escape(run)] * len(rows),
            hovertemplate=(
                f"<b>%{{text}}</b>, after step %{{x}}<br>{what} %{{y:,.5~g}}"
                "<br>%{customdata[0]:,.5~g} to %{customdata[1]:,.5~g}, %{customdata[2]} seeds"
                "<extra></extra>"
            ),
            showlegend=axis == "y",
            **place,
        )
    )
    return traces


def _panels(
    traces: list[Any], look: Look, words: Words, upper: str, lower: str, names: Sequence[str]
) -> go.Figure:
    """Two panels over one axis of steps."""
    drawn = any(len(trace.x or ()) for trace in traces)
    # A long legend stands below the axis, a line for every few names.
    rows = 1 + sum(len(name) + 6 for name in names) // 90 if len(names) > 1 else 0
    figure = build(
        traces,
        look,
        words,
        height=500 + 20 * rows,
        xaxis={"title": {"text": "optimizer steps"}, "anchor": "y2"},
        yaxis={"title": {"text": upper}, "tickformat": ",", "domain": [0.4, 1.0], "anchor": "x"},
        yaxis2={"title": {"text": lower}, "domain": [0.0, 0.3], "anchor": "x"},
        annotations=[] if drawn else [empty("nothing was watched (every=None)", look)],
        showlegend=len(names) > 1,
    )
    return figure.update_layout(margin={"b": 64 + 20 * rows})


def _threshold(first: int, last: int, look: Look) -> go.Scatter:
    return go.Scatter(
        x=[first, last],
        y=[THRESHOLD, THRESHOLD],
        name="massive",
        mode="lines",
        line={"color": look.theme.muted, "width": 1.2, "dash": "dot"},
        hovertemplate="massive from 1,000 times the median<extra></extra>",
        showlegend=False,
    )


def _place(watch: TrainingWatch) -> str:
    place = watch.provenance.get("watched_place")
    if not isinstance(place, dict):
        return "the largest magnitude in the stream"
    return f"dim {place['dim']} at position {place['position']} after layer {place['layer']}"


def _values_sentence(watch: TrainingWatch, names: Sequence[str]) -> str:
    parts = []
    for run in names[:4]:
        rows = rows_of(watch.spread, run=run, kind="value").sort_values(by=["step"])
        rows = rows.dropna(subset=["mean"])
        if len(rows) > 1:
            first, last = rows.iloc[0], rows.iloc[-1]
            parts.append(
                f"{run} takes it from {number(first['mean'])} to {number(last['mean'])} "
                f"in {plural(last['step'] - first['step'], 'step')}"
            )
    if not parts:
        return "Here nothing was watched, so nothing can be said of the value."
    more = f"; {plural(len(names) - 4, 'more run')}" if len(names) > 4 else ""
    return f"Here {'; '.join(parts)}{more}."


def _emergence_sentence(watch: TrainingWatch, names: Sequence[str]) -> str:
    own = pd.DataFrame(watch.peaks[watch.peaks["run"].isin(list(names))])
    if own.empty:
        return "Here nothing was watched, so nothing can be said of what appears."
    massive = own[own["massive"].astype(bool)]
    top = own.loc[own["ratio"].idxmax()]
    words = (
        f"massive activations are there from step {int(massive['step'].min())} on"
        if len(massive)
        else "no activation is massive at any step looked at"
    )
    rates = pd.Series(watch.steps.loc[watch.steps["run"].isin(list(names)), "sink_rate"]).dropna()
    sinks = ""
    if len(rates):
        sinks = (
            f"; the sink rate reaches {rates.max():.0%}" if rates.max() else "; no head is a sink"
        )
    return (
        f"Here {words}; the largest magnitude is at most {number(top['ratio'])} times the median "
        f"(step {int(top['step'])}){sinks}."
    )


VIEWS = {"values": values, "account": account, "tensors": tensors, "emergence": emergence}
