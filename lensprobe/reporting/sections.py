"""From a result to the sections of a page: which figures, which tables, in which words."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd

from ..errors import ArgumentError
from ..plot import KINDS
from ..plot.mnist_square import study_sentence
from ..plot.theme import number
from ..plot.tokens import visible
from ..plot.views import views as drawers_of
from ..plot.wording import by_key, finding_name, finding_sentence, sink_sentence
from ..results import Result
from .parts import Fact, FigurePart, Section, TablePart, figure_part, table_part
from .viewing import views_of
from .watching import Watched
from .words import LEADS, NOTES, READING, TABLES, TITLES

__all__ = ["headlines", "leads", "reading", "section"]

MOST = 8
"""Layers or positions that a warning names."""


def section(result: Any, prefix: str = "", title: str = "") -> Section:
    """One result as a section of a page.

    Args:
        result: a result, or a steering vector.
        prefix: what the anchors of the section begin with; "" is its kind.
        title: its heading; "" is that of its kind.
    """
    anchor = prefix or result.kind.replace(".", "-")
    shown = [name for name in result.tables if _worth(name, result.to_frame(name))]
    views = views_of(result, anchor)
    return Section(
        anchor=anchor,
        title=title or TITLES.get(result.kind, type(result).__name__),
        lead=LEADS.get(result.kind, ""),
        figures=() if views or result.kind not in KINDS else _figures(result, anchor, shown),
        tables=tuple(_table(result, name, anchor) for name in _order(shown)),
        warning=_warning(result),
        views=views,
    )


def _worth(name: str, frame: pd.DataFrame) -> bool:
    """Whether a table says anything; that there are no findings does."""
    if name == "nonfinite":
        return bool(frame["count"].sum())
    return name == "findings" or len(frame) > 0


def _figures(result: Any, anchor: str, shown: list[str]) -> tuple[FigurePart, ...]:
    watched = Watched(result)
    drawers = drawers_of(cast(Any, watched))
    parts = []
    for name in drawers.names:
        watched.read.clear()
        try:
            light, dark = (getattr(drawers, name)(theme=theme) for theme in ("light", "dark"))
        except ArgumentError:
            # A view of something that this result was not asked to measure.
            continue
        tables = [name for name in shown if name in watched.read and len(result.to_frame(name))]
        data = tuple((f"{anchor}-table-{table}", TABLES.get(table, table)) for table in tables)
        parts.append(figure_part(f"{anchor}-{name}", light, dark, data))
    return tuple(parts)


def _order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name != "findings")


def _table(result: Result, name: str, anchor: str) -> TablePart:
    frame: pd.DataFrame = result.to_frame(name)
    if "token" in frame:
        frame["token"] = [visible(str(token)) for token in frame["token"]]
    title, note = TABLES.get(name, name), NOTES.get((result.kind, name), "")
    return table_part(f"{anchor}-table-{name}", title, frame, note=note, opened=name == "findings")


def _warning(result: Any) -> str:
    if result.kind == "comparison":
        failed = [f"{row.model}: {row.error}" for row in result.models.itertuples() if row.error]
        told = [note for note in result.provenance["notes"] if " differs: " in note]
        return " ".join([*told, *failed])
    frame = getattr(result, "nonfinite", None)
    if not isinstance(frame, pd.DataFrame) or not frame["count"].sum():
        return ""
    hit = frame.loc[frame["count"] > 0]
    return (
        f"{int(frame['count'].sum()):,} activations are not finite (layers {_few(hit['layer'])}), "
        f"at positions {_few(hit['position'])}. They are counted here and left out of every mean."
    )


def _few(numbers: pd.Series) -> str:
    found = sorted({int(number) for number in numbers})
    return ", ".join(map(str, found[:MOST])) + (", …" if len(found) > MOST else "")


def headlines(result: Result) -> list[Fact]:
    """The numbers a reader wants first."""
    makers: dict[str, Any] = {"massive.scan": _massive_headlines, "sinks.scan": _sink_headlines}
    makers["mnist.study"] = _study_headlines
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


def _study_headlines(study: Any) -> list[Fact]:
    facts = study.summary()
    plain = Fact("Unedited log loss", number(facts["plain loss"]), "images that are not of b")
    layers = [
        Fact(f"Layer {layer}", number(facts[f"layer {layer} loss"]), "log loss of the median pair")
        for layer in (study.layers[0], study.layers[-1])
    ]
    turned = f"of pairs and layers: images of b become more a, {facts['negative down']:.0%} less b"
    return [plain, *layers, Fact("b turns into a", f"{facts['positive up']:.0%}", turned)]


def leads(result: Any) -> str:
    """The one sentence that says what was found, for the head of the page."""
    sentences: dict[str, Any] = {"massive.scan": finding_sentence, "sinks.scan": sink_sentence}
    sentences["mnist.study"] = study_sentence
    if result.kind not in sentences:
        return ""
    sentence = sentences[result.kind](result).removeprefix("Here ")
    return sentence[:1].upper() + sentence[1:]


def reading(results: list[Any]) -> tuple[tuple[str, str], ...]:
    """The terms a reader needs for these results."""
    return tuple(READING[result.kind] for result in results if result.kind in READING)
