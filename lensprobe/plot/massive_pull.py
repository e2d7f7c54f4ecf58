"""Figures of a pull: which queries answer to more of one dimension, and on which side they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .axes import layer_axis, rows_of
from .massive_heads import head_maps
from .massive_rescale import coordinate
from .steering_parts import band, level
from .theme import Words, build, style
from .wording import model_name

if TYPE_CHECKING:
    from ..massive import BosPull

__all__ = ["VIEWS", "heads", "layers", "sides"]


def layers(
    result: BosPull,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The share of (head, query) that attend more, layer by layer, beside random dimensions."""
    look = style(theme, width_mm, title)
    names = {"dim": coordinate(result), "random": "random other dimensions"}
    traces = []
    for index, (kind, name) in enumerate(names.items()):
        rows = rows_of(result.layers, kind=kind)
        traces += band(
            rows.rename(columns={"value": "moved", "share": "value"}),
            "layer",
            name,
            look.theme.lines[0 if index == 0 else 5],
            hover=f"<b>{name}</b>, layer %{{x}}<br>%{{y:.1%}} rise "
            "[%{customdata[0]:.1%}, %{customdata[1]:.1%}]",
            dash="solid" if index == 0 else "dot",
        )
    known = [int(layer) for layer in result.layers["layer"]]
    traces.append(level([min(known), max(known)], 0.5, "one half", look))
    words = Words(
        title=f"A little more of {coordinate(result)}: who attends to it more?",
        subtitle=f"{model_name(result)}, {result.provenance['amount']:g} added after each "
        "layer's first norm",
        caption=(
            "The share of heads and later queries whose score for the position rises when a little "
            "is added to one dimension of what attention reads there; each layer is asked on its "
            "own. Near one, every query shares a positive product with that direction of the key. "
            "Bands are 95% bootstrap intervals over documents."
        ),
        finding=_sentence(result),
    )
    return build(
        traces,
        look,
        words,
        height=400,
        xaxis=layer_axis(known, "first norm"),
        yaxis={
            "title": {"text": "share of (head, query) that rise"},
            "tickformat": ".0%",
            "range": [-0.03, 1.03],
        },
        showlegend=True,
    )


def heads(
    result: BosPull,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """The share of queries of each head whose score rises."""
    look = style(theme, width_mm, title)
    share = result.heads["share"].to_numpy(dtype=float)
    most = float(np.mean(share[np.isfinite(share)] > 0.9)) if np.isfinite(share).any() else 0.0
    words = Words(
        title="Which heads answer",
        subtitle=f"{model_name(result)}, {coordinate(result)}",
        caption=(
            "The share of later queries whose score for the position rises with the dimension, by "
            "layer and head: 1 is all of them, 0 none."
        ),
        finding=f"Here in {most:.0%} of the heads more than nine in ten queries answer with more.",
    )
    return head_maps(
        {"share": (result.heads, "share")},
        look,
        words,
        bar="share of queries",
        cell="%{z:.1%} of queries rise",
        limits=(0.0, 1.0),
        signed=False,
    )


def sides(
    result: BosPull,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """Whether a head's queries lie on one side of the position's key, and of the next key."""
    look = style(theme, width_mm, title)
    place = int(result.provenance["position"])
    own, control = (float(np.nanmean(result.heads[name])) for name in ("side", "next_side"))
    words = Words(
        title="Is half of the query space used up?",
        subtitle=f"{model_name(result)}, the sign of query · key",
        caption=(
            "The larger of the shares of queries with a positive and with a negative product with "
            "the key, by head. 1: all queries lie on one side of it, so that half of their space is "
            "not used; 0.5: they lie on both. Beside it the key of the next position."
        ),
        finding=(
            f"Here {own:.0%} of a head's queries lie on one side of the key at position {place} on "
            f"average, {control:.0%} of the next position's."
        ),
    )
    panels = {
        f"key at position {place}": (result.heads, "side"),
        f"key at position {place + 1}": (result.heads, "next_side"),
    }
    return head_maps(
        panels,
        look,
        words,
        bar="share on one side",
        cell="%{z:.1%} on one side",
        limits=(0.5, 1.0),
        signed=False,
    )


def _sentence(result: BosPull) -> str:
    own = rows_of(result.layers, kind="dim")
    share = own["share"].to_numpy(dtype=float)
    best, least = own.iloc[int(np.nanargmax(share))], own.iloc[int(np.nanargmin(share))]
    mean = {
        kind: float(np.nanmean(result.layers.loc[result.layers["kind"] == kind, "share"]))
        for kind in ("dim", "random")
    }
    return (
        f"Here {mean['dim']:.0%} of heads and queries attend more, against {mean['random']:.0%} for "
        f"random dimensions; most in layer {int(best['layer'])} ({float(best['share']):.0%}), least "
        f"in layer {int(least['layer'])} ({float(least['share']):.0%})."
    )


VIEWS = {"layers": layers, "heads": heads, "sides": sides}
