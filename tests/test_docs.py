"""The documentation's Python runs from top to bottom, page by page, on the model that needs nothing."""

from __future__ import annotations

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
