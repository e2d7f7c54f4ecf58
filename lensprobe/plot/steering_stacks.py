"""Figures of a mixing input added in either stack: what it carries, at what cost, and where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..errors import ArgumentError, nearest
from .axes import finite, rows_of
from .facets import facets, on
from .steering_parts import chosen_text, side_by_side, texts_of
from .theme import Look, Words, build, colour_bar, number, style
from .tokens import visible
from .wording import model_name

if TYPE_CHECKING:
    from ..steering import StackComparison

__all__ = ["VIEWS", "completions", "heat", "tradeoff"]

NAMES = {
    "mixed": "share of sensible mixtures",
    "carry": "share of the mixing input that is carried",
    "keep": "share of the base text that is kept",
    "malformed": "share of malformed completions",
    "logprob": "log-probability a token (nats)",
    "repetition": "repeated 4-grams",
    "mixing_logprob": "log-probability a token of the mixing input's completion (nats)",
    "base_logprob": "log-probability a token of the base text's completion (nats)",
}


def tradeoff(
    found: StackComparison,
    *,
    measure: str | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """How well it is said against how much is carried, a curve over scales for each block.

    Args:
        found: a comparison of stacks.
        measure: how well: "malformed" (drawn as the share that is whole) or "logprob"; None is the
            first of them that is known.

    Raises:
        ArgumentError: another measure.
    """
    look = style(theme, width_mm, title)
    known = not rows_of(found.cells, measure="malformed")["value"].isna().all()
    chosen = ("malformed" if known else "logprob") if measure is None else measure
    if chosen not in ("malformed", "logprob"):
        raise ArgumentError(f"measure={measure!r}: malformed or logprob.")
    keys = ["stack", "layer", "scale"]
    carried = rows_of(found.cells, measure="carry")
    well = rows_of(found.cells, measure=chosen)
    if chosen == "malformed":
        well = well.assign(value=1.0 - well["value"])
    both = carried.merge(well, on=keys, suffixes=("", "_well"))
    how = "share of well-formed completions" if chosen == "malformed" else NAMES[chosen]
    deepest = int(both["layer"].max())
    stacks = _stacks(found)
    traces: list[Any] = []
    for panel, stack in enumerate(stacks):
        mine = rows_of(both, stack=stack)
        for layer in sorted(int(one) for one in mine["layer"].unique()):
            rows = rows_of(mine, layer=layer).sort_values(by=["scale"])
            traces.append(_curve(rows, stack, layer, deepest, look, panel))
        traces.append(_unedited(rows_of(mine, scale=0.0), look, panel))
    words = Words(
        title="What is carried, and how well it is said",
        subtitle=_subtitle(found),
        caption=(
            "Each curve is one block, from the unedited model (cross) to the largest scale; larger "
            "points are larger scales. The mixing input's activations are added once, front-aligned. "
            "A sensible mixture lies high and in the middle; high and to the right, the mixing input "
            "has taken the base text's place."
        ),
        finding=_finding(found),
    )
    xaxis = {"title": {"text": NAMES["carry"]}, "range": [-0.04, 1.04]}
    yaxis: dict[str, Any] = {"title": {"text": how}}
    if chosen == "malformed":
        yaxis |= {"range": [-0.04, 1.04]}
    bar = colour_bar("block", look.theme, tickformat="d", nticks=min(7, deepest + 1))
    scale = {"colorscale": _depths(look), "cmin": 0, "cmax": max(1, deepest), "colorbar": bar}
    layout = facets(stacks, look, xaxis, yaxis)
    return build(traces, look, words, height=450, showlegend=False, coloraxis=scale, **layout)


def heat(
    found: StackComparison,
    *,
    measure: str = "mixed",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """One measure at every block and scale, a panel a stack, in one range of colours.

    Args:
        found: a comparison of stacks.
        measure: which; "mixed" is the share of completions that are whole and say something of both.

    Raises:
        ArgumentError: a measure that the comparison has not.
    """
    look = style(theme, width_mm, title)
    frame = rows_of(found.cells, measure=measure)
    if frame.empty or frame["value"].isna().all():
        raise ArgumentError(
            f"measure={measure!r}: {', '.join(_measured(found))}.{nearest(str(measure), NAMES)}"
        )
    share = not measure.endswith("logprob")
    low, high = (0.0, 1.0) if share else (float(frame["value"].min()), float(frame["value"].max()))
    stacks = _stacks(found)
    traces = []
    for panel, stack in enumerate(stacks):
        rows = rows_of(frame, stack=stack)
        wide = [
            rows.pivot(index="layer", columns="scale", values=name).to_numpy(dtype=float)
            for name in ("value", "low", "high")
        ]
        traces.append(
            go.Heatmap(
                x=[f"{one:g}" for one in sorted(rows["scale"].unique())],
                y=[str(one) for one in sorted(int(layer) for layer in rows["layer"].unique())],
                z=[finite(row) for row in wide[0]],
                customdata=np.nan_to_num(np.stack(wide[1:], axis=-1)).tolist(),
                zmin=low,
                zmax=high,
                colorscale=list(look.theme.sequential),
                colorbar=colour_bar("share" if share else "nats", look.theme),
                showscale=panel == 0,
                hovertemplate=(
                    f"<b>{stack}, block %{{y}}, scale %{{x}}</b><br>%{{z:.3~g}} "
                    "[%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]<extra></extra>"
                ),
                **on(panel),
            )
        )
    words = Words(
        title=f"Where: {NAMES[measure]}",
        subtitle=_subtitle(found),
        caption=(
            "Each cell adds the mixing input's activations once, front-aligned, at the output of one "
            "block. Scale 0 is the unedited model. Hover for 95% bootstrap intervals over base texts."
        ),
        finding=_finding(found),
    )
    xaxis = {"title": {"text": "scale"}, "type": "category"}
    yaxis = {"title": {"text": f"block ({found.provenance['site']})"}, "type": "category"}
    count = max(len(trace.y) for trace in traces)
    layout = facets(stacks, look, xaxis, yaxis)
    return build(traces, look, words, height=max(340, 190 + 22 * count), **layout)


def completions(
    found: StackComparison,
    *,
    text: int = 0,
    stack: str | None = None,
    layer: int | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What is written for one base text at every scale of one block.

    Args:
        found: a comparison of stacks.
        text: which base text.
        stack: None shows both.
        layer: None is the block that does best in each.

    Raises:
        ArgumentError: the comparison has no such text, stack or block.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    shown = _stacks(found) if stack is None else [stack]
    parts = []
    for name in shown:
        rows = rows_of(frame, stack=name)
        known = sorted(int(one) for one in rows["layer"].unique())
        best = int(found.provenance["best"][name][0][0]) if name in _stacks(found) else -1
        place = best if layer is None else layer
        if place not in known:
            raise ArgumentError(f"stack={name!r}, layer={layer!r}: this comparison has none such.")
        parts.append(rows_of(rows, layer=place).sort_values(by=["scale"]))
    rows = pd.concat(parts)
    first = rows.iloc[0]
    words = Words(
        title="What is written",
        subtitle=f"{model_name(found)}, “{_short(first['mixing'])}” into “{_short(first['prompt'])}”",
        caption=(
            "Completions of one base text with its mixing input, at each scale of one block. Scale 0 "
            "is the unedited model."
        ),
        finding=_finding(found),
    )
    columns = {
        "stack": "stack",
        "layer": "block",
        "scale": "scale",
        "completion": "completion",
        "carry": "carried",
        "keep": "kept",
    }
    return side_by_side(rows, look, words, columns)


def _curve(
    rows: pd.DataFrame, stack: str, layer: int, deepest: int, look: Look, panel: int
) -> go.Scatter:
    scales = rows["scale"].to_numpy(dtype=float)
    top = max(1e-9, float(np.abs(scales).max()))
    return go.Scatter(
        x=finite(rows["value"]),
        y=finite(rows["value_well"]),
        mode="lines+markers",
        line={
            "color": sample_colorscale(_depths(look), [layer / max(1, deepest)])[0],
            "width": 1.5,
        },
        marker={
            "size": [4 + 7 * math.sqrt(abs(one) / top) for one in scales],
            "color": [layer] * len(rows),
            "coloraxis": "coloraxis",
        },
        text=[f"{one:g}" for one in scales],
        hovertemplate=(
            f"<b>{stack}, block {layer}, scale %{{text}}</b>"
            "<br>carried %{x:.3f}<br>%{y:.3f}<extra></extra>"
        ),
        **on(panel),
    )


def _unedited(rows: pd.DataFrame, look: Look, panel: int) -> go.Scatter:
    return go.Scatter(
        x=finite(rows["value"].iloc[:1]),
        y=finite(rows["value_well"].iloc[:1]),
        mode="markers",
        marker={"size": 13, "symbol": "x-thin", "line": {"width": 3, "color": look.theme.ink}},
        hovertemplate="unedited<br>carried %{x:.3f}<br>%{y:.3f}<extra></extra>",
        **on(panel),
    )


def _depths(look: Look) -> list[str]:
    """Colours of blocks, none of them that of the ground."""
    return list(look.theme.sequential[2:])


def _stacks(found: StackComparison) -> list[str]:
    return list(dict.fromkeys(str(stack) for stack in found.cells["stack"]))


def _measured(found: StackComparison) -> list[str]:
    known = found.cells.dropna(subset=["value"])
    return list(dict.fromkeys(str(name) for name in known["measure"]))


def _subtitle(found: StackComparison) -> str:
    return f"{model_name(found)}, {texts_of(found)}, each with a mixing input"


def _short(text: str, most: int = 48) -> str:
    shown = visible(str(text)).replace("·", " ")
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _finding(found: StackComparison) -> str:
    """What each stack reaches at its best cell, and whether the difference is more than noise."""
    rows = found.stacks.set_index(["stack", "choice", "measure"])
    parts = []
    for stack in _stacks(found):
        mixed = rows.loc[(stack, "best", "mixed")]
        broken = rows.loc[(stack, "best", "malformed"), "value"]
        malformed = "" if math.isnan(broken) else f", {broken:.0%} malformed"
        parts.append(f"the {stack} mixes sensibly in {mixed['value']:.0%} of texts{malformed}")
    stacks = _stacks(found)
    more = ""
    if len(stacks) > 1:
        gap = rows.loc[(" - ".join(stacks), "best", "mixed")]
        more = (
            f"; the difference is {number(gap['value'])} "
            f"(95% interval {number(gap['low'])} to {number(gap['high'])}"
            + (")" if found.answer in stacks else ", within the noise)")
        )
    return f"Here, at its best block and scale, {'; '.join(parts)}{more}."


VIEWS = {"tradeoff": tradeoff, "heat": heat, "completions": completions}
"""The default first."""
