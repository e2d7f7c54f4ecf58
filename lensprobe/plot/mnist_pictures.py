"""What a network answers to each shown digit under an addition, and what the vector is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError
from .axes import finite
from .facets import facets, on
from .steering_parts import rgba
from .theme import Look, Words, build, number, style
from .wording import model_name

if TYPE_CHECKING:
    from ..mnist import Study

__all__ = ["distributions", "pictures"]

ACROSS = 5


def distributions(
    study: Study,
    *,
    pair: tuple[int, int] | None = None,
    layer: int | None = None,
    scale: float = 1.0,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The softmax of the mean logits for each shown digit, with the unedited network's beside it.

    Args:
        study: a study of a network for digits.
        pair: (a, b); None is (3, 1), or the study's first pair.
        layer: None is the first one of the study.
        scale: the coefficient.
    """
    look = style(theme, width_mm, title)
    positive, negative = _pair(study, pair)
    at, chosen = study.layers[0] if layer is None else layer, study.nearest_scale(scale)
    frame = study.distribution(positive, negative, layer=at, scale=chosen)
    colours = [_colour(digit, positive, negative, look) for digit in range(10)]
    traces: list[Any] = []
    for shown in range(10):
        rows = frame[frame["shown"] == shown]
        traces.append(
            go.Bar(
                x=list(range(10)),
                y=finite(rows["probability"]),
                marker={"color": colours},
                name=f"{positive} − {negative} added",
                showlegend=False,
                hovertemplate=f"shown {shown}: %{{y:.3f}} for %{{x}}<extra>edited</extra>",
                **on(shown),
            )
        )
        traces.append(
            go.Scatter(
                x=list(range(10)),
                y=finite(rows["plain"]),
                mode="markers",
                name="unedited",
                showlegend=shown == 0,
                marker={"symbol": "line-ew-open", "size": 9, "color": look.theme.ink},
                hovertemplate=f"shown {shown}: %{{y:.3f}} for %{{x}}<extra>unedited</extra>",
                **on(shown),
            )
        )
    for name, colour in _keys(positive, negative, look):
        mark = {"color": colour, "symbol": "square", "size": 9}
        traces.append(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=mark))
    words = Words(
        title=f"What each digit is taken for under {positive} − {negative}",
        subtitle=(
            f"{model_name(study)}, layer {at} ({study.kinds[at]}), coefficient {number(chosen)}"
        ),
        caption=(
            "One panel a shown digit: the softmax of the mean logits over its test images, with the "
            "vector added (bars) and unedited (dashes). All panels share one scale."
        ),
        finding=_taken_sentence(frame, positive, negative),
    )
    return build(
        traces,
        look,
        words,
        height=460,
        showlegend=True,
        bargap=0.15,
        **_grid(positive, negative, look),
    )


def pictures(
    study: Study,
    *,
    pair: tuple[int, int] | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The two images (or mean images) of a pair and their difference.

    Args:
        study: a study of a network for digits.
        pair: (a, b); None is (3, 1), or the study's first pair.
    """
    look = style(theme, width_mm, title)
    positive, negative = _pair(study, pair)
    first, second = study.pictures[positive], study.pictures[negative]
    panels = [(first, False), (second, False), (first - second, True)]
    names = [f"a = {positive}", f"b = {negative}", f"{positive} − {negative}"]
    limit = float(np.nanmax(np.abs(first - second))) or 1.0
    traces = []
    for panel, (values, signed) in enumerate(panels):
        traces.append(
            go.Heatmap(
                z=[finite(row) for row in values],
                zmin=-limit if signed else 0.0,
                zmax=limit if signed else 1.0,
                colorscale=list(look.theme.diverging if signed else look.theme.sequential),
                showscale=False,
                hovertemplate="row %{y}, column %{x}: %{z:.2f}<extra></extra>",
                **on(panel),
            )
        )
    way = str(study.provenance.get("vectors", "first"))
    words = Words(
        title=f"What {positive} − {negative} is made of",
        subtitle=f"images: {way}; pixels 0 to 1, their difference {-limit:.2g} to {limit:.2g}",
        caption=(
            "The image of a, the image of b (means where several are used), and a − b in pixels, "
            "which is what an addition behind layer 0 amounts to. Blue is taken away, orange added."
        ),
        finding=(
            f"Here the difference has a norm of {number(float(np.linalg.norm(first - second)))}, "
            f"against {number(float(np.linalg.norm(first)))} and "
            f"{number(float(np.linalg.norm(second)))} of the two images."
        ),
    )
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": False}
    layout = facets(names, look, bare, bare)
    for key, axis in layout.items():
        if key.startswith("yaxis"):
            axis |= {"autorange": "reversed", "scaleanchor": axis["anchor"], "constrain": "domain"}
            axis.pop("matches", None)
    return build(traces, look, words, height=320, **layout)


def _pair(study: Study, pair: tuple[int, int] | None) -> tuple[int, int]:
    if pair is None:
        first = study.pairs[0]
        return (3, 1) if [3, 1] in study.pairs else (first[0], first[1])
    if list(pair) not in study.pairs:
        raise ArgumentError(
            f"pair={pair!r}: this study has {len(study.pairs)} pairs, not that one."
        )
    return pair[0], pair[1]


def _colour(digit: int, positive: int, negative: int, look: Look) -> str:
    if digit == positive:
        return look.theme.lines[1]
    return look.theme.lines[0] if digit == negative else rgba(look.theme.muted, 0.75)


def _keys(positive: int, negative: int, look: Look) -> list[tuple[str, str]]:
    return [
        (f"a = {positive}", look.theme.lines[1]),
        (f"b = {negative}", look.theme.lines[0]),
        ("other answers", rgba(look.theme.muted, 0.75)),
    ]


def _grid(positive: int, negative: int, look: Look) -> dict[str, Any]:
    """Two rows of five panels, each named by the digit that is shown."""
    layout: dict[str, Any] = {"annotations": [], "margin": {"t": 104, "l": 64, "r": 24, "b": 84}}
    width, height = 0.17, 0.4
    for shown in range(10):
        tail = "" if shown == 0 else str(shown + 1)
        column, row = shown % ACROSS, shown // ACROSS
        left, bottom = column * (1 - width) / (ACROSS - 1), (1 - row) * (1 - height)
        layout[f"xaxis{tail}"] = {
            "domain": [left, left + width],
            "anchor": f"y{tail}",
            "tickvals": list(range(10)),
            "showgrid": False,
            "title": {"text": "answer" if row and column == 2 else ""},
        }
        layout[f"yaxis{tail}"] = {
            "domain": [bottom, bottom + height],
            "anchor": f"x{tail}",
            "range": [0, 1.05],
            "tickvals": [0, 0.5, 1],
            "showticklabels": column == 0,
            "title": {"text": "probability" if column == 0 else ""},
        }
        mark = {positive: " (a)", negative: " (b)"}.get(shown, "")
        layout["annotations"].append(
            {
                "text": f"shown {shown}{mark}",
                "x": left + width / 2,
                "y": bottom + height,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": look.theme.size - 1, "color": look.theme.ink},
            }
        )
    return layout


def _taken_sentence(frame: Any, positive: int, negative: int) -> str:
    best = frame.loc[frame.groupby("shown")["probability"].idxmax()].set_index("shown")["digit"]
    kept = int((best == best.index).sum())
    to_a = int((best == positive).sum())
    return (
        f"Here {kept} of 10 shown digits keep their own name on average, {to_a} are taken for "
        f"{positive}, and {negative} is taken for {int(best[negative])}."
    )
