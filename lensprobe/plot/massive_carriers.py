"""Figures of an anatomy: where heads bring it from, and the model without the weights that write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite
from .facets import facets, on
from .lines import empty
from .theme import Look, Words, build, colour_bar, number, style
from .tokens import label, token_axis
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import Anatomy

__all__ = ["ablations", "own", "sources"]

HEADS = 16
KEYS = 60
KINDS = {
    "plain": "plain",
    "neurons": "the set's neurons",
    "weights": "their single weights",
    "random neurons": "random neurons",
}


def sources(
    result: Anatomy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What the writing and erasing heads bring to the coordinate, by the position they read."""
    look = style(theme, width_mm, title)
    first = result.values.iloc[0]
    frame = own(result.sources, first)
    trace, names, keys = _brought(frame, look)
    tokens = dict(zip(frame["key"], frame["token"], strict=True))
    left = frame["key"].nunique() - len(keys)
    thinned = f" The {left:,} positions that matter least are left out." if left else ""
    words = Words(
        title="Where attention brings it from",
        subtitle=f"{model_name(result)}, dim {int(first['dim'])} at position {int(first['position'])}",
        caption=(
            "What each head of the writing and erasing attention layers adds to the coordinate from "
            "each position it reads: attention times the value's way through the output matrix."
            f"{thinned}"
        ),
        finding=_sources_sentence(frame, first),
    )
    nothing = "no attention layer writes or erases a share of it" if frame.empty else ""
    return build(
        [trace],
        look,
        words,
        height=max(300, 150 + 22 * len(names)),
        xaxis={
            "title": {"text": "position read"},
            **token_axis([str(tokens[key]) for key in keys], keys),
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "layer.head"},
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "autorange": "reversed",
            "showgrid": False,
        },
        annotations=[empty(nothing, look)] if nothing else [],
    )


def _brought(frame: pd.DataFrame, look: Look) -> tuple[go.Heatmap, list[str], list[int]]:
    """The map of heads and positions, with the heads' names and the positions it shows."""
    wide = frame.pivot_table(index=["layer", "head"], columns="key", values="value")
    largest = np.argsort(-np.abs(wide.to_numpy()).sum(1), kind="stable")[:HEADS]
    order: list[Any] = [wide.index[index] for index in largest]
    names = [f"{layer}.{head}" for layer, head in order]
    attention = frame.pivot_table(index=["layer", "head"], columns="key", values="probability")
    keys = [] if frame.empty else _keys(wide.to_numpy(), [int(key) for key in wide.columns])
    tokens = dict(zip(frame["key"], frame["token"], strict=True))
    z = [[float(wide.loc[pair, key]) for key in keys] for pair in order]
    seen = [[float(attention.loc[pair, key]) for key in keys] for pair in order]
    most = max((abs(v) for row in z for v in row), default=0.0) or 1.0
    shown = [label(str(tokens[key])) for key in keys]
    trace = go.Heatmap(
        z=z,
        x=list(range(len(keys))),
        y=list(range(len(names))),
        zmin=-most,
        zmax=most,
        colorscale=_scale(look.theme.diverging),
        colorbar=colour_bar("adds to a", look.theme),
        xgap=1,
        ygap=1,
        customdata=[
            [[names[i], keys[j], shown[j], seen[i][j]] for j in range(len(keys))]
            for i in range(len(names))
        ],
        hovertemplate=(
            "<b>head %{customdata[0]}</b>, key %{customdata[1]} (%{customdata[2]})"
            "<br>attention %{customdata[3]:.3f}<br>adds %{z:,.4~r}<extra></extra>"
        ),
    )
    return trace, names, keys


def ablations(
    result: Anatomy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The value and the loss without the few weights that carry it, beside random neurons."""
    look = style(theme, width_mm, title)
    first = result.values.iloc[0]
    rows: list[Any] = list(own(result.ablations, first).itertuples())
    rows.sort(key=lambda row: [*KINDS, "weight"].index(row.kind))
    names = [_name(row) for row in rows]
    panels = (("value", "value a"), ("loss", "loss (nats)"))
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "autorange": "reversed",
        "showgrid": False,
        "title": {"text": "set to zero"},
    }
    layout = facets(
        [name for _, name in panels], look, {"rangemode": "tozero", "tickformat": ","}, axis
    )
    traces = []
    for panel, (column, name) in enumerate(panels):
        values = [float(getattr(row, column)) for row in rows]
        traces.append(
            go.Bar(
                x=finite(values),
                y=list(range(len(rows))),
                orientation="h",
                marker={"color": look.theme.lines[panel], "line": {"width": 0}},
                text=[f"{value:,.4g}" if panel else number(value) for value in values],
                textposition="auto",
                customdata=names,
                hovertemplate=f"<b>%{{customdata}}</b><br>{name} %{{x:,.5~r}}<extra></extra>",
                **on(panel),
            )
        )
    words = Words(
        title="The model without the weights that write it",
        subtitle=f"{model_name(result)}, dim {int(first['dim'])} at position {int(first['position'])}",
        caption=(
            "The coordinate's value and the mean loss when the fewest neurons that carry 95% of it "
            "are set to zero, when only their weights into this dimension are, and when as many "
            "random neurons of the same layers are."
        ),
        finding=_ablation_sentence(rows),
    )
    if not rows:
        layout["annotations"].append(empty("call lp.massive.anatomy(..., ablate=True)", look))
    return build(
        traces, look, words, height=max(300, 150 + 26 * len(rows)), showlegend=False, **layout
    )


def own(frame: pd.DataFrame, first: Any) -> pd.DataFrame:
    """The rows of one coordinate, in the order of the table."""
    return frame.loc[(frame["dim"] == first["dim"]) & (frame["position"] == first["position"])]


def _keys(wide: np.ndarray, keys: list[int]) -> list[int]:
    """The positions that matter most, in their order."""
    best = np.argsort(-np.abs(wide).sum(0), kind="stable")[:KEYS]
    return [keys[index] for index in sorted(best.tolist())]


def _scale(colours: tuple[str, ...]) -> list[list[Any]]:
    return [[index / (len(colours) - 1), colour] for index, colour in enumerate(colours)]


def _name(row: Any) -> str:
    if row.kind == "weight":
        return f"weight of neuron {int(row.neuron)}, layer {int(row.layer)}"
    count = f" ({int(row.count)})" if row.kind != "plain" else ""
    return f"{KINDS[row.kind]}{count}"


def _sources_sentence(frame: Any, first: Any) -> str:
    if frame.empty:
        return "Here no attention layer writes or erases a share of the value that counts."
    top = frame.loc[frame["value"].abs().idxmax()]
    return (
        f"Here head {int(top['layer'])}.{int(top['head'])} brings most, {number(top['value'])} from "
        f"position {int(top['key'])}, to which it pays {top['probability']:.2f} of its attention."
    )


def _ablation_sentence(rows: list[Any]) -> str:
    found = {row.kind: row for row in rows}
    if "weights" not in found:
        return "Here nothing was ablated."
    plain, gone, random = (found[kind] for kind in ("plain", "weights", "random neurons"))
    count = int(gone.count)
    return (
        f"Here zeroing {count} {'weight takes' if count == 1 else 'weights takes'} the value from "
        f"{number(plain.value)} to {number(gone.value)} and the loss from {plain.loss:.3f} to "
        f"{gone.loss:.3f} nats; as many random neurons leave {number(random.value)} and "
        f"{random.loss:.3f}."
    )
