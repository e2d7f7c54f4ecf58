"""From a result to the sections of a page: which figures, which tables, in which words."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..errors import ArgumentError
from ..plot import KINDS
from ..plot.theme import number
from ..plot.tokens import visible
from ..plot.wording import by_key, finding_name, finding_sentence, sink_sentence
from ..results import Result
from .parts import Fact, FigurePart, Section, TablePart, figure_part, table_part

__all__ = ["headlines", "leads", "reading", "section"]

TITLES = {
    "massive.scan": "Massive activations",
    "massive.trajectory": "A massive activation through the layers",
    "massive.anatomy": "Anatomy of a massive activation",
    "massive.tokens": "Which first tokens get a massive activation",
    "sinks.scan": "Attention sinks",
    "steering.calibration": "How strong a steering vector must be",
    "steering.depth": "Once, or at every block",
    "steering.persistence": "Does an addition stay?",
    "steering.positions": "Where an addition is made",
    "steering.sites": "Attention values and the residual stream",
    "steering.stability": "Does a vector settle with more pairs?",
    "steering.stacks": "In the encoder or in the decoder",
    "steering.sweep": "What a steering vector does",
    "steering.vector": "A steering vector",
    "steering.vectors": "Steering vectors, layer by layer",
}

LEADS = {
    "massive.scan": (
        "In many models a few numbers of the residual stream are thousands of times larger than "
        "the rest. They sit in fixed dimensions, at fixed positions, and hardly depend on the text."
    ),
    "sinks.scan": (
        "In many models most heads rest their attention on the first token, whatever it is. As a "
        "rule its value vector is small, so attention that rests there changes little: it is a "
        "way of doing nothing."
    ),
}

READING = {
    "massive.scan": (
        "Massive activation",
        "A single number of a token's residual stream that is far larger than its neighbours: "
        "above 100 in magnitude and at least 1,000 times the median of that layer, unless other "
        "thresholds are stated above (Sun et al., 2024). It acts like a constant bias that the "
        "model builds in one early layer, keeps through the middle ones and removes near the "
        "end.",
    ),
    "sinks.scan": (
        "Attention sink",
        "A token that gets much attention whatever it says, as a rule the first. The sink rate "
        "is the share of heads whose mean attention to it exceeds 0.3, or the ε stated above (Gu "
        "et al., 2025). It falls as texts get longer, so compare only reports of equal length.",
    ),
}

TABLES = {
    "findings": "Massive activations, strongest first",
    "layers": "Layer by layer",
    "kinds": "By kind of token",
    "nonfinite": "Values that are not finite",
    "trajectories": "Each massive activation, layer by layer",
    "heads": "Head by head and key by key",
    "profile": "Entropy and value norms, head by head",
}

NOTES = {
    ("massive.scan", "findings"): (
        "position −1: not at one fixed position · layer: where it is strongest · first, last: "
        "the layers between which it is massive · value: signed mean over sequences at that "
        "layer · share: of the sequences that show it · ratio: magnitude over the median"
    ),
    ("massive.scan", "layers"): (
        "value: the largest magnitude of that rank in any sequence · mean: its mean over "
        "sequences · median: mean over sequences of the median magnitude · ratio: mean over "
        "median"
    ),
    ("massive.scan", "kinds"): (
        "value: the largest magnitude · mean: mean over tokens of each token's largest · count: "
        "tokens"
    ),
    ("sinks.scan", "heads"): (
        "value: mean attention to that key position · sink_rate: share of sequences above ε"
    ),
    ("sinks.scan", "profile"): (
        "entropy in nats · value_norm: at the first token · other_norm: mean elsewhere"
    ),
}


def section(result: Result, prefix: str = "") -> Section:
    """One result as a section of a page."""
    anchor = prefix or result.kind.replace(".", "-")
    shown = [name for name in result.tables if _worth(name, result.to_frame(name))]
    return Section(
        anchor=anchor,
        title=TITLES.get(result.kind, type(result).__name__),
        lead=LEADS.get(result.kind, ""),
        figures=_figures(result, anchor) if result.kind in KINDS else (),
        tables=tuple(_table(result, name, anchor) for name in _order(shown)),
        warning=_warning(result),
    )


def _worth(name: str, frame: pd.DataFrame) -> bool:
    """Whether a table says anything; that there are no findings does."""
    if name == "nonfinite":
        return bool(frame["count"].sum())
    return name == "findings" or len(frame) > 0


def _figures(result: Result, anchor: str) -> tuple[FigurePart, ...]:
    views = result.plot
    parts = []
    for name in views.names:
        try:
            light, dark = (getattr(views, name)(theme=theme) for theme in ("light", "dark"))
        except ArgumentError:
            # A view of something that this result was not asked to measure.
            continue
        parts.append(figure_part(f"{anchor}-{name}", light, dark))
    return tuple(parts)


def _order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name != "findings")


def _table(result: Result, name: str, anchor: str) -> TablePart:
    frame: pd.DataFrame = result.to_frame(name)
    if "token" in frame:
        frame["token"] = [visible(str(token)) for token in frame["token"]]
    title, note = TABLES.get(name, name), NOTES.get((result.kind, name), "")
    return table_part(f"{anchor}-table-{name}", title, frame, note=note, opened=name == "findings")


def _warning(result: Result) -> str:
    frame = getattr(result, "nonfinite", None)
    if not isinstance(frame, pd.DataFrame) or not frame["count"].sum():
        return ""
    hit = frame.loc[frame["count"] > 0, "layer"]
    layers = ", ".join(str(layer) for layer in sorted({int(layer) for layer in hit}))
    return (
        f"{int(frame['count'].sum()):,} activations are not finite (layers {layers}). They are "
        "counted here and left out of every mean."
    )


def headlines(result: Result) -> list[Fact]:
    """The numbers a reader wants first."""
    makers: dict[str, Any] = {"massive.scan": _massive_headlines, "sinks.scan": _sink_headlines}
    return makers[result.kind](result) if result.kind in makers else []


def _massive_headlines(scan: Any) -> list[Fact]:
    if scan.findings.empty:
        return [Fact("Massive activations", "none", "no value passes both thresholds")]
    top = next(scan.findings.itertuples())
    return [
        Fact("Strongest activation", number(top.value), finding_name(top)),
        Fact("Against the median", f"{number(top.ratio)} ×", f"at layer {top.layer}"),
    ]


def _sink_headlines(scan: Any) -> list[Fact]:
    first = by_key(scan.heads, 0).dropna(subset=["value"])
    if first.empty:
        return []
    top, rate = first.loc[first["value"].idxmax()], scan.summary().get("sink_rate")
    facts = [
        Fact(
            "Strongest sink head",
            f"{top['value']:.2f}",
            f"layer {int(top['layer'])}, head {int(top['head'])}: attention to the first token",
        )
    ]
    if isinstance(rate, float):
        epsilon = scan.provenance.get("epsilon", 0.3)
        facts.insert(
            0,
            Fact(
                "Sink rate", f"{rate:.0%}", f"of heads above ε = {epsilon:g}, mean over sequences"
            ),
        )
    return facts


def leads(result: Result) -> str:
    """The one sentence that says what was found, for the head of the page."""
    sentences: dict[str, Any] = {"massive.scan": finding_sentence, "sinks.scan": sink_sentence}
    if result.kind not in sentences:
        return ""
    sentence = sentences[result.kind](result).removeprefix("Here ")
    return sentence[:1].upper() + sentence[1:]


def reading(results: list[Result]) -> tuple[tuple[str, str], ...]:
    """The terms a reader needs for these results."""
    return tuple(READING[result.kind] for result in results if result.kind in READING)
