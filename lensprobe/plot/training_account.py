"""Why a value moved in training: each step's parts, stacked, against the change that was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import finite, rows_of
from .lines import empty
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import TrainingWatch

__all__ = ["account", "tensors"]

NAMES = {
    "gradient": "this step's gradient",
    "momentum": "momentum carried over",
    "decay": "weight decay",
    "update": "update (not split)",
    "rounding": "rounding",
}
BARS = 14
FAINT = 0.002
"""Share of all movement below which rounding is not drawn."""


def account(
    watch: TrainingWatch,
    *,
    runs: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What each part of a step does to the value, stacked, and the measured change as dots.

    Args:
        watch: a `TrainingWatch`.
        runs: the run that is drawn, mean over its seeds; None is the first that has an account.

    Raises:
        ArgumentError: a run of another name.
    """
    look = style(theme, width_mm, title)
    run = _one(watch, runs)
    whole = rows_of(watch.account, run=run)
    seeds = max(1, int(whole["seed"].nunique()))
    summed = _summed(whole, "step") / seeds
    changes = rows_of(watch.changes, run=run)
    moved = pd.DataFrame(changes.groupby("step")[["predicted", "measured"]].mean())
    traces = [*_stack(summed, look), *_marks(moved, look)]
    words = Words(
        title="Why the value moved",
        subtitle=f"{model_name(watch)}, run {run}, {plural(seeds, 'seed')}",
        caption=(
            "Bars: what each part of an optimizer step adds to the value, to first order, over all "
            "weights. Dashes: their sum, ups less downs. Diamonds: the change that was measured; what "
            "lies between is beyond first order."
        ),
        finding=_sentence(summed, moved),
    )
    return build(
        traces,
        look,
        words,
        height=440,
        barmode="relative",
        bargap=0.25,
        xaxis={"title": {"text": "optimizer step"}},
        yaxis={
            "title": {"text": "change of the value in the step"},
            "tickformat": ",",
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
        annotations=[] if len(summed) else [empty("no step was taken apart", look)],
        showlegend=True,
    )


def tensors(
    watch: TrainingWatch,
    *,
    runs: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Which weights moved the value: each one's parts, added up over the steps taken apart.

    Raises:
        ArgumentError: a run of another name.
    """
    look = style(theme, width_mm, title)
    run = _one(watch, runs)
    whole = rows_of(watch.account, run=run)
    seeds = max(1, int(whole["seed"].nunique()))
    table = whole.assign(
        name=[
            f"{tensor} ({'writes it' if kind == 'writer' else 'rest'})" if split else tensor
            for tensor, kind, split in zip(
                whole["tensor"], whole["kind"], _is_split(whole), strict=True
            )
        ]
    )
    summed = _summed(table, "name") / seeds
    order = summed.abs().sum(axis=1).sort_values().index[-BARS:]
    top = summed.loc[order]
    traces = [
        go.Bar(
            x=finite(top[component].fillna(0.0)),
            y=list(top.index),
            orientation="h",
            name=NAMES[component],
            marker={"color": _colour(component, look), "line": {"width": 0}},
            hovertemplate=f"<b>%{{y}}</b><br>{NAMES[component]} %{{x:+,.4~g}}<extra></extra>",
        )
        for component in _drawn(summed)
    ]
    steps = whole["step"].nunique()
    words = Words(
        title="Which weights moved it",
        subtitle=f"{model_name(watch)}, run {run}, {plural(steps, 'step')} added up",
        caption=(
            f"The {len(top)} tensors with the largest effects on the value, to first order, by part of "
            "the step, added up over the steps that were taken apart. The weights that write the "
            "value stand apart from the rest of their tensor."
        ),
        finding=_tensor_sentence(summed),
    )
    return build(
        traces,
        look,
        words,
        height=140 + 26 * max(4, len(top)),
        barmode="relative",
        bargap=0.3,
        xaxis={
            "title": {"text": "change of the value"},
            "tickformat": ",",
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
        yaxis={"title": {"text": "tensor"}, "showgrid": False},
        annotations=[] if len(top) else [empty("no step was taken apart", look)],
        showlegend=True,
    )


def _stack(summed: pd.DataFrame, look: Look) -> list[go.Bar]:
    """A bar for each component, step by step."""
    return [
        go.Bar(
            x=[int(step) for step in summed.index],
            y=finite(summed[component].fillna(0.0)),
            name=NAMES[component],
            marker={"color": _colour(component, look), "line": {"width": 0}},
            hovertemplate=f"<b>{NAMES[component]}</b>, step %{{x}}<br>%{{y:+,.4~g}}<extra></extra>",
        )
        for component in _drawn(summed)
    ]


def _marks(moved: pd.DataFrame, look: Look) -> list[go.Scatter]:
    """What the bars sum to as dashes, what was measured as diamonds."""
    ink, surface = look.theme.ink, look.theme.surface
    dash = {"size": 22, "symbol": "line-ew-open", "color": ink, "line": {"width": 2}}
    diamond = {"size": 8, "symbol": "diamond", "color": ink, "line": {"width": 1, "color": surface}}
    kinds = (("predicted", "predicted, their sum", dash), ("measured", "measured", diamond))
    return [
        go.Scatter(
            x=[int(step) for step in moved.index],
            y=finite(moved[column]),
            name=name,
            mode="markers",
            marker=marker,
            hovertemplate=f"<b>{column}</b>, step %{{x}}<br>%{{y:+,.4~g}}<extra></extra>",
        )
        for column, name, marker in kinds
    ]


def _one(watch: TrainingWatch, run: str | None) -> str:
    known = list(dict.fromkeys(watch.runs["run"]))
    if run is None:
        have = list(dict.fromkeys(watch.account["run"]))
        return (have or known)[0]
    if run not in known:
        raise ArgumentError(f"runs={run!r}: one of {', '.join(known)}.{nearest(str(run), known)}")
    return run


def _summed(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Sums of `value`, a row for each of `by` and a column for each component."""
    return frame.pivot_table(index=by, columns="component", values="value", aggfunc="sum")


def _is_split(whole: pd.DataFrame) -> list[bool]:
    apart = set(whole.loc[whole["kind"] == "writer", "tensor"])
    return [tensor in apart for tensor in whole["tensor"]]


def _drawn(summed: pd.DataFrame) -> list[str]:
    """The components in their order; rounding only where it could be seen."""
    total = float(np.nansum(np.abs(summed.to_numpy(dtype=float))))
    return [
        name
        for name in NAMES
        if name in summed
        and (name != "rounding" or float(summed[name].abs().sum()) > FAINT * total)
    ]


def _colour(component: str, look: Look) -> str:
    return dict(zip(NAMES, look.theme.lines, strict=False))[component]


def _sentence(summed: pd.DataFrame, moved: pd.DataFrame) -> str:
    if not len(summed):
        return "Here no step was taken apart."
    parts = []
    for name in NAMES:
        if name in summed and name != "rounding":
            total = float(summed[name].sum())
            parts.append(f"{NAMES[name]} {'' if total < 0 else '+'}{number(total)}")
    return (
        f"Here {plural(len(summed), 'step')} taken apart add up to: {', '.join(parts)}; together they "
        f"predict {number(float(moved['predicted'].sum()))}, and "
        f"{number(float(moved['measured'].sum()))} was measured."
    )


def _tensor_sentence(summed: pd.DataFrame) -> str:
    if not len(summed):
        return "Here no step was taken apart."
    net = np.nansum(summed.to_numpy(dtype=float), axis=1)
    most = int(np.abs(net).argmax())
    return f"Here {summed.index[most]} moves it most: by {number(float(net[most]))} in all."
