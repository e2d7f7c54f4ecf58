"""Figures of a head's score to a sink: which parts of query and key make it, and which dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .axes import finite
from .theme import Look, Words, build, colour_bar, number, style
from .tokens import escape, label, visible
from .wording import model_name

if TYPE_CHECKING:
    from ..sinks import SinkScores

__all__ = ["VIEWS", "dims", "parts", "queries"]

BARS = 16


def _subtitle(result: SinkScores) -> str:
    facts = result.provenance
    where = f"position {facts['position']} ({visible(str(facts['token']))})"
    return f"{model_name(result)}, layer {facts['layer']}, head {facts['head']}, key at {where}"


def parts(
    result: SinkScores,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Which part of the query meets which part of the key, as the lift over the other keys."""
    look = style(theme, width_mm, title)
    frame = result.parts
    wide = frame.assign(lift=frame["value"] - frame["others"]).pivot_table(
        index="query_part", columns="key_part", values="lift", sort=False
    )
    # What rounding left is no part of the story.
    seen = [part for part in wide.columns if part != "rest" or abs(wide).loc[part].max() > 1e-3]
    wide = wide.loc[seen, seen]
    table = wide.to_numpy(float)
    limit = float(np.abs(table).max()) or 1.0
    trace = go.Heatmap(
        x=list(wide.columns),
        y=list(wide.index),
        z=[finite(row) for row in table],
        zmin=-limit,
        zmax=limit,
        xgap=1,
        ygap=1,
        colorscale=list(look.theme.diverging),
        text=[[number(float(cell)) for cell in row] for row in table],
        texttemplate="%{text}",
        colorbar=colour_bar("lift of the score", look.theme),
        hovertemplate="query's %{y} with key's %{x}<br>%{z:+.3f}<extra></extra>",
    )
    row, column = np.unravel_index(int(np.abs(table).argmax()), table.shape)
    words = Words(
        title="What lifts the score to the sink",
        subtitle=_subtitle(result),
        caption=(
            "The score to this key less the mean score to the other keys, as a sum over pairs: a part "
            "of the query with a part of the key. Bias is the head's own; token and position are the "
            "embeddings; attention and mlp are all layers below. The cells sum to the whole lift."
        ),
        finding=(
            f"Here the key's score is {number(result.score)}, the other keys' "
            f"{number(float(result.queries['others'].mean()))}; most of the lift is the query's "
            f"{wide.index[row]} with the key's {wide.columns[column]} ({table[row, column]:+.2f})."
        ),
    )
    return build(
        [trace],
        look,
        words,
        height=200 + 46 * len(wide),
        xaxis={"title": {"text": "part of the key"}, "showgrid": False},
        yaxis={"title": {"text": "part of the query"}, "autorange": "reversed", "showgrid": False},
    )


def dims(
    result: SinkScores,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Which dimensions of the residual stream lift the score: those that the key is made from."""
    look = style(theme, width_mm, title)
    frame = result.dims
    lift = (frame["value"] - frame["others"]).to_numpy(float)
    massive = (frame["kind"] == "massive").to_numpy()
    order = np.argsort(-np.abs(lift), kind="stable")
    top, rest = order[:BARS], order[BARS:]
    names = [f"dim {int(d)}{' (massive)' if massive[d] else ''}" for d in top]
    values = [float(v) for v in lift[top]]
    if len(rest):
        names.append(f"the other {len(rest):,}")
        values.append(float(lift[rest].sum()))
    colours = [_colour(look, massive[d]) for d in top] + [look.theme.lines[5]] * bool(len(rest))
    whole = float(lift.sum())
    words = Words(
        title="Which dimensions of the key's input lift the score",
        subtitle=_subtitle(result),
        caption=(
            "The contribution of each dimension of the residual stream, through the norm and W_K, to "
            "the score less the other keys'. Orange bars are dimensions that are massive there."
        ),
        finding=(
            f"Here massive dimensions make {number(float(lift[massive].sum()))} of the "
            f"{number(whole)} that all dimensions lift the score by."
        ),
    )
    return build(
        [
            go.Bar(
                x=finite(values),
                y=list(range(len(values))),
                orientation="h",
                marker={"color": colours},
                text=[number(v) for v in values],
                textposition="outside",
                cliponaxis=False,
                customdata=names,
                hovertemplate="<b>%{customdata}</b><br>%{x:+.3f}<extra></extra>",
            )
        ],
        look,
        words,
        height=140 + 22 * len(values),
        xaxis={"title": {"text": "lift of the score"}, "zeroline": True, **_room(values)},
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(values))),
            "ticktext": names,
            "title": {"text": "dimension of the key's input"},
            "autorange": "reversed",
            "showgrid": False,
        },
        showlegend=False,
    )


def _colour(look: Look, massive: Any) -> str:
    return look.theme.lines[1 if massive else 0]


def _room(values: list[float]) -> dict[str, Any]:
    """A range with room for the numbers beside the bars."""
    low, high = min([0.0, *values]), max([0.0, *values])
    pad = 0.15 * ((high - low) or 1.0)
    return {"range": [low - pad, high + pad]}


def queries(
    result: SinkScores,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The score of each query to the sink: content, rotary turn, and the other keys' mean."""
    look = style(theme, width_mm, title)
    frame = result.queries
    x = [int(q) for q in frame["query"]]
    named = {
        "content": "as if nothing were turned",
        "value": "score to the sink",
        "others": "mean score to other keys",
    }
    if not frame["turn"].any():
        del named["content"]
    traces = [
        go.Scatter(
            x=x,
            y=finite(frame[column]),
            name=name,
            mode="lines+markers",
            line={
                "color": look.theme.lines[index],
                "width": 2,
                "dash": ("dot", "solid", "dash")[index + 3 - len(named)],
            },
            marker={"size": 5},
            text=[label(str(token)) for token in frame["token"]],
            hovertemplate=f"<b>%{{text}}</b> at %{{x}}<br>{escape(name)}: %{{y:.2f}}<extra></extra>",
        )
        for index, (column, name) in enumerate(named.items())
    ]
    words = Words(
        title="The score of every query to the sink",
        subtitle=_subtitle(result),
        caption=(
            "Scores before the softmax. The gap between the score to the sink and the mean score to "
            "the other keys is what the softmax sees; the dotted line, in rotary models, is the "
            "score if queries and keys were not turned by their positions."
        ),
        finding=(
            f"Here the score is {number(result.score)} in the mean, "
            f"{number(float(frame['others'].mean()))} to other keys, and the sink gets "
            f"{frame['probability'].mean():.0%} of the attention; turning changes it by "
            f"{number(float(frame['turn'].mean()))}."
        ),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis={"title": {"text": "position of the query"}},
        yaxis={"title": {"text": "score"}},
        showlegend=True,
    )


VIEWS = {"parts": parts, "dims": dims, "queries": queries}
