"""The figure of an analysis over checkpoints: one number, checkpoint by checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import finite, log_axis, positive
from .lines import empty
from .theme import Words, build, number, style
from .tokens import escape
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import CheckpointSeries

__all__ = ["VIEWS", "by_step"]

LARGEST = "largest magnitude"


def by_step(
    series: CheckpointSeries,
    *,
    column: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """One number of every checkpoint against its step, or its turn where names say no step.

    Args:
        series: a `CheckpointSeries`.
        column: a number in `checkpoints`; None is, after a scan for massive activations, the largest
            magnitude in any layer (on a log axis), and else the first number there is.

    Raises:
        ArgumentError: `checkpoints` has no number of that name.
    """
    look = style(theme, width_mm, title)
    frame = series.checkpoints
    numbers = [
        name
        for name in frame.columns
        if name not in ("step", "source") and pd.api.types.is_numeric_dtype(frame[name])
    ]
    if column is not None and column not in numbers:
        raise ArgumentError(
            f"column={column!r}: the numbers of a checkpoint are {', '.join(numbers)}."
            f"{nearest(column, numbers)}"
        )
    largest = column is None and "rank" in series.values
    name = LARGEST if largest else (column or (numbers[0] if numbers else "value"))
    amounts = _largest(series) if largest else _column(frame, name)
    known = frame["step"].notna().all()
    places = frame["step"] if known else pd.Series(range(len(frame)))
    y = positive(amounts) if largest else finite(amounts)
    trace = go.Scatter(
        x=finite(places),
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": look.theme.lines[0], "width": 2},
        marker={"size": 7, "color": look.theme.lines[0]},
        text=[escape(str(source)) for source in frame["source"]],
        hovertemplate=f"<b>%{{text}}</b><br>{name} %{{y:,.4~g}}<extra></extra>",
    )
    failed = int((frame["error"] != "").sum())
    axis: dict[str, Any] = {"title": {"text": name}, "tickformat": ","}
    words = Words(
        title="Through the checkpoints",
        subtitle=f"{model_name(series)} and {plural(max(0, len(frame) - 1), 'more checkpoint')}",
        caption=(
            f"The {name} at each checkpoint, from one analysis repeated on each of them."
            + (f" {plural(failed, 'checkpoint')} could not be analysed." if failed else "")
        ),
        finding=_sentence(name, amounts, places),
    )
    return build(
        [trace],
        look,
        words,
        height=400,
        xaxis={"title": {"text": "training step" if known else "checkpoint"}},
        yaxis=log_axis(y, f"{name} (log scale)") if largest else axis,
        annotations=[] if any(v is not None for v in y) else [empty("nothing to draw", look)],
        showlegend=False,
    )


def _largest(series: CheckpointSeries) -> pd.Series:
    """The largest magnitude of each checkpoint, in the order of `checkpoints`."""
    frame = series.checkpoints
    pairs = zip(frame["source"], frame["revision"], strict=True)
    names = [f"{source}@{revision}" if revision else source for source, revision in pairs]
    found = [series.values.loc[series.values["source"] == name, "value"] for name in names]
    return pd.Series([float(rows.max()) for rows in found])


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return pd.Series(frame[name] if name in frame else np.full(len(frame), np.nan))


def _sentence(name: str, amounts: pd.Series, places: pd.Series) -> str:
    pairs = [
        (float(place), float(amount))
        for place, amount in zip(places, amounts, strict=True)
        if np.isfinite(amount)
    ]
    if not pairs:
        return "Here no checkpoint has such a number."
    (first, begin), (last, end) = pairs[0], pairs[-1]
    return f"Here the {name} goes from {number(begin)} at {first:,.0f} to {number(end)} at {last:,.0f}."


VIEWS = {"by_step": by_step}
