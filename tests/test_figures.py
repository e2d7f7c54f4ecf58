"""Every figure of every kind of result: its words, its axes, and whether its marks can be told apart.

Where other tests already make a result up, theirs is drawn; the rest are small runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import combinations
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from coloraide import Color
from test_colours import APART, GRAPHIC, SIGHT, difference
from test_plot_comparisons import MADE
from test_plot_interpolation_texts import traced, written
from test_plot_steering import made_up as steered
from test_plot_training import made_up as watched
from test_plot_training import series

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.plot import KINDS
from lensprobe.plot.theme import THEMES

TEXTS = ["The river had risen in the night, and by morning.", "She closed the door.", "One more."]
NATS = ("loss", "kl", "entropy", "surpris", "log-prob", "log-odds", "divergence")
"""What is measured in nats; an axis that names one of these names its unit."""
BARE = ("perplexity", "decile", "share of", "ratio")
"""Words behind which such a quantity has become a number without a unit."""
quiet = {"progress": False}
few: dict[str, Any] = {"max_new_tokens": 4, "logprobs": True}


def training():
    data, network = lp.mnist.load_digits_data(), lp.mnist.HookedMLP((64, 24, 24, 10), seed=1)
    return data, network, lp.mnist.train(network, data, epochs=3, learning_rate=5e-3, every=20)


def digits(kind: str) -> Any:
    data, network, trained = training()
    if kind == "mnist.training":
        return trained
    pairs = [(3, 1), (1, 3), (8, 0), (4, 9)]
    if kind == "mnist.out_of_data":
        return lp.mnist.out_of_data(network, data, pairs=pairs, n=10)
    return lp.mnist.study(network, data, scales=(0.5, 1.0), n=10)


def ones(model: Any) -> Any:
    return lp.steering.SteeringVector(torch.ones(model.cfg.d_model), 1)


MAKE: dict[str, Callable[..., Any]] = {
    "attention": lambda m, t: lp.attention(t, TEXTS[1]),
    "comparison": lambda m, t: lp.over({"one": t, "two": t}, lp.sinks.scan, TEXTS, **quiet),
    "explore.rescale": lambda m, t: lp.explore.rescale(t, TEXTS[0], dim=1).answer,
    "explore.steering": lambda m, t: lp.explore.steering(t, ones(t), max_new_tokens=6).answer,
    "generate": lambda m, t: lp.generate(t, TEXTS[:2], max_new_tokens=4, logprobs=True),
    "generations": lambda m, t: lp.side_by_side(
        {
            name: lp.generate(t, "one two", edits=lp.Scale(factor=factor, layers=1), **few)
            for name, factor in (("plain", 1.0), ("doubled", 2.0))
        }
    ),
    "interpolation.generate": lambda m, t: written(),
    "interpolation.learn": lambda m, t: lp.interpolation.learn(
        t, TEXTS, steps=2, held_out=TEXTS, **quiet
    ),
    "interpolation.score": lambda m, t: lp.interpolation.score(t, TEXTS, layer=1, weight=0.5),
    "interpolation.surprise": lambda m, t: lp.interpolation.surprise(
        t, [text * 3 for text in TEXTS], layer=1, weight=0.5, lags=2
    ),
    "interpolation.sweep": lambda m, t: lp.interpolation.sweep(
        t, TEXTS, layers=[0, 2], weights=[0.2, 0.6]
    ),
    "interpolation.trace": lambda m, t: traced(),
    "massive.ablate": lambda m, t: lp.massive.ablate(t, TEXTS, dim=1, seed=0, **quiet),
    "massive.anatomy": lambda m, t: lp.massive.anatomy(m, TEXTS[1:], dim=447, ablate=True, **quiet),
    "massive.bos_pull": lambda m, t: lp.massive.bos_pull(t, TEXTS, dim=1, seed=0, **quiet),
    "massive.checkpoints": lambda m, t: series(),
    "massive.gradient": lambda m, t: lp.massive.gradient(
        m, TEXTS[1:], dim=447, factors=[0.5, 1.0], **quiet
    ),
    "massive.rescale": lambda m, t: lp.massive.rescale(
        m, TEXTS, dim=447, factors=[0.0, 1.0], **quiet
    ),
    "massive.scan": lambda m, t: lp.massive.scan(m, TEXTS, **quiet),
    "massive.tokens": lambda m, t: lp.massive.tokens(m, TEXTS, dim=447, n=6, seed=0, **quiet),
    "massive.training": lambda m, t: watched(),
    "massive.trajectory": lambda m, t: lp.massive.trajectory(m, TEXTS, dim=447, **quiet),
    "mnist.beside": lambda m, t: lp.mnist.beside(
        digits("mnist.study"), lp.steering.sweep(t, TEXTS, vector=ones(t), scales=[1.0], **quiet)
    ),
    "mnist.out_of_data": lambda m, t: digits("mnist.out_of_data"),
    "mnist.study": lambda m, t: digits("mnist.study"),
    "mnist.training": lambda m, t: digits("mnist.training"),
    "score": lambda m, t: lp.score(t, TEXTS),
    "sinks.brittle": lambda m, t: lp.sinks.brittle(
        t, TEXTS, edits=lp.Scale(factor=2.0, layers=0), **quiet
    ),
    "sinks.cause": lambda m, t: lp.sinks.cause(t, TEXTS, dim=1, seed=0, **quiet),
    "sinks.clusters": lambda m, t: lp.sinks.clusters(t, 40, n=8, length=3, repeats=3, **quiet),
    "sinks.dedicate": lambda m, t: lp.sinks.dedicate(t, TEXTS, words=[40], steps=2, **quiet),
    "sinks.detector": lambda m, t: lp.sinks.first_token_detector(t, TEXTS, n=2, **quiet),
    "sinks.evict": lambda m, t: lp.sinks.evict(m, TEXTS, window=9, keep=(0, 1, 2), **quiet),
    "sinks.neurons": lambda m, t: lp.sinks.neurons(t, TEXTS, n=2, ratio=1e-9, repeats=1, **quiet),
    "sinks.patch": lambda m, t: lp.sinks.patch(
        t, [3, 4, 5, 6], [3, 7, 7, 7], sites=["attn_out", "mlp_out"], layer=2, **quiet
    ),
    "sinks.repeats": lambda m, t: lp.sinks.repeats(t, [40, 41], lengths=[1, 4], **quiet),
    "sinks.scan": lambda m, t: lp.sinks.scan(
        m, {"prose": TEXTS, "counting": ["one two three four " * 3]}, epsilon=[0.1, 0.3],
        conditions=("random", "repeated"), seed=0, length=32, **quiet,
    ),
    "sinks.scores": lambda m, t: lp.sinks.scores(m, TEXTS[0]),
    "sinks.values": lambda m, t: lp.sinks.values(m, TEXTS, **quiet),
    "steering.calibration": lambda m, t: MADE["calibration"](),
    "steering.depth": lambda m, t: MADE["depth"](),
    "steering.persistence": lambda m, t: MADE["persistence"](),
    "steering.positions": lambda m, t: MADE["positions"](),
    "steering.sites": lambda m, t: MADE["sites"](),
    "steering.stability": lambda m, t: MADE["stability"](),
    "steering.stacks": lambda m, t: lp.steering.compare_stacks(
        t, TEXTS[:2], mixing="A cat.", layers=[1, 2], scales=(0.5, 1.0), max_new_tokens=4,
        malformed=lambda text: "e" in text, **quiet,
    ),
    "steering.sweep": lambda m, t: steered(),
    "steering.vector": lambda m, t: lp.steering.contrast(t, " Love", " Hate"),
    "steering.vectors": lambda m, t: lp.steering.difference(
        t, ["a cat", "a mat"], ["a dog", "one"], **quiet
    ),
}  # fmt: skip
"""A result of each kind that is drawn, from the planted model or a tiny random one."""


@pytest.fixture(scope="module")
def made(planted, tiny_gpt2):
    """The figures of a kind in a theme, by name; results and figures are made once."""
    results: dict[str, Any] = {}
    drawn: dict[tuple[str, str], dict[str, go.Figure]] = {}

    def get(kind: str, theme: str = "light") -> dict[str, go.Figure]:
        if kind not in results:
            results[kind] = MAKE[kind](planted, tiny_gpt2)
            assert results[kind].kind == kind
        if (kind, theme) not in drawn:
            drawn[kind, theme] = dict(figures(results[kind], theme))
        return drawn[kind, theme]

    return get


def figures(result: Any, theme: str) -> Iterator[tuple[str, go.Figure]]:
    for name in result.plot.names:
        # A view of what this run was not asked to measure refuses.
        with suppress(ArgumentError):
            yield name, getattr(result.plot, name)(theme=theme)


def axes(figure: go.Figure) -> Iterator[tuple[str, Any]]:
    """The axes that something is drawn against, each once."""
    used = {}
    for trace in figure.data:
        for letter in "xy":
            if trace.type not in ("table", "domain"):
                used[(getattr(trace, f"{letter}axis", None) or letter)] = letter
    for name, letter in used.items():
        yield name, figure.layout[f"{letter}axis{name[1:]}"]


def panel(figure: go.Figure, axis: Any) -> str:
    """What stands above an axis's panel, where that is the name of what the axis measures."""
    begin, end = axis.domain or (0, 1)
    for note in figure.layout.annotations:
        if (
            note.xref == "paper"
            and note.y == 1
            and note.yanchor == "bottom"
            and begin < note.x < end
        ):
            return note.text
    return ""


def bars(figure: go.Figure) -> Iterator[Any]:
    for trace in figure.data:
        for holder in (trace, getattr(trace, "marker", None)):
            if holder is not None and getattr(holder, "showscale", None) is not False:
                bar = getattr(holder, "colorbar", None)
                if bar is not None and bar.title.text is not None:
                    yield bar


def needs_unit(text: str) -> bool:
    low = text.lower()
    return any(word in low for word in NATS) and not any(word in low for word in BARE)


def test_every_kind_that_is_drawn_is_made_here():
    assert set(MAKE) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_say_what_they_are_and_what_is_seen(made, kind):
    assert made(kind)
    for name, figure in made(kind).items():
        layout, where = figure.layout, f"{kind} {name}"
        assert layout.title.text and layout.title.subtitle.text, where
        assert len(layout.meta["caption"].split()) >= 8, where
        assert layout.meta["caption"].endswith((".", ")")), where
        assert layout.meta["caption"][0] == layout.meta["caption"][0].upper(), where
        assert (
            layout.meta["finding"].startswith(("Here ", "Here, "))
            and layout.meta["finding"][-1] in ".)"
        ), where
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", layout.meta["finding"]), where


@pytest.mark.parametrize("kind", KINDS)
def test_axes_have_names_and_units(made, kind):
    for name, figure in made(kind).items():
        for axis_name, axis in axes(figure):
            where, title = f"{kind} {name} {axis_name}", axis.title.text or panel(figure, axis)
            # The panels of a row share the name on the first; what has no ticks is no scale.
            assert title or axis.showticklabels is False or axis.visible is False, where
            assert not needs_unit(title or "") or "nats" in title, f"{where}: {title}"
        for bar in bars(figure):
            assert bar.title.text, f"{kind} {name}"
            assert not needs_unit(bar.title.text) or "nats" in bar.title.text, bar.title.text


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_marks_stand_out_from_the_ground(made, kind, theme):
    """WCAG 2.1, 1.4.11: 3 to 1. Bands and maps are apart: a band repeats what a line says."""
    for name, figure in made(kind, theme).items():
        for colours in marks(figure):
            ratios = [shown(*colour, THEMES[theme].surface) for colour in colours]
            assert max(ratios) >= GRAPHIC, f"{kind} {name}: {colours}"


@cache
def shown(colour: str, opacity: float, ground: str) -> float:
    """The contrast of a colour that the ground shines through."""
    opaque = Color(colour).set("alpha", 1)
    mixed = Color(ground).mix(opaque, Color(colour).alpha() * opacity, space="srgb")
    return mixed.contrast(ground)


def marks(figure: go.Figure) -> set[tuple[tuple[str, float], ...]]:
    """The colours of lines, points and bars with their opacity; of points with an edge both."""
    found = set()
    for trace in figure.data:
        if trace.type not in ("scatter", "bar"):
            continue
        whole = 1.0 if trace.opacity is None else trace.opacity
        mode = getattr(trace, "mode", None) or "lines+markers"
        line = trace.line if trace.type == "scatter" and "lines" in mode else None
        if line is not None and line.width != 0 and trace.fill is None and line.color:
            found.add(((line.color, whole),))
        if trace.type == "bar" or "markers" in mode:
            own = whole * (1.0 if trace.marker.opacity is None else trace.marker.opacity)
            edge = [(trace.marker.line.color, whole)] if trace.marker.line.color else []
            colours = trace.marker.color
            for colour in [colours] if isinstance(colours, str) else list(colours or ()):
                if isinstance(colour, str):
                    found.add(((colour, own), *edge))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_apart_by_colour_alone_is_apart_for_every_eye(made, kind, theme):
    for name, figure in made(kind, theme).items():
        for alike in by_look(figure).values():
            for one, two in combinations(sorted(alike), 2):
                least = min(difference(one, two, sight) for sight in SIGHT)
                assert least >= APART, f"{kind} {name}: {one} and {two} are {least:.1f} apart"


def by_look(figure: go.Figure) -> dict[tuple, set[str]]:
    """The opaque colours of marks of one shape and dash in one panel."""
    found: dict[tuple, set[str]] = {}
    for trace in figure.data:
        panel = (getattr(trace, "xaxis", None), getattr(trace, "yaxis", None), trace.type)
        mode = getattr(trace, "mode", None) or "lines+markers"
        if trace.type == "scatter" and "lines" in mode and trace.fill is None and trace.line.width:
            key = (*panel, "line", trace.line.dash or "solid")
            found.setdefault(key, set()).update(hexes(trace.line.color))
        elif trace.type == "bar" or (trace.type == "scatter" and "markers" in mode):
            key = (*panel, "mark", getattr(trace.marker, "symbol", None) or "circle")
            found.setdefault(key, set()).update(hexes(trace.marker.color))
    return found


def hexes(colours: Any) -> set[str]:
    each = [colours] if isinstance(colours, str) else list(colours if colours is not None else ())
    return {colour for colour in each if isinstance(colour, str) and colour.startswith("#")}
