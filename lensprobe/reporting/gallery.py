"""Several results on one page: one copy of plotly.js, a way to every figure, its numbers as CSV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ArgumentError
from ..results import Shown, open_result
from .page import write
from .parts import Fact, Page, flatten
from .report import Report
from .sections import leads, reading, section
from .words import TITLES

__all__ = ["Gallery", "free", "gallery"]

TITLE = "Gallery"
LEADS = 4
"""Findings that the head of the page tells; more than that nobody reads there."""
RESERVED = ("main", "about", "reading", "citations", "theme", "status", "bibtex")
"""Names that the page itself links to."""
SHARED = {
    "dtype": "Numbers",
    "bos": "BOS",
    "length": "Longest window",
    "coordinates": "Coordinates",
}


@dataclass(frozen=True, repr=False, eq=False)
class Gallery(Shown):
    """Results by name, to be shown together. Each saves itself; this is only the page around them.

    Attributes:
        results: the results by name, in the order in which they are shown.
        title: heading of the page.
    """

    kind: ClassVar[str] = "gallery"

    provenance: dict[str, Any]
    results: dict[str, Shown]
    title: str = TITLE

    def summary(self) -> dict[str, Any]:
        """The models, and how many results there are."""
        return {**super().summary(), "results": len(self.results)}

    def cite(self) -> str:
        """BibTeX of the papers whose definitions the results follow, each once."""
        entries = [entry for item in self.results.values() for entry in item.cite().split("\n\n")]
        return "\n\n".join(dict.fromkeys(filter(None, entries)))

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        js: str = "inline",
        theme: str = "auto",
        overwrite: bool = False,
    ) -> Path:
        """Write one page with a section for each result; options and errors as in `Result.to_html`.

        Every figure has an address of its own, `#name-view`, and buttons that download its numbers.
        """
        return write(
            self, path, js=js, theme=theme, overwrite=overwrite, page=lambda _: _page(self)
        )


def gallery(results: Any, *, title: str | None = None) -> Gallery:
    """Results to be shown on one page: `lp.gallery([a, b]).to_html("all.html")`.

    Args:
        results: results or files that they were saved to, by name; or a list of them, which are named
            by what they are about.
        title: heading of the page; None is "Gallery".

    Raises:
        ArgumentError: no results, or something that is none.
        OutputError: a file that holds no result.

    Examples:
        >>> page = lp.gallery({"one text": lp.massive.scan(model, "The cat sat on the mat.")})
        >>> page.to_html("gallery.html").name
        'gallery.html'
    """
    if title is not None and not (isinstance(title, str) and title.strip()):
        raise ArgumentError(f"title={title!r}: some words, or None.")
    named = _named(results)
    # A comparison names the models that the others are of.
    own = [item for item in named.values() if item.kind != "comparison"] or named.values()
    models = [str(item.provenance.get("model", "?")) for item in own]
    each = {name: item.provenance for name, item in named.items()}
    facts = {"model": ", ".join(dict.fromkeys(models)), "results": each}
    return Gallery(facts, named, title or TITLE)


def _named(results: Any) -> dict[str, Shown]:
    if isinstance(results, Mapping):
        pairs: list[tuple[Any, Any]] = list(results.items())
    elif isinstance(results, Iterable) and not isinstance(results, str):
        pairs = [(None, item) for item in results]
    else:
        pairs = [(None, results)]
    if not pairs:
        raise ArgumentError("results: at least one result, or a file that one was saved to.")
    found: dict[str, Shown] = {}
    for name, item in pairs:
        opened = open_result(item) if isinstance(item, str | os.PathLike) else item
        if not isinstance(opened, Shown) or isinstance(opened, Gallery):
            raise ArgumentError(
                f"results: {type(opened).__name__} is no result of an analysis, nor a file with one."
            )
        if name is None:
            name = free(_called(opened), found)
        elif not isinstance(name, str) or not name.strip():
            raise ArgumentError(f"results: {name!r} is no name.")
        found[name] = opened
    return found


def _called(item: Shown) -> str:
    what = TITLES.get(item.kind, type(item).__name__)
    return f"{what}: {item.provenance.get('model', '?')}"


def free(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind it if something has it already."""
    taken, count, free = set(taken), 1, name
    while free in taken:
        count += 1
        free = f"{name} {count}"
    return free


@dataclass(frozen=True)
class _Part:
    """A result as a section: where, in whose name, and under which heading."""

    name: str
    title: str
    anchor: str
    result: Shown


def _page(shown: Gallery) -> Page:
    parts = _parts(shown)
    facts = {name: dict(item.provenance) for name, item in shown.results.items()}
    notes = [f"{name}: {note}" for name, own in facts.items() for note in own.pop("notes", ())]
    told = [f"{part.title}: {line}" for part in parts if (line := leads(part.result))]
    return Page(
        title=shown.title,
        model="",
        lead=" ".join(told) if len(told) <= LEADS else "",
        headlines=(),
        facts=_facts(shown),
        provenance=tuple(flatten(facts)),
        notes=tuple(notes),
        sections=tuple(section(part.result, part.anchor, part.title) for part in parts),
        citations=shown.cite(),
        complete=all(own.get("complete", True) for own in facts.values()),
        reading=tuple(dict.fromkeys(reading([part.result for part in parts]))),
    )


def _parts(shown: Gallery) -> list[_Part]:
    """The sections; a result made of results has one for each of them."""
    found: list[_Part] = []
    for name, item in shown.results.items():
        inner = {"": item} if not isinstance(item, Report) else item.parts
        for part in inner.values():
            title = name if part is item else f"{name}: {TITLES[part.kind].lower()}"
            anchor = free(_slug(title), [*RESERVED, *(other.anchor for other in found)])
            found.append(_Part(name, title, anchor.replace(" ", "-"), part))
    return found


def _slug(title: str) -> str:
    """A heading as the end of a link: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "result"


def _facts(shown: Gallery) -> tuple[Fact, ...]:
    """What the results are about, those facts that they agree on once."""
    own = [item.provenance for item in shown.results.values()]
    lines = [
        Fact("Results", f"{len(own):,}"),
        Fact("Models", str(shown.provenance["model"])),
    ]
    for key, label in SHARED.items():
        known = dict.fromkeys(str(facts[key]) for facts in own if facts.get(key) is not None)
        if known:
            lines.append(Fact(label, ", ".join(known)))
    return tuple(lines)
