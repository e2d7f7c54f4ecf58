"""`make compatibility`: the page follows from the junit files, and no analysis is without tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lensprobe.models.checking import _NEEDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "compatibility.py"
JUNIT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.test_sinks_evict" name="test_a[tiny_gpt2]"><properties>
  <property name="model" value="{model}"/></properties></testcase>
<testcase classname="tests.test_sinks_evict" name="test_b[tiny_gpt2]"><properties>
  <property name="model" value="{model}"/></properties><skipped message="needs | a bridge"/></testcase>
<testcase classname="tests.test_sinks_evict" name="test_c"><failure message="two&#10;lines"/></testcase>
<testcase classname="tests.test_nothing" name="test_d"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    import compatibility

    sys.path.remove(str(SCRIPT.parent))
    return compatibility


def test_every_analysis_has_a_file_of_tests(script):
    for names in (*map(script.files_of, _NEEDS), *script.OTHERS.values()):
        for name in names:
            assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_the_page_counts_what_ran(script, tmp_path):
    files = {}
    for line, model in (("4.3", "TransformerBridge"), ("3.9", "HookedTransformer")):
        files[line] = tmp_path / f"{line}.xml"
        files[line].write_text(JUNIT.format(model=model))
    rows = script.page(files).splitlines()
    head = next(row for row in rows if row.startswith("| |"))
    assert "TransformerBridge, TransformerLens 4.3" in head
    assert "HookedTransformer, TransformerLens 3.9" in head
    evict = next(row for row in rows if row.startswith("| `lp.sinks.evict`"))
    assert evict == "| `lp.sinks.evict` | 1, 1 skipped | 1 failed | 1, 1 skipped | 1 failed |"
    assert "- 1 skipped (sinks_evict): needs   a bridge" in rows
    assert "- 1 failed (sinks_evict): two" in rows
    assert "| 4.3 | 2 | 1 | 1 |" in rows


def test_missing_files_are_named(tmp_path):
    given = [sys.executable, str(SCRIPT), str(tmp_path / "a.xml"), str(tmp_path / "b.xml")]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode and "no such file" in done.stderr


def test_the_models_of_a_test_are_noted(tiny_gpt2, request):
    assert ("model", type(tiny_gpt2).__name__) in request.node.user_properties
