"""What the figures of steering comparisons are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite, rows_of
from .facets import facets, on
from .theme import Look, Words, build, colour_bar, number
from .tokens import escape, label, visible
from .wording import plural

__all__ = [
    "band",
    "chosen_text",
    "effect_panels",
    "level",
    "rgba",
    "side_by_side",
    "steered_rows",
    "texts_of",
    "token_grid",
]

PANELS = {
    "kl": "KL from plain (nats)",
    "loss_change": "change in loss (nats a token)",
    "perplexity": "perplexity under the plain model",
}
"""Measures of a comparison, as axes name them."""


def rgba(colour: str, opacity: float) -> str:
    """A hex colour with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


def band(
    rows: pd.DataFrame,
    x: str,
    name: str,
    colour: str,
    *,
    hover: str,
    dash: str = "solid",
    panel: int = 0,
    legend: bool = True,
) -> list[go.Scatter]:
    """A line of `value` with the band of `low` and `high` around it.

    Args:
        hover: what one point says; `%{customdata[0]}` and `[1]` are the ends.
    """
    shared = {"x": finite(rows[x]), "legendgroup": name, **on(panel)}
    clear = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    ends = rows[["low", "high"]].to_numpy(dtype=float)
    return [
        go.Scatter(y=finite(rows["high"]), **shared, **clear),
        go.Scatter(
            y=finite(rows["low"]), fill="tonexty", fillcolor=rgba(colour, 0.15), **shared, **clear
        ),
        go.Scatter(
            y=finite(rows["value"]),
            name=escape(name),
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 5, "color": colour},
            showlegend=legend,
            customdata=[finite(pair) for pair in ends],
            hovertemplate=hover + "<extra></extra>",
            **shared,
        ),
    ]


def level(
    ends: Sequence[float], value: float, name: str, look: Look, *, panel: int = 0
) -> go.Scatter:
    """A dashed line across a panel, named in the legend once."""
    return go.Scatter(
        x=[ends[0], ends[-1]],
        y=[value, value],
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=panel == 0,
        line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
        hovertemplate=f"{name} {number(value)}<extra></extra>",
        **on(panel),
    )


def steered_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of all conditions but the unsteered model's."""
    return cast(pd.DataFrame, frame[frame["condition"] != "plain"])


def effect_panels(frame: pd.DataFrame, look: Look, words: Words) -> go.Figure:
    """Every condition's value and interval, a panel a measure, with the unsteered line in each.

    Args:
        frame: condition, scale, measure, value, low, high; `plain` is the unsteered model.
    """
    shown = ("kl", "loss_change", "perplexity")
    steered = steered_rows(frame)
    names = list(dict.fromkeys(steered["condition"]))[::-1]
    traces: list[Any] = []
    layout = facets([""] * len(shown), look, {"zeroline": False}, {})
    for panel, measure in enumerate(shown):
        rows = rows_of(steered, measure=measure).set_index("condition").loc[names].reset_index()
        plain = rows_of(frame, condition="plain", measure=measure)["value"].iloc[0]
        traces += [
            _dots(rows, look, panel),
            go.Scatter(
                x=[float(plain)] * 2,
                y=[-0.5, len(names) - 0.5],
                mode="lines",
                name="unsteered",
                legendgroup="unsteered",
                showlegend=panel == 0,
                line={"color": look.theme.muted, "width": 1.5, "dash": "dash"},
                hovertemplate=f"unsteered {number(float(plain))}<extra></extra>",
                **on(panel),
            ),
        ]
        tail = "" if panel == 0 else str(panel + 1)
        layout[f"xaxis{tail}"] |= {"title": {"text": PANELS[measure]}, "nticks": 5}
    layout["yaxis"] |= {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(name) for name in names],
        "range": [-0.5, len(names) - 0.5],
        "title": {"text": "condition"},
    }
    layout |= {"annotations": [], "margin": {"t": 76, "l": 64, "r": 24, "b": 86}}
    return build(traces, look, words, height=190 + 34 * len(names), showlegend=True, **layout)


def _dots(rows: pd.DataFrame, look: Look, panel: int) -> go.Scatter:
    above, below = rows["high"] - rows["value"], rows["value"] - rows["low"]
    spread = {"type": "data", "array": finite(above), "arrayminus": finite(below)}
    lines = look.theme.lines
    # Rows stand from the bottom up; the first condition has the first colour here as in other views.
    colours = [lines[i % len(lines)] for i in reversed(range(len(rows)))]
    return go.Scatter(
        x=finite(rows["value"]),
        y=list(range(len(rows))),
        mode="markers",
        showlegend=False,
        marker={"size": 9, "color": colours},
        error_x={
            **spread,
            "symmetric": False,
            "thickness": 1.5,
            "width": 4,
            "color": look.theme.muted,
        },
        text=[escape(str(name)) for name in rows["condition"]],
        customdata=[finite(row) for row in rows[["low", "high", "scale"]].to_numpy(dtype=float)],
        hovertemplate=(
            "<b>%{text}</b>, scale %{customdata[2]:.4~g}<br>%{x:.4~g} "
            "[%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]<extra></extra>"
        ),
        **on(panel),
    )


def side_by_side(
    texts: pd.DataFrame, look: Look, words: Words, columns: dict[str, str]
) -> go.Figure:
    """A table of one prompt's completions.

    Args:
        texts: rows in the order they are shown.
        columns: column of `texts` → its heading; numbers are rounded.
    """
    cells = [
        [number(v) if isinstance(v, float) else _prose(str(v)) for v in texts[name]]
        for name in columns
    ]
    theme = look.theme
    wide = [4.0 if name == "completion" else 1.0 for name in columns]
    table = go.Table(
        columnwidth=wide,
        header={
            "values": [f"<b>{escape(heading)}</b>" for heading in columns.values()],
            "align": "left",
            "fill": {"color": theme.grid},
            "line": {"color": theme.grid},
            "font": {"color": theme.ink, "size": theme.size - 1},
        },
        cells={
            "values": cells,
            "align": "left",
            "fill": {"color": theme.surface},
            "line": {"color": theme.grid},
            "font": {"color": theme.ink, "size": theme.size - 1},
            "height": 26,
        },
    )
    lines = sum(1 + len(str(text)) // 85 for text in texts["completion"])
    return build([table], look, words, height=170 + 13 * len(texts) + 18 * lines)


def _prose(text: str) -> str:
    """Text with its line breaks and control characters shown, its spaces left as they are."""
    return escape("".join(c if c == " " else visible(c) for c in text)) or "∅"


def token_grid(
    rows: Sequence[tuple[str, Sequence[str], Sequence[float | None]]],
    look: Look,
    words: Words,
    *,
    bar: str,
    axis: str,
    marks: Sequence[tuple[float, str]] = (),
) -> go.Figure:
    """Tokens in rows, coloured by a value that is 0 or more.

    Args:
        rows: for each row its name, its tokens and their values; rows may differ in length.
        bar: title of the colour bar.
        axis: title of the x axis.
        marks: step → what parts there, drawn as a line before that step.
    """
    wide = max((len(tokens) for _, tokens, _ in rows), default=0)
    grid = [[*finite(values), *[None] * (wide - len(values))] for _, _, values in rows]
    texts = [
        [*(label(t, 8) for t in tokens), *[""] * (wide - len(tokens))] for _, tokens, _ in rows
    ]
    known = [value for row in grid for value in row if value is not None]
    theme = look.theme
    trace = go.Heatmap(
        x=list(range(wide)),
        y=list(range(len(rows)))[::-1],
        z=grid,
        zmin=0.0,
        zmax=max(known, default=1.0) or 1.0,
        colorscale=list(theme.cells),
        text=texts,
        texttemplate="%{text}",
        textfont={"size": theme.size - 3, "color": theme.ink},
        xgap=1,
        ygap=3,
        colorbar=colour_bar(bar, theme),
        hovertemplate="<b>%{text}</b><br>%{z:.3~g} nats<extra></extra>",
    )
    words.extra["min_width"] = 160 + 44 * wide
    names = [escape(name) for name, _, _ in rows]
    return build(
        [trace],
        look,
        words,
        height=190 + 44 * len(rows),
        xaxis={"title": {"text": axis}, "showgrid": False, "dtick": 1 if wide <= 30 else 5},
        yaxis={
            "tickvals": list(range(len(rows)))[::-1],
            "ticktext": names,
            "showgrid": False,
            "title": {"text": "completion"},
            "range": [-0.5, len(rows) - 0.2],
        },
        **_marked(marks, len(rows) - 0.5, look),
    )


def _marked(marks: Sequence[tuple[float, str]], top: float, look: Look) -> dict[str, Any]:
    """Layout fields of a named line before each marked step."""
    colour = look.theme.lines[1]
    line = {"color": colour, "width": 2}
    ends = {"y0": -0.5, "y1": top, "line": line}
    above = {"y": top, "yanchor": "bottom", "xanchor": "left", "font": {"color": colour}}
    return {
        "shapes": [{"type": "line", "x0": x - 0.5, "x1": x - 0.5, **ends} for x, _ in marks],
        "annotations": [
            {"x": x - 0.5, "text": escape(text), "showarrow": False, **above} for x, text in marks
        ],
    }


def chosen_text(frame: pd.DataFrame, text: int) -> pd.DataFrame:
    """The rows of one text.

    Raises:
        ArgumentError: the result has no such text.
    """
    known = sorted(int(one) for one in frame["text"].unique())
    if text not in known:
        raise ArgumentError(f"text={text!r}: this result has the texts {known[0]} to {known[-1]}.")
    return rows_of(frame, text=text)


def texts_of(result: Any) -> str:
    """How many prompts a comparison was made on."""
    return plural(result.provenance.get("texts"), "prompt")
