"""Figures of one coordinate through the layers: its size at every site, and what each layer adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, layer_axis, log_axis, positive, rows_of
from .lines import line
from .theme import Look, Words, build, number, style
from .wording import finding_name, model_name, plural

if TYPE_CHECKING:
    from ..massive import Trajectory

__all__ = ["VIEWS", "contributions", "trajectory"]

STREAM = (("resid_pre", -1.0), ("resid_mid", -0.5), ("resid_post", 0.0))
"""Where a residual stands on the layer axis, against its layer's output."""
PARTS = {"attn_out": "attention", "mlp_out": "MLP"}
COMPONENTS = {"attn": "attention", "mlp": "the MLP", "embed": "the embedding"}
SHOWN = 3
"""Coordinates that are drawn; the others are in the table."""
DASHES = ("solid", "dash", "dot")


def trajectory(
    result: Trajectory,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The magnitude at every residual site, against the largest other value and the median."""
    look = style(theme, width_mm, title)
    targets = _targets(result)
    stream = {target: _stream(result, *target) for target in targets}
    first = stream[targets[0]]
    traces = [
        *(_value(stream[target], target, i, look) for i, target in enumerate(targets[:SHOWN])),
        _beside(first, "rest", "largest of the rest", look.theme.lines[3], "dashdot"),
        _beside(first, "median", "median", look.theme.lines[2], "longdash"),
        _marks(result, targets[0], look),
    ]
    shown = [y for trace in traces for y in (trace.y or ())]
    words = Words(
        title="A massive activation through the layers",
        subtitle=_subtitle(result),
        caption=(
            "The magnitude of the coordinate in the residual stream before, in the middle of and "
            "after each layer, with the largest other magnitude and the median magnitude of the "
            "same hidden state, each a mean over sequences. It is born at the first layer after "
            "which it has half of its peak, and dies at the first after which it has less again."
        ),
        finding=_life(result, targets[0]),
    )
    return build(
        traces,
        look,
        words,
        height=440,
        xaxis=layer_axis([-1, *first["layer"]], "resid_post"),
        yaxis=log_axis(shown, "magnitude |a| (log scale)"),
        annotations=_names(result, targets[0], look),
        showlegend=True,
    )


def contributions(
    result: Trajectory,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What attention and MLP of each layer add to the coordinate, and the value that results."""
    look = style(theme, width_mm, title)
    dim, position = _targets(result)[0]
    traces: list[Any] = []
    for index, (site, name) in enumerate(PARTS.items()):
        rows = rows_of(result.values, dim=dim, position=position, site=site)
        traces.append(
            go.Bar(
                x=[int(layer) for layer in rows["layer"]],
                y=finite(rows["value"]),
                name=name,
                marker={"color": look.theme.lines[1 - index], "line": {"width": 0}},
                customdata=finite(rows["std"]),
                hovertemplate=(
                    f"<b>{name}</b>, layer %{{x}}<br>adds %{{y:,.4~r}} ± %{{customdata:,.3~r}}"
                    "<extra></extra>"
                ),
            )
        )
    after = rows_of(result.values, dim=dim, position=position, site="resid_post")
    value = line(after["layer"], finite(after["value"]), "value after the layer", look.theme.ink)
    value.hovertemplate = "layer %{x}<br>a = %{y:,.4~r}<extra></extra>"
    words = Words(
        title=f"What each layer adds to dim {dim} at position {position}",
        subtitle=_subtitle(result),
        caption=(
            "Bars: what attention and MLP of each layer add to the coordinate. Line: its value after "
            "the layer, the sum of all bars up to there and of the embedding. Means over sequences."
        ),
        finding=_life(result, (dim, position)),
    )
    return build(
        [*traces, value],
        look,
        words,
        height=400,
        barmode="relative",
        bargap=0.25,
        xaxis=layer_axis(list(after["layer"]), "", half=True),
        yaxis={
            "title": {"text": "value a (signed)"},
            "tickformat": ",",
            "zeroline": True,
            "zerolinecolor": look.theme.muted,
        },
        showlegend=True,
    )


def _targets(result: Trajectory) -> list[tuple[int, int]]:
    pairs = zip(result.values["dim"], result.values["position"], strict=True)
    return [(int(dim), int(position)) for dim, position in dict.fromkeys(pairs)]


def _stream(result: Trajectory, dim: int, position: int) -> pd.DataFrame:
    """The residual sites of one coordinate with their place `x`, one row where two coincide."""
    rows = rows_of(result.values, dim=dim, position=position)
    parts = [rows_of(rows, site=site).assign(x=lambda f, s=s: f["layer"] + s) for site, s in STREAM]
    # What enters a layer is what left the one before, where both were read.
    return pd.concat(parts).drop_duplicates(subset=["x"], keep="last").sort_values(by=["x"])


def _value(rows: pd.DataFrame, target: tuple[int, int], index: int, look: Look) -> go.Scatter:
    name = finding_name(pd.Series({"dim": target[0], "position": target[1]}))
    sizes = positive(np.abs(rows["value"].to_numpy(float)))
    trace = _path(rows, sizes, name, look.theme.shades[index], 2.5, DASHES[index])
    columns = (finite(rows["value"]), finite(rows["std"]), list(rows["site"]), list(rows["layer"]))
    trace.customdata = list(zip(*columns, finite(rows["ratio"]), strict=True))
    trace.hovertemplate = (
        f"<b>{name}</b>, layer %{{customdata[3]}}, %{{customdata[2]}}"
        "<br>a = %{customdata[0]:,.4~r} ± %{customdata[1]:,.3~r}"
        "<br>%{customdata[4]:,.3~r} × the median<extra></extra>"
    )
    return trace


def _beside(rows: pd.DataFrame, column: str, name: str, colour: str, dash: str) -> go.Scatter:
    trace = _path(rows, positive(rows[column]), name, colour, dash=dash)
    trace.customdata = list(zip(list(rows["site"]), list(rows["layer"]), strict=True))
    trace.hovertemplate = (
        f"<b>{name}</b>, layer %{{customdata[1]}}, %{{customdata[0]}}"
        "<br>|a| = %{y:,.4~r}<extra></extra>"
    )
    return trace


def _path(
    rows: pd.DataFrame,
    y: list[float | None],
    name: str,
    colour: str,
    width: float = 1.8,
    dash: str = "solid",
) -> go.Scatter:
    return go.Scatter(
        x=finite(rows["x"]),
        y=y,
        name=name,
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
    )


def _stages(result: Trajectory, target: tuple[int, int]) -> list[Any]:
    """Rows of birth, peak and death, in that order."""
    rows = rows_of(result.stages, dim=target[0], position=target[1])
    found: list[Any] = list(rows.itertuples())
    return [row for row in found if row.kind != "plateau"]


def _marks(result: Trajectory, target: tuple[int, int], look: Look) -> go.Scatter:
    rows = _stages(result, target)
    ring = {"size": 11, "symbol": "circle-open", "color": look.theme.lines[1], "line": {"width": 2}}
    return go.Scatter(
        x=[int(row.first) for row in rows],
        y=positive(abs(row.value) for row in rows),
        name="birth, peak, death",
        mode="markers",
        marker=ring,
        text=[_mark(row) for row in rows],
        hovertemplate="%{text}<br>a = %{y:,.4~r}<extra></extra>",
    )


def _mark(row: Any) -> str:
    by = f", {COMPONENTS[row.component]}" if row.component in COMPONENTS else ""
    return f"{row.kind}: layer {int(row.first)}{by}"


def _names(result: Trajectory, target: tuple[int, int], look: Look) -> list[dict[str, Any]]:
    """Birth and death written beside their rings; the peak is where the line is highest."""
    layers = result.values["layer"].unique()
    notes = []
    for row in _stages(result, target):
        if row.kind == "peak" or not row.value:
            continue
        # Towards the middle of the figure, above the rise and below the fall.
        left = 2 * row.first > layers[0] + layers[-1] or (row.kind == "birth" and row.first > 3)
        notes.append(
            {
                "x": int(row.first),
                "y": float(np.log10(abs(row.value))),
                "text": _mark(row),
                "showarrow": False,
                "xanchor": "right" if left else "left",
                "xshift": -10 if left else 10,
                "yshift": 12 if row.kind == "birth" else -12,
                "font": {"size": look.theme.size - 1, "color": look.theme.ink},
                "bgcolor": look.theme.surface,
            }
        )
    return notes


def _subtitle(result: Trajectory) -> str:
    return f"{model_name(result)}, mean over {plural(result.provenance['sequences'], 'sequence')}"


def _life(result: Trajectory, target: tuple[int, int]) -> str:
    rows = {row.kind: row for row in _stages(result, target)}
    if not rows:
        return "Here the coordinate has no finite value."
    birth, peak = rows["birth"], rows["peak"]
    end = "and stands to the last layer that was read"
    if "death" in rows:
        death = rows["death"]
        end = f"and falls below half of it at layer {int(death.first)}"
        end += f" ({COMPONENTS.get(death.component, 'no component')})"
    return (
        f"Here dimension {target[0]} at position {target[1]} is born at layer {int(birth.first)} "
        f"({COMPONENTS.get(birth.component, 'no component')}), peaks at {number(peak.value)} after "
        f"layer {int(peak.first)}, {number(peak.ratio)} times the median, {end}."
    )


VIEWS = {"trajectory": trajectory, "contributions": contributions}
