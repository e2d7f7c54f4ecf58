"""Hooks of mkdocs: API pages made of what `__all__` says, notebooks, and formulas as MathML.

Written out by hand an API page would forget a name; a script that draws formulas in the reader's
browser would ask another host for itself.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import lensprobe as lp

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
EXECUTED = ROOT / "build" / "notebooks"
ROOMS = ("massive", "sinks", "steering", "interpolation", "mnist", "positions")
FORMULA = re.compile(r"(`[^`\n]*`)|\$([^$\n]+)\$")


def on_files(files: Files, config: Any) -> Files:
    """Add `api/<room>.md`; functions come before the types that they return."""
    own = [name for name in lp.__all__ if name not in ROOMS]
    pages = {"core": ("Models, running, edits", lp, own)}
    for room in ROOMS:
        module = importlib.import_module(f"lensprobe.{room}")
        pages[room] = (f"lp.{room}", module, module.__all__)
    for name, (title, module, members) in pages.items():
        ordered = sorted(members, key=lambda member: (member[0].isupper(), member))
        body = "\n".join(_entry(module, member) for member in ordered)
        files.append(File.generated(config, f"api/{name}.md", content=f"# {title}\n\n{body}\n"))
    files.append(File.generated(config, "notebooks.md", content=_shelf()))
    for page in sorted(EXECUTED.glob("*.html")):
        copy = File.generated(config, f"notebooks/{page.name}", content=page.read_bytes())
        files.append(copy)
    return files


def _shelf() -> str:
    """A list of the notebooks by their titles; those that were executed are links."""
    lines = ["# Notebooks", "", "Each runs in a few minutes on two cores. As executed:", ""]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")
        done = EXECUTED / f"{path.stem}.html"
        lines.append(f"- [{title}](notebooks/{done.name})" if done.exists() else f"- {title}")
    return "\n".join(lines) + "\n"


def _entry(module: ModuleType, name: str) -> str:
    """A name by where it is defined: in some rooms a module has the name of its function."""
    found = getattr(module, name)
    path = f"{found.__module__}.{found.__qualname__}"
    heading = f"{module.__name__.replace('lensprobe', 'lp', 1)}.{name}"
    return f"::: {path}\n    options:\n      heading: {heading}"


def on_page_markdown(markdown: str, **context: Any) -> str:
    """`$...$` as MathML, which every browser draws by itself; code is left alone."""
    # In a span, because a line that begins with a formula would else be a paragraph of its own.
    return FORMULA.sub(lambda found: found[1] or f"<span>{convert(found[2])}</span>", markdown)
