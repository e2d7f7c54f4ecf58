"""The README's promises, kept: its Python runs from top to bottom, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lensprobe as lp

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
CALLS = re.findall(r"`lp\.([a-z_.]+)\(", README.read_text(encoding="utf-8"))


@pytest.mark.weights
@pytest.mark.slow
def test_the_python_runs_as_it_stands(smollm2, monkeypatch, tmp_path):
    """Line for line, with a model that needs no hub in GPT-2's place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lp, "load", lambda name: smollm2)
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "praise.safetensors").is_file()


def test_there_is_something_to_run():
    assert len(BLOCKS) >= 3 and "lp.massive.scan" in BLOCKS[0]


@pytest.mark.parametrize("call", sorted(set(CALLS)))
def test_every_call_exists(call):
    found = lp
    for part in call.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (README.parent / link).exists()]
