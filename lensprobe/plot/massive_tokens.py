"""Figures of a token study: how the value spreads over first tokens, and what brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite
from .massive_causes import causes, of_dim, upright
from .theme import Look, Words, build, number, style
from .tokens import label, visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..massive import TokenStudy

__all__ = ["VIEWS", "causes", "delimiters", "tokens"]

BINS = 60
RUG = 300
"""Exceptions that are marked one by one; the others are in the table."""
NAMED = 5
MARKS = 40
PLACES = {"first": ("first delimiter", 1), "later": ("later ones", 0), "other": ("other tokens", 5)}
CASES = {False: "alone, at position 0", True: "behind BOS, at position 1"}


def tokens(
    result: TokenStudy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The value for every sampled token, alone and behind BOS, with the tokens that are unlike."""
    look = style(theme, width_mm, title)
    plain = result.causes.iloc[0]
    frame = of_dim(result.tokens, plain)
    values = frame["value"].to_numpy(float)
    known = values[np.isfinite(values)]
    edges = np.histogram_bin_edges([*known, plain["value"]], BINS)
    traces: list[Any] = []
    for case in sorted(set(frame["bos"])):
        part = frame.loc[frame["bos"] == case, "value"].to_numpy(float)
        traces.append(_bars(part[np.isfinite(part)], edges, bool(case), look))
    odd = of_dim(result.exceptions, plain).iloc[:RUG]
    if len(odd):
        traces.append(_rug(odd, look))
    words = Words(
        title=f"Dim {int(plain['dim'])} for every first token",
        subtitle=f"{model_name(result)}, after layer {int(plain['layer'])}, "
        f"{plural(result.provenance['sample'], 'token')} of the vocabulary",
        caption=(
            "How often each value of the coordinate occurs when a token of the vocabulary is the "
            "first one of a sequence, and when it comes behind BOS (on a log axis). The dashed line is "
            "the value in ordinary texts, the dotted one half of it, from which on a token counts as "
            "having it. Marks at the bottom are tokens unlike the others."
        ),
        finding=_finding(result, plain),
    )
    return build(
        traces,
        look,
        words,
        height=420,
        barmode="overlay",
        bargap=0.02,
        shapes=[upright(plain["value"], "dash", look), upright(plain["value"] / 2, "dot", look)],
        xaxis={"title": {"text": "value a (signed)"}, "tickformat": ","},
        yaxis={
            "title": {"text": "tokens (log scale)"},
            "type": "log",
            "dtick": 1,
            "tickformat": ",",
            "range": [-0.5, float(np.log10(max(len(frame), 10))) + 0.1],
        },
        showlegend=True,
    )


def delimiters(
    result: TokenStudy,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The value at the first delimiter of a text, at later ones, and at all other tokens."""
    look = style(theme, width_mm, title)
    plain = result.causes.iloc[0]
    rows: list[Any] = list(of_dim(result.delimiters, plain).itertuples())
    rows.sort(key=lambda row: (list(PLACES).index(row.kind), -abs(row.value)))
    rows = rows[:MARKS]
    names = [label(str(row.token), 14) if row.token else "all others" for row in rows]
    found = dict.fromkeys(row.kind for row in rows)
    traces = [_points(rows, names, kind, look) for kind in found]
    words = Words(
        title="The value at delimiters",
        subtitle=f"{model_name(result)}, dim {int(plain['dim'])} after layer {int(plain['layer'])}",
        caption=(
            "The coordinate at the first delimiter of each text, at later ones, and at all other "
            "tokens behind position 0, with one standard deviation. In some models the first "
            "delimiter carries the massive activation too."
        ),
        finding=_delimiter_finding(rows, plain),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis={
            "title": {"text": "token"},
            "tickmode": "array",
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "showgrid": False,
        },
        yaxis={"title": {"text": "value a (signed)"}, "tickformat": ",", "zeroline": True},
        showlegend=True,
    )


def _points(rows: list[Any], names: list[str], kind: str, look: Look) -> go.Scatter:
    places = [index for index, row in enumerate(rows) if row.kind == kind]
    spread = finite(rows[index].std for index in places)
    name, colour = PLACES[kind]
    return go.Scatter(
        x=places,
        y=finite(rows[index].value for index in places),
        error_y={"type": "data", "array": spread, "thickness": 1},
        name=name,
        mode="markers",
        marker={"size": 8, "color": look.theme.lines[colour]},
        customdata=[[names[index], rows[index].count] for index in places],
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>a = %{y:,.4~r}<br>%{customdata[1]:,} in the texts"
            "<extra></extra>"
        ),
    )


def _bars(values: np.ndarray, edges: np.ndarray, case: bool, look: Look) -> go.Bar:
    counts, _ = np.histogram(values, edges)
    middle = (edges[1:] + edges[:-1]) / 2
    return go.Bar(
        x=finite(middle),
        y=[int(count) if count else None for count in counts],
        width=float(edges[1] - edges[0]),
        name=CASES[case],
        opacity=0.75,
        marker={"color": look.theme.lines[1 if case else 0], "line": {"width": 0}},
        hovertemplate=f"<b>{CASES[case]}</b><br>a ≈ %{{x:,.4~r}}<br>%{{y:,}} tokens<extra></extra>",
    )


def _rug(odd: pd.DataFrame, look: Look) -> go.Scatter:
    pairs = zip(odd["token"], odd["bos"], strict=True)
    hover = [f"<b>{label(str(token))}</b>, {CASES[bool(bos)]}" for token, bos in pairs]
    mark = {"symbol": "line-ns-open", "size": 10, "color": look.theme.ink, "line": {"width": 1.2}}
    return go.Scatter(
        x=finite(odd["value"]),
        y=[0.5] * len(odd),
        name="unlike the others",
        mode="markers",
        marker=mark,
        # The text travels as data, never inside the template: a token may hold %{...}.
        text=hover,
        hovertemplate="%{text}<br>a = %{x:,.4~r}<extra></extra>",
    )


def _finding(result: TokenStudy, plain: Any) -> str:
    groups: list[Any] = list(of_dim(result.groups, plain).itertuples())
    rows = {bool(row.bos): row for row in groups if row.kind == "all"}
    parts = []
    if False in rows:
        alone = rows[False]
        parts.append(
            f"{alone.share:.1%} of {int(alone.count):,} tokens have it as the first one "
            f"({number(alone.value)} ± {number(alone.std)})"
        )
    if True in rows:
        parts.append(f"{rows[True].share:.1%} have it behind BOS")
    odd: list[Any] = list(of_dim(result.exceptions, plain).head(NAMED).itertuples())
    names = ", ".join(visible(str(row.token)) for row in odd)
    more = f"; unlike the others are {names}" if odd else ""
    return f"Here {' and '.join(parts)}{more}."


def _delimiter_finding(rows: list[Any], plain: Any) -> str:
    first = [row for row in rows if row.kind == "first"]
    if not first:
        return "Here the texts hold no delimiter."
    top = max(first, key=lambda row: abs(row.value))
    has = sum(row.count for row in first if row.share >= 0.5)
    return (
        f"Here {has} of {sum(row.count for row in first)} first delimiters have it; the largest value "
        f"is {number(top.value)} at {visible(str(top.token))}, against {number(plain['value'])} at "
        "position 0."
    )


VIEWS = {"tokens": tokens, "causes": causes, "delimiters": delimiters}
