"""Figures of a mixing input added at several sites: dose and response, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from ..errors import ArgumentError, nearest
from .axes import finite, rows_of
from .facets import facets
from .steering_parts import band, chosen_text, level, side_by_side, texts_of
from .theme import Words, build, number, style
from .tokens import escape, visible
from .wording import model_name, plural

if TYPE_CHECKING:
    from ..steering import SitesComparison

__all__ = ["VIEWS", "completions", "curves", "tradeoff"]

NAMES = {
    "carry": "share of the mixing input's tokens",
    "logprob": "log-probability a token, plain model (nats)",
    "kl": "KL from plain (nats)",
    "repetition": "repeated 4-grams",
    "probability": "probability of the mixing input's tokens",
}
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
DASHES = ("solid", "dash", "dot", "dashdot")


def curves(
    found: SitesComparison,
    *,
    measure: str = "carry",
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """A measure against the scale, a panel a site and a line a block, with the unsteered line.

    Args:
        found: a comparison of sites.
        measure: "carry", "logprob", "kl", "repetition" or "probability".

    Raises:
        ArgumentError: another measure.
    """
    look = style(theme, width_mm, title)
    if measure not in NAMES:
        raise ArgumentError(
            f"measure={measure!r}: {', '.join(NAMES)}.{nearest(str(measure), NAMES)}"
        )
    frame = rows_of(found.sweep, measure=measure)
    sites = list(dict.fromkeys(str(site) for site in frame["site"]))
    plain = float(rows_of(frame, scale=0.0)["value"].iloc[0])
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    traces = []
    for panel, site in enumerate(sites):
        mine = rows_of(frame, site=site)
        for index, layer in enumerate(layers):
            rows = rows_of(mine, layer=layer).sort_values(by=["scale"])
            rows = rows.loc[rows["scale"] != 0]
            name = f"layer {layer}"
            hover = (
                f"<b>{escape(site)}, {name}</b>, scale %{{x}}<br>%{{y:.3~g}} "
                "[%{customdata[0]:.3~g}, %{customdata[1]:.3~g}]"
            )
            traces += band(
                rows, "scale", name, look.theme.lines[index % 6], hover=hover,
                dash=DASHES[index % 4], panel=panel, legend=panel == 0,
            )  # fmt: skip
        scales = [float(scale) for scale in sorted(mine["scale"].unique()) if scale]
        traces.append(level(scales, plain, "unsteered", look, panel=panel))
    words = Words(
        title=f"A mixing input at values and in the residual stream: {NAMES[measure]}",
        subtitle=_subtitle(found),
        caption=(
            "The mixing input's activations are added once, front-aligned, at one block, times the "
            "scale. Scales mean different things at the two sites, so the panels have axes of their "
            "own. Bands are 95% bootstrap intervals over base texts."
        ),
        finding=_finding(found),
    )
    layout = facets(sites, look, {"title": {"text": "scale"}}, {"title": {"text": NAMES[measure]}})
    return build(traces, look, words, height=440, showlegend=True, **layout)


def tradeoff(
    found: SitesComparison,
    *,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What is carried against how fluent the text still is, a point for each block and scale."""
    look = style(theme, width_mm, title)
    keys = ["site", "layer", "scale"]
    both = rows_of(found.sweep, measure="carry").merge(
        rows_of(found.sweep, measure="logprob"), on=keys, suffixes=("", "_logprob")
    )
    traces = []
    for index, site in enumerate(dict.fromkeys(str(site) for site in both["site"])):
        for place, layer in enumerate(sorted(int(n) for n in both["layer"].unique())):
            rows = rows_of(both, site=site, layer=layer).sort_values(by=["scale"])
            rows = rows[rows["scale"] != 0]
            colour = look.theme.lines[index]
            traces.append(
                go.Scatter(
                    x=finite(rows["value_logprob"]),
                    y=finite(rows["value"]),
                    mode="markers",
                    name=escape(f"{site}, layer {layer}"),
                    marker={"size": 8, "color": colour, "symbol": SYMBOLS[place % 4]},
                    text=[f"{scale:g}" for scale in rows["scale"]],
                    hovertemplate=(
                        f"<b>{escape(site)}, layer {layer}, scale %{{text}}</b>"
                        "<br>carried %{y:.3f}<br>log-probability %{x:.3f}<extra></extra>"
                    ),
                )
            )
    plain = rows_of(both, scale=0.0).iloc[0]
    traces.append(
        go.Scatter(
            x=[float(plain["value_logprob"])],
            y=[float(plain["value"])],
            mode="markers",
            name="unsteered",
            marker={"size": 14, "symbol": "star", "color": look.theme.muted},
            hovertemplate="unsteered<br>carried %{y:.3f}<br>log-probability %{x:.3f}<extra></extra>",
        )
    )
    words = Words(
        title="What is carried, and at what cost",
        subtitle=_subtitle(found),
        caption=(
            "Share of the mixing input's own tokens in the completion against the completion's "
            "log-probability under the plain model, a point for each block and scale. Up and to the "
            "right is a text that carries the mixing input and is still fluent."
        ),
        finding=_finding(found),
    )
    return build(
        traces,
        look,
        words,
        height=470,
        showlegend=True,
        xaxis={"title": {"text": NAMES["logprob"]}},
        yaxis={"title": {"text": NAMES["carry"]}},
    )


def completions(
    found: SitesComparison,
    *,
    text: int = 0,
    layer: int | None = None,
    theme: str = "light",
    width_mm: float | None = None,
    title: str | None = None,
) -> go.Figure:
    """What is written after one base text at every site and scale of one block.

    Args:
        found: a comparison of sites.
        text: which base text.
        layer: None is the first block.

    Raises:
        ArgumentError: the comparison has no such text or block.
    """
    look = style(theme, width_mm, title)
    frame = chosen_text(found.texts, text)
    known = sorted(int(n) for n in frame["layer"].unique())
    chosen = known[0] if layer is None else layer
    if chosen not in known:
        raise ArgumentError(f"layer={layer!r}: this comparison has the layers {known}.")
    first = str(frame["mixing"].iloc[0])
    frame = rows_of(frame, layer=chosen, mixing=first).sort_values(by=["site", "scale"])
    prompt = visible(str(frame["prompt"].iloc[0])).replace("·", " ")
    mixing = visible(first).replace("·", " ")
    words = Words(
        title="What is written",
        subtitle=f"{model_name(found)}, layer {chosen}, “{_short(mixing)}” into “{_short(prompt)}”",
        caption="Completions of one base text with one mixing input, at each site and scale.",
        finding=_finding(found),
    )
    columns = {
        "site": "site",
        "scale": "scale",
        "completion": "completion",
        "logprob": "log-prob.",
        "carry": "carried",
    }
    return side_by_side(frame, look, words, columns)


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _subtitle(found: SitesComparison) -> str:
    inputs = plural(len(found.provenance.get("mixing", ())), "mixing input")
    return f"{model_name(found)}, {inputs}, {texts_of(found)}"


def _finding(found: SitesComparison) -> str:
    facts = found.summary()
    parts = []
    for site in dict.fromkeys(str(site) for site in found.sweep["site"]):
        parts.append(
            f"{site} carries most at layer {facts[f'{site}_layer']:.0f} and scale "
            f"{facts[f'{site}_scale']:g}: {number(facts[f'{site}_carry'])} of the tokens at "
            f"{number(facts[f'{site}_logprob'])} nats a token"
        )
    plain = f"{number(facts['plain_carry'])} at {number(facts['plain_logprob'])}"
    return f"Here {'; '.join(parts)}; unsteered, {plain}."


VIEWS = {"curves": curves, "tradeoff": tradeoff, "completions": completions}
