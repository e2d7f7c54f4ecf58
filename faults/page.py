"""`docs/reliability.md`: a section a family, replaced when that family is tried again."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from .trying import Outcome

__all__ = ["PAGE", "refresh", "section"]

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
HEAD = """# What happens when things go wrong

Each fault below was brought about for real, as often as the table says, by `make faults` (and
`make fuzz`), which also wrote this page. *Held* counts the trials in which the promise was kept; the
others are named.
"""
SHOWN = 3
"""Broken trials that are quoted."""


def section(title: str, outcomes: Sequence[Outcome]) -> str:
    """One family as a section: what was promised, how often it was tried, what happened."""
    lines = [f"## {title}", "", _setting(), ""]
    lines += ["| fault | must hold | tried | held | what happened |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        fault = outcome.fault
        held = outcome.outcomes.total()
        cells = (fault.name, fault.promise, f"{outcome.tried:,}", f"{held:,}", _happened(outcome))
        lines.append("| " + " | ".join(_cell(words) for words in cells) + " |")
    return "\n".join(lines) + "\n"


def refresh(title: str, text: str, page: Path = PAGE) -> None:
    """Put a section into the page, in the place of an older one of the same title."""
    with FileLock(Path(tempfile.gettempdir(), "lensprobe-faults.lock")):
        _replace(title, text, page)


def _replace(title: str, text: str, page: Path) -> None:
    old = page.read_text(encoding="utf-8") if page.exists() else HEAD
    sections = re.split(r"^(?=## )", old, flags=re.M)[1:]
    kept = {part.splitlines()[0].removeprefix("## "): part.rstrip() for part in sections}
    kept[title] = text.rstrip()
    page.write_text("\n\n".join([HEAD.rstrip(), *kept.values()]) + "\n", encoding="utf-8")


def _happened(outcome: Outcome) -> str:
    if outcome.missing:
        return f"not tried here: {outcome.missing}"
    told = [f"{count:,} × {words}" for words, count in outcome.outcomes.most_common()]
    if outcome.broken:
        told.append(f"**{len(outcome.broken)} broken**: {'; '.join(outcome.broken[:SHOWN])}")
    return "; ".join(told)


def _cell(words: str) -> str:
    """Words that stay in their cell, as text and not as markup."""
    plain = "".join(c if c.isprintable() else " " for c in words)
    return (
        plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("$", "&#36;")
    )


def _setting() -> str:
    # Not above: what is fuzzed must be imported by the fuzzer.
    import lensprobe

    names = ("torch", "transformer-lens", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    today = datetime.date.today().isoformat()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    python = platform.python_version()
    return f"{today}, lensprobe {lensprobe.__version__}, Python {python}, {versions}; {machine}."
