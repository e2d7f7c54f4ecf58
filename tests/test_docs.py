"""The documentation's Python runs from top to bottom, page by page, on the model that needs nothing."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import lensprobe as lp

DOCS = Path(__file__).parents[1] / "docs"


def runnable() -> dict[str, list[str]]:
    """Page -> its Python blocks; pages that only sketch do not begin with an import."""
    pages = {}
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        if blocks and blocks[0].startswith("import lensprobe"):
            pages[str(page.relative_to(DOCS))] = blocks
    return pages


PAGES = runnable()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page, monkeypatch, tmp_path):
    planted = lp.load("planted", device="cpu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lp, "load", lambda name: planted)
    names: dict = {}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)


def test_a_notebooks_page_draws_its_figures_and_asks_no_host(monkeypatch):
    pytest.importorskip("nbconvert", reason="the documentation: pip install 'lensprobe[dev]'")
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    monkeypatch.syspath_prepend(DOCS.parent / "scripts")
    pages = importlib.import_module("notebook_pages")
    figure = lp.massive.scan(lp.load("planted"), ["The cat sat on the mat."]).plot()
    shown = new_output("display_data", {pages.FIGURE: figure.to_plotly_json()})
    cell = new_code_cell("scan.plot()", outputs=[shown])
    page = pages.page(pages.drawn(new_notebook(cells=[cell])), "one")
    assert page.count("Plotly.newPlot(") == 1 and f'src="{pages.PLOTLY}"' in page
    assert not re.search(r"""(src=|import|import\()\s*["']https?:""", page)
