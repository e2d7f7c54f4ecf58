"""Figures of repeated tokens: what each copy gets, and where attention goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite
from .facets import facets, on
from .theme import Look, Words, build, style
from .tokens import label
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import Repeats

__all__ = ["VIEWS", "attention", "copies"]

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SHOWN = 12
"""Words that are drawn; the table has all."""


def copies(
    result: Repeats,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The last copy's massive value against a first token's, by the number of copies."""
    look = style(theme, width_mm, title)
    ratio = float(result.provenance["ratio"])
    words = Words(
        title="Copies taken for first tokens",
        subtitle=f"{model_name(result)}, {result.provenance['position_kind']} positions",
        caption=(
            "Massive value of the last of several copies, as a share of a first token's, by the number "
            f"of copies. Above the dotted line (at {ratio:g}) the model treats it like a first token."
            f"{_thinned(result)}"
        ),
        finding=_finding(result),
    )
    yaxis = {"title": {"text": "share of a first token's value"}, "rangemode": "tozero"}
    figure = _by_count(result, "share", look, words, yaxis)
    line = {"color": look.theme.muted, "width": 1.2, "dash": "dot"}
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": ratio, "y1": ratio}
    figure.update_layout(shapes=[{**level, "line": line, "layer": "below"}])
    return figure


def attention(
    result: Repeats,
    *,
    measure: str = "sink_rate",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Where attention rests as copies grow in number.

    Args:
        result: repeated tokens.
        measure: "sink_rate" of key 0, or "mass", the attention to all tokens with a massive value.
    """
    look = style(theme, width_mm, title)
    names = {"sink_rate": "sink rate of key 0", "mass": "attention to massive tokens"}
    if measure not in names:
        raise ArgumentError(f'measure={measure!r}: "sink_rate" or "mass".')
    words = Words(
        title="A sink that disperses over the copies"
        if measure == "sink_rate"
        else "All attention to massive tokens",
        subtitle=f"{model_name(result)}, attention above ε = {result.provenance['epsilon']:g}",
        caption=(
            f"{names[measure].capitalize()} by the number of copies. A sink rate that falls while the "
            "attention to massive tokens stays is a sink that is shared out, not lost. In a few tokens "
            "every key gets much attention."
            f"{_thinned(result)}"
        ),
        finding=_finding(result),
    )
    yaxis = {"title": {"text": names[measure]}, "tickformat": ".0%", "range": [-0.03, 1.05]}
    return _by_count(result, measure, look, words, yaxis)


def _by_count(
    result: Repeats, measure: str, look: Look, words: Words, yaxis: dict[str, Any]
) -> go.Figure:
    fronts = sorted(set(result.copies["bos"]))
    names = ["BOS in front" if front else "nothing in front" for front in fronts]
    traces: list[Any] = []
    for panel, front in enumerate(fronts):
        ids = list(dict.fromkeys(result.copies["id"]))[:SHOWN]
        for index, word in enumerate(ids):
            own = (result.copies["id"] == word) & (result.copies["bos"] == front)
            rows = result.copies.loc[own].sort_values(by=["count"])
            name = label(str(rows["token"].iloc[0]))
            colour = look.theme.lines[index % len(look.theme.lines)]
            traces.append(
                go.Scatter(
                    x=rows["count"].tolist(),
                    y=finite(rows[measure]),
                    name=name,
                    legendgroup=str(word),
                    showlegend=panel == 0,
                    mode="lines+markers",
                    marker={"size": 6},
                    line={
                        "color": colour,
                        "width": 2,
                        "dash": DASHES[index // len(look.theme.lines)],
                    },
                    # As data: inside the template a token such as "%{x}" would be filled in.
                    text=[name] * len(rows),
                    hovertemplate="<b>%{text}</b> × %{x}<br>%{y:.3f}<extra></extra>",
                    **on(panel),
                )
            )
    counts = sorted({int(count) for count in result.copies["count"]})
    xaxis = {
        "title": {"text": "copies (log scale)"},
        "type": "log",
        "tickvals": counts,
        "ticktext": [str(count) for count in counts],
    }
    layout = facets(names, look, xaxis, yaxis)
    return build(traces, look, words, height=430, showlegend=True, **layout)


def _thinned(result: Repeats) -> str:
    count = int(result.words["id"].nunique())
    return f" The first {SHOWN} of {count} words are drawn." if count > SHOWN else ""


def _finding(result: Repeats) -> str:
    count = int(result.words["id"].nunique())
    most = int(result.copies["count"].max())
    parts = []
    for front, words in ((False, "with nothing in front"), (True, "behind BOS")):
        if (result.words["bos"] == front).any():
            parts.append(f"{len(result.fooled(bos=front))} of {count} words {words}")
    return f"Here the last of {most} copies is taken for a first token for {' and '.join(parts)}."


VIEWS = {"copies": copies, "attention": attention}
