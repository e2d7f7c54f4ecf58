"""Figures of how a vector settles with more pairs: cosines of halves, and the spread of the effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .steering_parts import band, rgba
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..steering import Stability

__all__ = ["VIEWS", "cosine", "effect"]

EFFECTS = {
    "log_odds": "change in log-odds of the matching answer (nats)",
    "kl": "KL from plain (nats)",
}


def cosine(
    found: Stability,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Cosine of vectors from disjoint halves against the number of pairs, with what theory predicts."""
    look = style(theme, width_mm, title)
    rows = rows_of(found.curve, measure="cosine").sort_values(by=["n"])
    hover = "<b>%{x} pairs</b><br>mean cosine %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    traces: list[Any] = [
        _points(rows_of(found.draws, measure="cosine"), look.theme.lines[0]),
        *band(rows, "n", "two halves", look.theme.lines[0], hover=hover),
        _predicted(found, rows, look),
    ]
    last = rows.iloc[-1]
    words = Words(
        title="Does a vector settle with more pairs?",
        subtitle=_subtitle(found),
        caption=(
            "The cosine between two mean-difference vectors made of n pairs each, with no pair in "
            "common. Points are random halves; the line is their mean and the band holds 95% of them. "
            "Dashed: signal / (signal + noise / n), from the size of the mean difference and the "
            "variance of single pairs. Points near both 1 and −1 mean that pairs differ mostly "
            "along one direction, with either sign."
        ),
        finding=(
            f"Here vectors of {int(last['n'])} pairs have a mean cosine of {number(last['value'])}; "
            f"a pair's noise is {number(found.noise / found.signal) if found.signal else 'infinitely'} "
            f"times the signal, spread over {number(found.dimensions)} directions."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=430,
        showlegend=True,
        xaxis=_pairs_axis(rows),
        yaxis={"title": {"text": "cosine of two vectors"}, "range": [-1.05, 1.05]},
    )


def effect(
    found: Stability,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The effect of vectors of n pairs, all of one length, and how far it is spread.

    Raises:
        ArgumentError: only cosines were asked for.
    """
    look = style(theme, width_mm, title)
    known = [name for name in found.curve["measure"].unique() if name in EFFECTS]
    if not known:
        raise ArgumentError('no effects were measured; ask for them with measure="all".')
    measure = str(known[0])
    rows = rows_of(found.curve, measure=measure).sort_values(by=["n"])
    colour = look.theme.lines[1]
    hover = "<b>%{x} pairs</b><br>mean %{y:.3~g} [%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]"
    traces: list[Any] = [
        _points(rows_of(found.draws, measure=measure), colour),
        *band(rows, "n", "vectors of n pairs", colour, hover=hover),
        go.Scatter(
            x=finite([rows["n"].min(), rows["n"].max()]),
            y=[0.0, 0.0],
            mode="lines",
            name="unsteered",
            line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
            hovertemplate="unsteered<extra></extra>",
        ),
    ]
    first, last = rows.iloc[0], rows.iloc[-1]
    words = Words(
        title="Does the effect settle with more pairs?",
        subtitle=_subtitle(found),
        caption=(
            f"The {EFFECTS[measure]} when a vector of n pairs, drawn with replacement, is added, all "
            "vectors as long as the one of all pairs. Points are draws; the line is their mean and "
            "the band holds 95% of them."
        ),
        finding=(
            f"Here the standard deviation over draws is {number(float(first['std']))} with "
            f"{plural(first['n'], 'pair')} and {number(float(last['std']))} with {int(last['n'])}."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=430,
        showlegend=True,
        xaxis=_pairs_axis(rows),
        yaxis={"title": {"text": EFFECTS[measure]}},
    )


def _points(rows: pd.DataFrame, colour: str) -> go.Scatter:
    """Every draw, moved sideways a little so that points do not hide each other."""
    nudge = np.exp(np.random.default_rng(0).uniform(-0.06, 0.06, len(rows)))
    return go.Scatter(
        x=(rows["n"].to_numpy(dtype=float) * nudge).tolist(),
        y=finite(rows["value"]),
        mode="markers",
        name="draws",
        marker={"size": 5, "color": rgba(colour, 0.8)},
        customdata=[int(n) for n in rows["n"]],
        hovertemplate="%{customdata} pairs<br>%{y:.3~g}<extra></extra>",
    )


def _predicted(found: Stability, rows: pd.DataFrame, look: Look) -> go.Scatter:
    n = np.geomspace(float(rows["n"].min()), float(rows["n"].max()), 40)
    with np.errstate(invalid="ignore"):
        values = found.signal / (found.signal + found.noise / n)
    return go.Scatter(
        x=n.tolist(),
        y=finite(values),
        mode="lines",
        name="predicted",
        line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
        hovertemplate="predicted %{y:.3f}<extra></extra>",
    )


def _pairs_axis(rows: pd.DataFrame) -> dict[str, Any]:
    ticks = [int(n) for n in rows["n"]]
    return {
        "title": {"text": "pairs (log scale)"},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{n:,}" for n in ticks],
    }


def _subtitle(found: Stability) -> str:
    layer = found.provenance["layer"]
    return f"{model_name(found)}, layer {layer}, drawn from {plural(found.pairs, 'pair')}"


VIEWS = {"cosine": cosine, "effect": effect}
