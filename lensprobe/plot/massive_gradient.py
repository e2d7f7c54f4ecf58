"""Figures of a gradient by one number: which way it pushes, at which size, and through which heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .massive_heads import head_maps
from .massive_rescale import coordinate, documents
from .steering_parts import band
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import Gradient

__all__ = ["VIEWS", "heads", "paths", "slopes"]

PARTS = {
    "key": "keys: attention to the position",
    "value": "values: what is read there",
    "own": "its own prediction",
    "total": "all of it",
}


def slopes(
    result: Gradient,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The derivative of the loss by the logarithm of the number's factor, document by document."""
    look = style(theme, width_mm, title)
    rows = rows_of(result.slopes, measure="log_factor").sort_values(by=["factor"])
    each = rows_of(result.documents, measure="log_factor")
    points = go.Scatter(
        x=finite(each["factor"]),
        y=finite(each["value"]),
        mode="markers",
        name="one document",
        marker={"size": 6, "color": look.theme.lines[5], "opacity": 0.65},
        customdata=[int(one) for one in each["document"]],
        hovertemplate="document %{customdata}, factor %{x:g}<br>%{y:+.3~g}<extra></extra>",
    )
    line = band(
        rows,
        "factor",
        "mean",
        look.theme.lines[0],
        hover="<b>factor %{x:g}</b><br>%{y:+.3~g} [%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]",
    )
    words = Words(
        title=f"Which way the loss pushes {coordinate(result)}",
        subtitle=_subtitle(result),
        caption=(
            "The derivative of the mean loss by the logarithm of the number's factor, in nats a "
            "token for each e-fold. Below zero, gradient descent makes the number larger. The band is "
            "a 95% bootstrap interval over documents."
        ),
        finding=_slope_sentence(rows),
    )
    return build(
        [points, *line],
        look,
        words,
        height=400,
        xaxis={"title": {"text": "factor"}},
        yaxis={
            "title": {"text": "d loss / d ln factor (nats a token)"},
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
            "zerolinewidth": 1,
        },
        showlegend=True,
    )


def paths(
    result: Gradient,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Where the derivative comes from: the parts of the sum at every factor."""
    look = style(theme, width_mm, title)
    traces = []
    for index, (part, name) in enumerate(PARTS.items()):
        rows = rows_of(result.paths, component=part).sort_values(by=["factor"])
        traces.append(_part(rows, name, look.theme.lines[(index + 1) % 6], look))
    words = Words(
        title="Through keys, values, or its own prediction",
        subtitle=_subtitle(result),
        caption=(
            "The derivative as an exact sum. Later tokens see the number through the keys of its "
            "position, which move attention to it, and through the values, which are what they read "
            "there; the rest is the position's own prediction."
        ),
        finding=_paths_sentence(result),
    )
    factors = sorted(float(f) for f in result.paths["factor"].unique())
    return build(
        traces,
        look,
        words,
        height=400,
        barmode="group",
        xaxis={
            "title": {"text": "factor"},
            "type": "category",
            "categoryarray": [f"{f:g}" for f in factors],
        },
        yaxis={
            "title": {"text": "d loss / d ln factor (nats a token)"},
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
            "zerolinewidth": 1,
        },
        showlegend=True,
    )


def heads(
    result: Gradient,
    *,
    factor: float | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The derivative by layer and head: through the key and through the value.

    Args:
        result: a gradient.
        factor: at which factor; None is the one nearest 1.

    Raises:
        ArgumentError: a factor at which it was not taken.
    """
    look = style(theme, width_mm, title)
    known = sorted(float(one) for one in result.paths["factor"].unique())
    chosen = min(known, key=lambda one: abs(one - 1)) if factor is None else float(factor)
    if chosen not in known:
        listed = ", ".join(f"{one:g}" for one in known)
        raise ArgumentError(f"factor={factor!r}: it was taken at {listed}.")
    own = rows_of(result.heads, factor=chosen)
    panels = {PARTS[part]: (rows_of(own, component=part), "value") for part in ("key", "value")}
    words = Words(
        title=f"Which heads push {coordinate(result)}",
        subtitle=f"{_subtitle(result)}, factor {chosen:g}",
        caption=(
            "The derivative of the mean loss by the logarithm of the factor, split by the head through "
            "which later tokens see the position. Blue heads ask for a larger number. Layers up to "
            "the number's own do not read it."
        ),
        finding=_heads_sentence(own),
    )
    return head_maps(panels, look, words, bar="nats a token", cell="%{z:+.3~g} nats a token")


def _subtitle(result: Gradient) -> str:
    return f"{model_name(result)}, after layer {result.provenance['layer']}, {documents(result)}"


def _part(rows: pd.DataFrame, name: str, colour: str, look: Look) -> go.Bar:
    value = rows["value"].to_numpy(dtype=float)
    ends = {k: rows[k].to_numpy(dtype=float) for k in ("low", "high")}
    return go.Bar(
        x=[f"{float(f):g}" for f in rows["factor"]],
        y=finite(value),
        name=name,
        marker={"color": colour},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(ends["high"] - value).tolist(),
            "arrayminus": np.nan_to_num(value - ends["low"]).tolist(),
            "color": look.theme.ink,
            "thickness": 1.2,
            "width": 3,
        },
        hovertemplate=f"<b>{name}</b>, factor %{{x}}<br>%{{y:+.3~g}} nats a token<extra></extra>",
    )


def _slope_sentence(rows: pd.DataFrame) -> str:
    row: Any = rows.iloc[int(np.abs(rows["factor"].to_numpy(float) - 1).argmin())]
    way = "larger" if float(row["value"]) < 0 else "smaller"
    test = float(row["p_value"])
    sure = "" if np.isnan(test) else f" (sign test p = {number(test)})"
    return (
        f"Here at factor {row['factor']:g} the loss falls as the number grows {way}: "
        f"{number(float(row['value']))} nats for each e-fold, and in {float(row['share']):.0%} of "
        f"{int(row['count'])} documents a larger number lowers it{sure}."
    )


def _paths_sentence(result: Gradient) -> str:
    factor = min(result.paths["factor"].unique(), key=lambda one: abs(float(one) - 1))
    own = result.paths[result.paths["factor"] == factor].set_index("component")["value"]
    return (
        f"Here at factor {float(factor):g} the keys bring {number(float(own['key']))}, the values "
        f"{number(float(own['value']))} and its own prediction {number(float(own['own']))} of "
        f"{number(float(own['total']))} nats."
    )


def _heads_sentence(own: pd.DataFrame) -> str:
    if own.empty or not np.isfinite(own["value"].to_numpy(float)).any():
        return "Here no layer above reads the number."
    top = own.iloc[int(np.nanargmin(own["value"].to_numpy(float)))]
    most = own.iloc[int(np.nanargmax(own["value"].to_numpy(float)))]
    return (
        f"Here layer {int(top['layer'])}, head {int(top['head'])} asks most for a larger number "
        f"({number(float(top['value']))} through its {top['component']}), and layer "
        f"{int(most['layer'])}, head {int(most['head'])} most for a smaller one "
        f"({number(float(most['value']))} through its {most['component']})."
    )


VIEWS = {"slopes": slopes, "paths": paths, "heads": heads}
