"""Figures of a massive-activation scan: how large the stream's largest values are, where and in which token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, layer_axis, log_axis, positive
from .landscape import landscape
from .theme import Look, Words, build, number, style
from .tokens import label
from .wording import finding_name, finding_sentence, model_name, plural, rule

if TYPE_CHECKING:
    from ..massive import MassiveScan

__all__ = ["VIEWS", "kinds", "landscape", "trajectories", "values"]

RANKS = {1: "largest", 2: "second", 3: "third"}
KIND_NAMES = {"first": "first token", "delimiter": "delimiters", "other": "other tokens"}
NAMED = 3
"""Findings that are named in the figure itself; the others are in the table."""


def trajectories(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The three largest magnitudes and the median at every layer, on a log axis, findings named.

    Each line is a mean over sequences. Above the dotted line an activation counts as massive.
    """
    look = style(theme, width_mm, title)
    frame = scan.layers
    median = frame[frame["rank"] == frame["rank"].min()].sort_values("layer")
    magnitude, ratio = rule(scan)
    threshold = [max(magnitude, ratio * m) if m == m else None for m in median["median"]]
    marks = _marks(scan, look)
    traces = [
        *(_rank_line(frame[frame["rank"] == rank], rank, look) for rank in sorted(RANKS)),
        _line(median["layer"], positive(median["median"]), "median", look.theme.lines[2]),
        _threshold(median["layer"], threshold, look),
        *marks,
    ]
    shown = [y for trace in traces for y in (trace.y or ())]
    words = Words(
        title="The largest values in the residual stream",
        subtitle=f"{model_name(scan)}, mean over {plural(scan.provenance.get('sequences'), 'sequence')}",
        caption=(
            "The three largest magnitudes and the median magnitude of the residual stream after each "
            f"layer, averaged over sequences. Massive means above {number(magnitude)} and at least "
            f"{number(ratio)} times the median: above the dotted threshold."
        ),
        finding=finding_sentence(scan),
    )
    return build(
        traces,
        look,
        words,
        height=440,
        xaxis=layer_axis(list(median["layer"]), _site(scan)),
        yaxis=log_axis(shown, "magnitude |a| (log scale)"),
        annotations=_names(scan, look, log_axis(shown, "")["range"]),
    )


def values(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The signed value of each massive activation at every layer, with its spread over sequences."""
    look = style(theme, width_mm, title)
    traces: list[Any] = []
    frame = scan.trajectories
    pairs = list(dict.fromkeys(zip(frame["dim"], frame["position"], strict=True)))
    for index, (dim, position) in enumerate(pairs[:6]):
        rows = frame[(frame["dim"] == dim) & (frame["position"] == position)].sort_values("layer")
        traces.append(_signed_line(rows, index, look))
    words = Words(
        title="The massive activations, with their signs",
        subtitle=f"{model_name(scan)}, mean ± standard deviation over sequences",
        caption=(
            "The signed value of each massive activation at its position, layer by layer. "
            "Bars are one standard deviation over sequences."
        ),
        finding=_values_sentence(frame, pairs),
    )
    layers = list(frame["layer"]) or list(scan.layers["layer"])
    axis = {"title": {"text": "value a (signed)"}, "tickformat": ",", "zeroline": True}
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(layers, _site(scan)),
        yaxis={**axis, "zerolinecolor": look.theme.muted, "zerolinewidth": 1},
        annotations=[] if traces else [_empty("no massive activation at position 0", look)],
        showlegend=True,
    )


def kinds(
    scan: MassiveScan,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How large a token's largest value is, by the kind of token: the first, a delimiter, any other."""
    look = style(theme, width_mm, title)
    frame, dashes = scan.kinds, ("solid", "dash", "dot")
    traces = []
    for index, kind in enumerate(k for k in KIND_NAMES if k in set(frame["kind"])):
        rows = frame[frame["kind"] == kind].sort_values("layer")
        name, colour = KIND_NAMES[kind], look.theme.lines[index]
        line = _line(rows["layer"], positive(rows["mean"]), name, colour, dashes[index])
        line.customdata = np.stack([rows["value"], rows["count"]], axis=1).tolist()
        line.hovertemplate = (
            f"<b>{name}</b>, layer %{{x}}<br>mean of each token's largest |a|: %{{y:,.3~s}}"
            "<br>largest of all: %{customdata[0]:,.3~s}<br>%{customdata[1]:,} tokens<extra></extra>"
        )
        traces.append(line)
    words = Words(
        title="Which tokens carry the large values",
        subtitle=f"{model_name(scan)}, mean over tokens of one kind",
        caption=(
            "The largest magnitude in each token's residual, averaged over the tokens of one kind. "
            "A first token far above the others means that position, not content, makes it large."
        ),
        finding=_kinds_sentence(frame),
    )
    shown = [y for trace in traces for y in (trace.y or ())]
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(list(frame["layer"]), _site(scan)),
        yaxis=log_axis(shown, "largest |a| of a token (log scale)"),
        showlegend=True,
    )


def _site(scan: MassiveScan) -> str:
    return str(scan.provenance.get("site", ""))


def _line(
    layers: pd.Series, y: list[float | None], name: str, colour: str, dash: str = "solid"
) -> go.Scatter:
    return go.Scatter(
        x=[int(layer) for layer in layers],
        y=y,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 5, "color": colour},
        hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>|a| = %{{y:,.4~r}}<extra></extra>",
    )


def _rank_line(rows: pd.DataFrame, rank: int, look: Look) -> go.Scatter:
    rows = rows.sort_values("layer")
    line = _line(rows["layer"], positive(rows["mean"]), RANKS[rank], look.theme.shades[rank - 1])
    line.customdata = list(zip(finite(rows["value"]), finite(rows["ratio"]), strict=True))
    line.hovertemplate = (
        f"<b>{RANKS[rank]}</b>, layer %{{x}}<br>mean |a| = %{{y:,.4~r}}"
        "<br>at most %{customdata[0]:,.4~r} in one sequence"
        "<br>%{customdata[1]:,.3~r} × the median<extra></extra>"
    )
    return line


def _threshold(layers: pd.Series, y: list[float | None], look: Look) -> go.Scatter:
    return go.Scatter(
        x=[int(layer) for layer in layers],
        y=y,
        name="threshold",
        mode="lines",
        line={"color": look.theme.muted, "width": 1.2, "dash": "dot"},
        hovertemplate="massive above %{y:,.4~r}<extra></extra>",
    )


def _marks(scan: MassiveScan, look: Look) -> list[go.Scatter]:
    """A ring at each finding's strongest layer, so that hovering tells all about it."""
    found = scan.findings.head(12)
    if found.empty:
        return []
    hover = [
        f"<b>{finding_name(row, markup=True)}</b><br>token {label(str(row.token))}"
        f"<br>value {number(row.value)} ± {number(row.std)} at layer {row.layer}"
        f"<br>massive in layers {row.first} to {row.last}"
        f"<br>in {row.share:.0%} of sequences<br>{number(row.ratio)} × the median<extra></extra>"
        for row in found.itertuples()
    ]
    ring = {"size": 11, "symbol": "circle-open", "color": look.theme.lines[1], "line": {"width": 2}}
    y = positive(found["value"].abs())
    x = [int(layer) for layer in found["layer"]]
    # The text travels as data, never inside the template: a token may hold %{...}.
    return [
        go.Scatter(
            x=x,
            y=y,
            name="massive",
            mode="markers",
            marker=ring,
            text=[h.removesuffix("<extra></extra>") for h in hover],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


def _names(scan: MassiveScan, look: Look, span: list[float]) -> list[dict[str, Any]]:
    """Names of the strongest findings above their lines, where two would not overlap."""
    placed: list[float] = []
    notes = []
    layers = sorted(scan.layers["layer"].unique())
    for row in scan.findings.head(NAMED).itertuples():
        level = np.log10(abs(row.value)) if row.value else np.nan
        # About 4% of the axis is one line of text.
        if not np.isfinite(level) or any(
            abs(level - p) < 0.06 * (span[1] - span[0]) for p in placed
        ):
            continue
        placed.append(float(level))
        middle = int(round((row.first + row.last) / 2))
        edge = (middle - layers[0]) / max(1, layers[-1] - layers[0])
        text = f"<b>{finding_name(row, markup=True)}</b>  {number(row.value)}"
        anchor = "left" if edge < 0.2 else "right" if edge > 0.8 else "center"
        font = {"size": look.theme.size - 1, "color": look.theme.ink}
        notes.append(
            {"x": middle, "y": float(level), "text": text, "showarrow": False, "yshift": 14}
            | {"xanchor": anchor, "font": font}
        )
    return notes


def _signed_line(rows: pd.DataFrame, index: int, look: Look) -> go.Scatter:
    name = finding_name(rows.iloc[0], markup=True)
    dash = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")[index % 6]
    line = _line(rows["layer"], finite(rows["value"]), name, look.theme.lines[index % 6], dash)
    spread = [s or 0.0 for s in finite(rows["std"])]
    line.error_y = {"type": "data", "array": spread, "thickness": 1, "width": 2}
    line.hovertemplate = (
        f"<b>{name}</b>, layer %{{x}}<br>a = %{{y:,.4~r}} ± %{{error_y.array:,.3~r}}<extra></extra>"
    )
    return line


def _values_sentence(frame: pd.DataFrame, pairs: list[tuple[Any, Any]]) -> str:
    if not pairs:
        return "Here no activation at position 0 is massive, so there is nothing to draw."
    parts = []
    for dim, position in pairs[:3]:
        rows = frame[(frame["dim"] == dim) & (frame["position"] == position)]
        peak = rows.loc[rows["value"].abs().idxmax()]
        parts.append(
            f"dimension {dim} peaks at {number(peak['value'])} (layer {int(peak['layer'])})"
        )
    return f"Here {'; '.join(parts)}."


def _kinds_sentence(frame: pd.DataFrame) -> str:
    first, rest = frame[frame["kind"] == "first"], frame[frame["kind"] == "other"]
    both = first.merge(rest, on="layer", suffixes=("", "_other"))
    both = both[(both["mean"] > 0) & (both["mean_other"] > 0)]
    if both.empty:
        return "Here there is only one kind of token to show."
    times = both["mean"] / both["mean_other"]
    row = both.loc[times.idxmax()]
    return (
        f"Here the first token's largest value is up to {number(times.max())} times that of ordinary "
        f"tokens (layer {int(row['layer'])}: {number(row['mean'])} against {number(row['mean_other'])})."
    )


def _empty(text: str, look: Look) -> dict[str, Any]:
    centre = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    return {
        **centre,
        "text": text,
        "font": {"color": look.theme.muted, "size": look.theme.size + 1},
    }


VIEWS = {
    "trajectories": trajectories,
    "landscape": landscape,
    "values": values,
    "kinds": kinds,
}
