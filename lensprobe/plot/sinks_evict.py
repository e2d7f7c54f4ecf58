"""Figures of a cache with little room: perplexity with the first keys in it and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, rows_of
from .lines import empty
from .theme import Look, Words, build, number, style
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..sinks import Evict

__all__ = ["VIEWS", "curve", "perplexity", "sinks"]

KINDS = ("evicted", "masked")
NAMES = {"evicted": "the cache keeps them, everything else slides", "masked": "never visible"}
STEPS = 32
"""Points of a curve between one full window and the end."""


def perplexity(
    result: Evict,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Perplexity behind a full cache by how many first keys it keeps, beside masking them."""
    look = style(theme, width_mm, title)
    words = Words(
        title="Streaming with and without the first keys",
        subtitle=f"{model_name(result)}, cache of {_window(result)} keys",
        caption=(
            f"Perplexity of the tokens predicted once a cache of {_window(result)} keys is full, "
            "by how many of the first keys stay in it (the latest fill the rest), and with as many "
            "first keys masked for everyone from the start. Dashed: every key stays. Bars are 95% "
            "intervals of the change, over documents."
        ),
        finding=_finding(result),
    )
    axis: dict[str, Any] = {"title": {"text": "perplexity (log scale)"}, "type": "log"}
    # Decades hold too few of these values for their own ticks.
    return _by_keep(result, "perplexity", look, words, {**axis, "tickformat": ",", "nticks": 8})


def sinks(
    result: Evict,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Share of heads that rest on the oldest key they see, by how many first keys the cache keeps."""
    look = style(theme, width_mm, title)
    epsilon = float(result.provenance["epsilon"])
    words = Words(
        title="Does the oldest visible key take the sink over?",
        subtitle=f"{model_name(result)}, attention above ε = {epsilon:g}",
        caption=(
            "Sink rate on the oldest key that a query sees: the first token while it is there; "
            "without it, the key that slides out next; with masked first keys, the first one that is "
            "visible. Dashed: every key stays. Bars are 95% intervals of the change."
        ),
        finding=_moved(result),
    )
    axis = {"title": {"text": "sink rate on the oldest key"}, "tickformat": ".0%", "range": [0, 1]}
    return _by_keep(result, "sink_rate", look, words, axis)


def curve(
    result: Evict,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Loss along the sequence: where the first key leaves, the runs part."""
    look = style(theme, width_mm, title)
    frame, window = result.curve, _window(result)
    width = max(1, int(frame["position"].max() + 1 - window) // STEPS)
    keeps = sorted(set(rows_of(frame, kind="evicted")["keep"]))
    drawn = [("plain", 0), *(("evicted", keep) for keep in keeps)]
    traces: list[Any] = []
    for index, (kind, keep) in enumerate(drawn):
        rows = _binned(rows_of(frame, kind=kind, keep=keep), window, width)
        plain = kind == "plain"
        name = "every key stays" if plain else f"first {keep} kept" if keep else "none kept"
        colour = look.theme.muted if plain else look.theme.lines[(index - 1) % 6]
        traces.append(
            go.Scatter(
                x=finite(rows["position"]),
                y=finite(rows["loss"]),
                name=name,
                mode="lines",
                line={"color": colour, "width": 2, "dash": "dash" if plain else "solid"},
                hovertemplate=f"<b>{name}</b><br>tokens %{{x:.0f}} and on<br>loss %{{y:.3f}}"
                "<extra></extra>",
            )
        )
    words = Words(
        title="Loss when the first key leaves the cache",
        subtitle=f"{model_name(result)}, cache of {window} keys, means of {plural(width, 'token')}",
        caption=(
            "Loss of the next token by the position of the query. Left of the upright line the cache "
            "still holds every key and the runs are one; from there on the first keys are gone where "
            "none are kept."
        ),
        finding=_finding(result),
    )
    line = {"color": look.theme.muted, "width": 1.2, "dash": "dot"}
    upright = {"type": "line", "xref": "x", "yref": "paper", "x0": window, "x1": window}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        shapes=[{**upright, "y0": 0, "y1": 1, "line": line, "layer": "below"}],
        xaxis={"title": {"text": "position of the query"}},
        yaxis={"title": {"text": "loss (nats a token)"}, "rangemode": "normal"},
    )


def _by_keep(
    result: Evict, measure: str, look: Look, words: Words, yaxis: dict[str, Any]
) -> go.Figure:
    frame = rows_of(result.effects, measure=measure)
    plain = _plain(frame)
    keeps = sorted(int(keep) for keep in set(frame["keep"]))
    places = {keep: place for place, keep in enumerate(keeps)}
    traces: list[Any] = []
    for index, kind in enumerate(KINDS):
        rows = rows_of(frame, kind=kind).sort_values(by=["keep"])
        if rows.empty:
            continue
        colour = look.theme.lines[index]
        ends = plain + rows[["change_low", "change_high"]].to_numpy(float)
        value = rows["value"].to_numpy()
        traces.append(
            go.Scatter(
                x=[places[int(keep)] for keep in rows["keep"]],
                y=finite(value),
                name=f"{kind}: {NAMES[kind]}",
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": ("solid", "dot")[index]},
                marker={"size": 8, "symbol": ("circle", "diamond")[index]},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": np.nan_to_num(ends[:, 1] - value).tolist(),
                    "arrayminus": np.nan_to_num(value - ends[:, 0]).tolist(),
                    "thickness": 1.2,
                    "width": 4,
                },
                customdata=np.nan_to_num(ends).tolist(),
                text=[f"{kind} {int(keep)}" for keep in rows["keep"]],
                hovertemplate="<b>%{text}</b><br>%{y:.4~g} [%{customdata[0]:.4~g}, "
                "%{customdata[1]:.4~g}]<extra></extra>",
            )
        )
    line = {"color": look.theme.muted, "width": 1.5, "dash": "dash"}
    level = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": plain}
    return build(
        traces,
        look,
        words,
        height=420,
        showlegend=True,
        annotations=[] if traces else [empty("nothing was measured", look)],
        shapes=[{**level, "y1": plain, "line": line, "layer": "below"}],
        # 0, 1, 2, 4, 8: evenly spaced, because the step from none to one is what matters.
        xaxis={
            "title": {"text": "first keys kept, or masked"},
            "tickmode": "array",
            "tickvals": list(places.values()),
            "ticktext": [str(keep) for keep in keeps],
            "range": [-0.4, len(keeps) - 0.6],
        },
        yaxis=yaxis,
    )


def _window(result: Evict) -> int:
    return int(result.provenance["window"])


def _binned(rows: pd.DataFrame, window: int, width: int) -> pd.DataFrame:
    """Means over `width` tokens, with an edge where the cache is full.

    Without query 0, whose loss after a lone BOS would set the scale.
    """
    numbers = rows.sort_values(by=["position"])[["position", "loss", "count"]].to_numpy(float)
    position, loss, count = numbers[1:].T
    place = (position - window) // width
    names, index = np.unique(place, return_inverse=True)
    mean = np.bincount(index, loss * count) / np.bincount(index, count)
    return pd.DataFrame({"position": np.maximum(names * width + window, 0), "loss": mean})


def _finding(result: Evict) -> str:
    rows = rows_of(result.effects, measure="perplexity").sort_values(by=["keep"])
    plain = number(_plain(rows))
    evicted: list[Any] = list(rows_of(rows, kind="evicted").itertuples())
    parts = [
        f"{number(float(row.value))} with {plural(row.keep, 'first key')} kept" for row in evicted
    ]
    masked: list[Any] = list(rows_of(rows, kind="masked").itertuples())
    more = ""
    if masked:
        more = (
            f"; with {plural(masked[0].keep, 'first key')} masked from the start it is "
            f"{number(masked[0].value)}"
        )
    return f"Here perplexity is {plain} with every key, {', '.join(parts)}{more}."


def _plain(rows: pd.DataFrame) -> float:
    (value,) = rows_of(rows, kind="plain")["value"]
    return float(value)


def _moved(result: Evict) -> str:
    rows = rows_of(result.effects, measure="sink_rate").sort_values(by=["keep"])
    if rows.empty:
        return "Here no attention was finite."
    words = [f"{_plain(rows):.0%} of the heads rest on the first token"]
    gone, masked = rows_of(rows, kind="evicted", keep=0), rows_of(rows, kind="masked")
    if len(gone):
        words.append(
            f"{float(gone.iloc[0]['value']):.0%} on the oldest key once it has been evicted"
        )
    if len(masked):
        row = masked.sort_values(by=["keep"]).iloc[0]
        words.append(
            f"{float(row['value']):.0%} on the next token where {int(row['keep'])} is masked from "
            "the start"
        )
    return f"Here {', '.join(words)}."


VIEWS = {"perplexity": perplexity, "sinks": sinks, "curve": curve}
