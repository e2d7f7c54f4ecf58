"""What a page is made of: figures and tables as plain values that the template walks through."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

__all__ = [
    "Fact",
    "FigurePart",
    "Page",
    "Section",
    "TablePart",
    "ViewPart",
    "as_json",
    "figure_part",
    "table_part",
]

ROWS = 2000
"""Rows a table shows at most; what is left out is said below it."""


@dataclass(frozen=True)
class Fact:
    """One labelled value, such as a headline number or a line of provenance."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class FigurePart:
    """A figure in light colours, what changes in dark, and the sentences that go with it."""

    anchor: str
    title: str
    caption: str
    finding: str
    height: int
    min_width: int
    data: Markup
    tables: tuple[tuple[str, str], ...] = ()
    """Anchor and title of the tables that the figure was drawn from."""


@dataclass(frozen=True)
class TablePart:
    """A table as text: cells are (shown, exact) pairs, so that sorting and copying keep every digit."""

    anchor: str
    title: str
    note: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    total: int
    opened: bool = False


@dataclass(frozen=True)
class ViewPart:
    """A picture that is plain HTML, with the files of `templates/` that it needs on the page."""

    anchor: str
    title: str
    caption: str
    finding: str
    body: Markup
    style: str
    script: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with an introduction, views, figures and tables."""

    anchor: str
    title: str
    lead: str
    figures: tuple[FigurePart, ...] = ()
    tables: tuple[TablePart, ...] = ()
    warning: str = ""
    views: tuple[ViewPart, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything the template needs, already worded; nothing in it is markup but the figures' JSON."""

    title: str
    model: str
    lead: str
    headlines: tuple[Fact, ...]
    facts: tuple[Fact, ...]
    provenance: tuple[Fact, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    citations: str = ""
    complete: bool = True
    reading: tuple[tuple[str, str], ...] = field(default=())


def figure_part(
    anchor: str, light: go.Figure, dark: go.Figure, tables: tuple[tuple[str, str], ...] = ()
) -> FigurePart:
    """A figure for the page. The page shows its title as a heading, so it leaves the figure itself."""
    layout: Any = light.layout
    meta, title, height = layout.meta, _plain(layout.title.text or ""), int(layout.height)
    for figure in (light, dark):
        # Assigned, not updated: the subtitle goes too.
        figure.update_layout(title={"text": "", "automargin": False}, overwrite=True)
        figure.update_layout(margin={"t": 12}, width=None)
    one, two = _plain_json(light), _plain_json(dark)
    payload = {"figure": one, "dark": _changes(one, two)}
    return FigurePart(
        anchor=anchor,
        title=title,
        caption=meta["caption"],
        finding=meta["finding"],
        height=height,
        min_width=int(meta.get("min_width", 340)),
        data=as_json(payload),
        tables=tables,
    )


def _plain_json(figure: go.Figure) -> Any:
    return json.loads(str(figure.to_json()))


def as_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no character can end it or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # the only place where text becomes markup, and it was just made inert


def _changes(light: Any, dark: Any, path: tuple[str | int, ...] = ()) -> list[list[Any]]:
    """Where two figures differ, as [path, value in dark]: the data itself is kept only once."""
    if isinstance(light, dict) and isinstance(dark, dict) and light.keys() == dark.keys():
        return [c for key in light for c in _changes(light[key], dark[key], (*path, key))]
    if isinstance(light, list) and isinstance(dark, list) and len(light) == len(dark):
        return [
            c
            for i, (a, b) in enumerate(zip(light, dark, strict=True))
            for c in _changes(a, b, (*path, i))
        ]
    return [] if light == dark else [[list(path), dark]]


def _plain(markup: str) -> str:
    return markup.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def table_part(
    anchor: str, title: str, frame: pd.DataFrame, *, note: str = "", opened: bool = False
) -> TablePart:
    """A table for the page; beyond `ROWS` rows it is cut, and the page says so."""
    numeric = tuple(pd.api.types.is_numeric_dtype(frame[name]) for name in frame.columns)
    rows = tuple(
        tuple(_cell(value) for value in row) for row in frame.head(ROWS).itertuples(index=False)
    )
    columns = tuple(str(name) for name in frame.columns)
    return TablePart(anchor, title, note, columns, numeric, rows, len(frame), opened)


def _cell(value: Any) -> tuple[str, str]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value)
    if isinstance(value, int):
        return str(value).replace("-", "\u2212"), str(value)
    if not math.isfinite(value):
        return str(value), str(value)
    size = abs(value)
    shown = f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"
    return shown.replace("-", "\u2212"), repr(float(value))


def _text(value: Any) -> tuple[str, str]:
    # numpy scalars print themselves as np.float64(...): go through Python numbers.
    item = getattr(value, "item", None)
    if callable(item) and not isinstance(value, str):
        return _cell(item())
    return str(value), str(value)


def _listed(values: Sequence[Any]) -> str:
    """`0 to 29` for a run of whole numbers, commas for anything else."""
    whole = [v for v in values if isinstance(v, int)]
    if len(values) > 2 and whole == list(values) == list(range(values[0], values[0] + len(values))):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values)) or "none"


def flatten(facts: dict[str, Any], prefix: str = "") -> Sequence[Fact]:
    """A nested provenance as lines: `thresholds.ratio`, `versions.torch`."""
    lines: list[Fact] = []
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            lines.extend(flatten(value, f"{name}."))
        elif isinstance(value, (list, tuple)):
            lines.append(Fact(name, _listed(value)))
        else:
            lines.append(Fact(name, "none" if value is None else str(value)))
    return lines
