"""The notebooks, executed, as pages that ask no other host for anything: a part of `make docs`.

nbconvert alone would leave every figure out, because no frontend is there that says how to draw one,
and its pages load scripts from other hosts that nothing in these notebooks needs.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import nbformat
import plotly.io as pio
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).parents[1]
NOTEBOOKS, PAGES = ROOT / "notebooks", ROOT / "build" / "notebooks"
FIGURE = "application/vnd.plotly.v1+json"
PLOTLY = "plotly.min.js"
PATIENCE = 900
"""Seconds that one cell may take."""
FOREIGN = re.compile(
    r"<script\b(?:(?!</script>).)*?https?://(?:(?!</script>).)*</script>", re.DOTALL
)


def executed(path: Path) -> Any:
    """A notebook with its outputs, run in the folder that it lies in."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=where).execute()
    return notebook


def drawn(notebook: Any) -> Any:
    """The notebook with an HTML fragment for each figure, which needs plotly.js on its page."""
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    for data in (one["data"] for one in outputs if FIGURE in one.get("data", ())):
        figure = {part: data[FIGURE].get(part) for part in ("data", "layout")}
        data["text/html"] = pio.to_html(
            figure,
            include_plotlyjs=False,
            full_html=False,
            validate=False,
            config={"displaylogo": False, "responsive": True},
        )
    return notebook


def page(notebook: Any, name: str) -> str:
    """One HTML page; plotly.js lies beside it, once for all pages."""
    text, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": name}})
    own = f'<script src="{PLOTLY}"></script>\n</head>'
    return FOREIGN.sub("", text).replace("</head>", own, 1)


def main() -> None:
    """Write the pages of all notebooks, or of those that are named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb"))
    )
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / PLOTLY).write_text(get_plotlyjs(), encoding="utf-8")
    for path in parser.parse_args().notebooks:
        text = page(drawn(executed(path)), path.stem)
        (PAGES / f"{path.stem}.html").write_text(text, encoding="utf-8")
        print(path.stem)


if __name__ == "__main__":
    main()
