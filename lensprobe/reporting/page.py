"""From parts to one HTML file that needs no network, no server and no second file."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from ..errors import ArgumentError, OutputError, nearest
from ..plot.theme import DARK, LIGHT
from ..results import Result, writing
from .assets import asset, environment
from .parts import Fact, Page, flatten
from .sections import headlines, leads, reading, section
from .words import TITLES

__all__ = ["page_of", "render", "write"]

JS = ("inline", "directory", "cdn")
THEME_CHOICES = ("auto", "light", "dark")
PLOTLY_FILE = f"plotly-{get_plotlyjs_version()}.min.js"
CDN = f"https://cdn.plot.ly/{PLOTLY_FILE}"


def write(
    result: Any,
    path: str | os.PathLike[str],
    *,
    js: str = "inline",
    theme: str = "auto",
    overwrite: bool = False,
    page: Callable[[Any], Page] | None = None,
) -> Path:
    """Write a result's page; see `Result.to_html`. `page` makes its parts, `page_of` by default."""
    _choice("js", js, JS)
    _choice("theme", theme, THEME_CHOICES)
    target = Path(path)
    # Opening the target first means a path that cannot be written costs no drawing.
    with writing(target, overwrite=overwrite) as handle:
        made = (page or page_of)(result)
        handle.write(render(made, js=js, theme=theme).encode("utf-8", "replace"))
    if js == "directory" and _drawn(made):
        _library(target.parent / PLOTLY_FILE)
    return target


def _choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise ArgumentError(
            f"{name}={given!r}: one of {', '.join(allowed)}.{nearest(str(given), allowed)}"
        )


def _library(path: Path) -> None:
    source = get_plotlyjs().encode()
    if path.is_file() and path.read_bytes() == source:
        return
    try:
        with writing(path, overwrite=True) as handle:
            handle.write(source)
    except OutputError as error:
        raise OutputError(
            f"The page was written, but plotly.js beside it was not: {error}"
        ) from error


def page_of(result: Result) -> Page:
    """The parts of a result's page: a section for each result in it."""
    parts = [part for part in vars(result).values() if isinstance(part, Result)] or [result]
    facts = result.provenance
    sections = [section(part) for part in parts]
    names = [part.title for part in sections]
    return Page(
        title=" and ".join([names[0], *(name.lower() for name in names[1:])]),
        model=str(facts.get("model", "?")),
        lead=" ".join(filter(None, (leads(part) for part in parts))),
        headlines=tuple(fact for part in parts for fact in headlines(part)),
        facts=_facts(parts, facts),
        provenance=tuple(flatten({k: v for k, v in facts.items() if k != "notes"})),
        notes=tuple(facts.get("notes") or ()),
        sections=tuple(sections),
        citations=result.cite(),
        complete=all(part.provenance.get("complete", True) for part in (result, *parts)),
        reading=reading(parts),
    )


def _facts(parts: list[Result], facts: dict[str, Any]) -> tuple[Fact, ...]:
    """The lines of the model card at the head of the page, those that are known."""
    revision = facts.get("revision")
    shapes = [getattr(part, "landscape", np.zeros((0, 0))).shape for part in parts]
    size = [
        (facts.get("n_layers") or _count(parts, "layer"), "{} layers"),
        (facts.get("n_heads") or _count(parts, "head"), "{} heads each"),
        (facts.get("d_model") or max(shape[1] for shape in shapes), "width {}"),
    ]
    sites = [str(p.provenance["site"]) for p in parts if p.provenance.get("site")]
    text = [f"{facts[key]:,} {key}" for key in ("documents", "tokens") if facts.get(key)]
    lines = [
        ("Model", f"{facts.get('model', '?')}" + (f" @ {revision}" if revision else "")),
        ("Source", str(facts.get("source") or "")),
        ("Size", ", ".join(words.format(count) for count, words in size if count)),
        ("Numbers", ", ".join(str(facts[key]) for key in ("dtype", "device") if facts.get(key))),
        ("Text", _texts(text, facts.get("texts"))),
        ("Longest window", _windows(parts)),
        ("First token", _bos(facts.get("bos"))),
        ("Read at", ", ".join(dict.fromkeys(sites))),
        ("Coordinates", _coordinates(str(facts.get("coordinates") or ""))),
    ]
    return tuple(Fact(label, value) for label, value in lines if value)


def _texts(counts: list[str], given: Any) -> str:
    """What was read: counts, and the name of the texts, or how many there are of each group."""
    if isinstance(given, dict):
        return ", ".join(f"{name}: {count}" for name, count in given.items())
    if isinstance(given, int):
        return ", ".join([*counts, f"{given:,} texts" if given != 1 else "1 text"])
    return ", ".join(counts) + (f" ({given})" if given else "")


def _count(parts: list[Result], column: str) -> int | None:
    for part in parts:
        for name in part.tables:
            frame = part.to_frame(name)
            if column in frame and len(frame):
                return int(frame[column].nunique())
    return None


def _windows(parts: list[Result]) -> str:
    """`64 tokens`, or each section's own where they differ."""
    given = {TITLES.get(p.kind, p.kind).lower(): p.provenance.get("length") for p in parts}
    known = {name: f"{length:,} tokens" for name, length in given.items() if length}
    if len(set(known.values())) <= 1:
        return next(iter(known.values()), "")
    return ", ".join(f"{length} ({name})" for name, length in known.items())


def _coordinates(given: str) -> str:
    return "raw weights, nothing folded or centred" if given == "raw" else given


def _bos(bos: Any) -> str:
    if bos is None:
        return ""
    return "a beginning-of-sequence token" if bos else "the text's own first token"


def render(page: Page, *, js: str = "inline", theme: str = "auto") -> str:
    """The page as one string of HTML."""
    scripts = [asset(name) for name in ("report.js", *_own(page, "script"))]
    # Without a figure there is nothing for plotly.js to draw, and no host to be allowed.
    js = js if _drawn(page) else "none"
    sources = {"directory": PLOTLY_FILE, "cdn": CDN}.get(js, "")
    if js == "inline":
        scripts.insert(0, get_plotlyjs())
    template = environment().get_template("report.html.j2")
    styles = ["report.css", *_own(page, "style")]
    return template.render(
        page=page,
        theme=theme,
        policy=_policy(scripts, js),
        # Both are files of this package and of plotly, never data.
        scripts=[Markup(script) for script in scripts],
        style=Markup("\n".join(map(asset, styles))),
        source=sources,
        integrity=_digest(get_plotlyjs(), "sha384"),
        light=LIGHT,
        dark=DARK,
        js=js,
    )


def _drawn(page: Page) -> bool:
    return any(section.figures for section in page.sections)


def _own(page: Page, what: str) -> list[str]:
    """The files that the page's views bring along, each once."""
    views = [view for section in page.sections for view in section.views]
    return [name for name in dict.fromkeys(getattr(view, what) for view in views) if name]


def _policy(scripts: list[str], js: str) -> str:
    """A content-security policy that runs exactly the scripts of this page and loads nothing else.

    plotly sets style attributes on everything it draws, which only 'unsafe-inline' allows.
    """
    allowed = [f"'{_digest(script, 'sha256')}'" for script in scripts]
    if js == "cdn":
        allowed.append("https://cdn.plot.ly")
    if js == "directory":
        allowed.append("'self' file:")
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "font-src data:",
            "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _digest(text: str, name: str) -> str:
    digest = hashlib.new(name, text.encode()).digest()
    return f"{name}-{base64.b64encode(digest).decode()}"
