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
ROOMS = ("massive", "sinks", "steering", "interpolation", "mnist", "explore", "positions")
EXAMPLES = (
    "In the examples `lp` is `import lensprobe as lp`, and `model` is [the planted model]"
    '(../planted.md), `lp.load("planted")`, whose answers are known.'
)
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
        text = f"# {title}\n\n{EXAMPLES}\n\n{body}\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    files.append(File.generated(config, "notebooks.md", content=_shelf()))
    for page in sorted(EXECUTED.glob("*.*")):
        text = page.read_text(encoding="utf-8")
        text = linked(text) if page.suffix == ".html" else text
        files.append(File.generated(config, f"notebooks/{page.name}", content=text))
    return files


def linked(page: str) -> str:
    """A notebook's page whose links lead to pages of this site, not to the files they are made of."""
    page = re.sub(r'href="(\w+)\.ipynb"', r'href="\1.html"', page)
    return re.sub(r'href="\.\./docs/([\w/-]+)\.md(#[\w-]+)?"', r'href="../\1/\2"', page)


def _shelf() -> str:
    """A list of the notebooks: title and opening question; those that were executed are links."""
    lines = [
        "# Notebooks",
        "",
        "One book, to be read in order or by its questions. Each runs in a few",
    ]
    lines += [
        "minutes on two cores; `make docs` executes them, and then they open here as pages.",
        "",
    ]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title, _, rest = "".join(cells[0]["source"]).partition("\n")
        title, asked = title.lstrip("# "), re.split(r"(?<=[.?])\s", rest.strip(), maxsplit=1)[0]
        done = EXECUTED / f"{path.stem}.html"
        name = f"[{title}](notebooks/{done.name})" if done.exists() else title
        lines.append(f"- **{name}** {' '.join(asked.split())}")
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
