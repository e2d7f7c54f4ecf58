"""Figures of clusters: how often different tokens fool the model, and what similarity predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite, rows_of
from .theme import Words, build, number, style
from .tokens import label, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import Clusters

__all__ = ["VIEWS", "candidates", "success"]

NAMES = {"cluster": "the set, in random orders", "random": "random sets"}


def success(
    result: Clusters,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Share of tokens behind the first that are taken for first tokens, sequence by sequence."""
    look = style(theme, width_mm, title)
    traces: list[Any] = []
    for index, kind in enumerate(NAMES):
        rows = rows_of(result.trials, kind=kind)
        # Equal shares would hide each other: a little to the side, by draw.
        shift = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else [0.0]
        traces.append(
            go.Scatter(
                x=[index + float(s) for s in shift],
                y=finite(rows["success"]),
                mode="markers",
                marker={"size": 9, "color": look.theme.lines[index], "opacity": 0.8},
                text=[label(str(text), 60) for text in rows["text"]],
                customdata=rows[["value", "mass"]].to_numpy(float).tolist(),
                hovertemplate="%{text}<br>%{y:.0%} of the later tokens<br>last value "
                "%{customdata[0]:,.4~g}<br>attention to massive tokens %{customdata[1]:.0%}"
                "<extra></extra>",
            )
        )
    words = Words(
        title="Fooled without a repeat",
        subtitle=f"{model_name(result)}, {result.provenance['length']} different tokens",
        caption=(
            "Share of the tokens behind the first that get a first token's massive value, one point a "
            "sequence in which no token occurs twice: the set that was found, in random orders, and "
            "sets drawn at random."
        ),
        finding=_finding(result),
    )
    xaxis = {
        "tickvals": [0, 1],
        "ticktext": list(NAMES.values()),
        "range": [-0.6, 1.6],
        "showgrid": False,
        "title": {"text": "sequences"},
    }
    yaxis = {
        "title": {"text": "tokens taken for first ones"},
        "tickformat": ".0%",
        "range": [-0.05, 1.05],
    }
    return build(traces, look, words, height=400, showlegend=False, xaxis=xaxis, yaxis=yaxis)


def candidates(
    result: Clusters,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Each candidate behind the word: its massive value against its similarity to the word."""
    look = style(theme, width_mm, title)
    word = visible(str(result.provenance["word"]))
    traces = []
    for index, kind in enumerate(("similar", "random")):
        rows = rows_of(result.candidates, kind=kind)
        traces.append(
            go.Scatter(
                x=finite(rows["similarity"]),
                y=[max(float(share), 1e-4) for share in rows["share"]],
                name=kind,
                mode="markers",
                marker={
                    "size": 6,
                    "color": look.theme.lines[index],
                    "symbol": ("circle", "diamond")[index],
                },
                text=[label(str(token)) for token in rows["token"]],
                hovertemplate="<b>%{text}</b><br>similarity %{x:.2f}<br>share %{y:.3g}<extra></extra>",
            )
        )
    words = Words(
        title=f"What similarity to {word} predicts",
        subtitle=f"{model_name(result)}, candidates read behind the word",
        caption=(
            f"Massive value of each candidate behind {word}, as a share of a first token's, against "
            "the cosine between what the early layer's attention adds to the two alone."
        ),
        finding=_predicts(result),
    )
    xaxis = {"title": {"text": "similarity to the word"}}
    yaxis = {
        "title": {"text": "share of a first token's value (log scale)"},
        "type": "log",
        "dtick": 1,
    }
    return build(traces, look, words, height=420, showlegend=True, xaxis=xaxis, yaxis=yaxis)


def _finding(result: Clusters) -> str:
    members = ", ".join(visible(str(token)) for token in result.members["token"])
    return (
        f"Here {members} fool the model at {result.success():.0%} of the tokens behind the first; "
        f"random sets at {result.success('random'):.0%}."
    )


def _predicts(result: Clusters) -> str:
    least = float(result.provenance["ratio"])
    parts = []
    for kind in ("similar", "random"):
        rows = rows_of(result.candidates, kind=kind)
        parts.append(f"{int((rows['share'] >= least).sum())} of {len(rows)} {kind} ones")
    top = float(result.candidates["share"].max())
    return f"Here {' and '.join(parts)} fool the model; the highest share is {number(top)}."


VIEWS = {"success": success, "candidates": candidates}
