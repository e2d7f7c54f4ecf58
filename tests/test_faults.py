"""A quick pass of `make faults`: each fault that costs little, a few times."""

from __future__ import annotations

import importlib.metadata

import pytest

from faults import Fault, NotHereError, families
from faults.page import refresh, section
from faults.trying import attempt

# Files and pages are the same on both lines of TransformerLens; hooks are not.
LEGACY = importlib.metadata.version("transformer-lens").startswith("3.")
QUICK = {
    f"{family}: {fault.name}": fault
    for family, (_, faults) in families().items()
    for fault in faults
    if fault.quick and (family == "hooks" or not LEGACY)
}


@pytest.mark.parametrize("name", QUICK)
def test_the_promise_is_kept(name):
    outcome = attempt(QUICK[name], QUICK[name].quick)
    if outcome.missing:
        pytest.skip(outcome.missing)
    assert not outcome.broken
    assert outcome.tried == QUICK[name].quick


def trial(outcome):
    def run(chance, folder):
        assert not list(folder.iterdir())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return run


def fault(outcome, **options):
    return Fault("a <fault>", "all|well", trial(outcome), 3, **options)


def test_a_broken_promise_is_counted_and_quoted():
    outcome = attempt(fault(ValueError("two\nlines")), 2)
    assert (outcome.tried, len(outcome.broken)) == (2, 2)
    page = section("T", [outcome])
    assert "| 2 | 0 | **2 broken**: trial 0: ValueError: two; trial 1" in page


def test_what_hangs_is_broken():
    import time

    def hang(chance, folder):
        time.sleep(60)

    (words,) = attempt(Fault("hang", "", hang, 1, limit=0.1), 1).broken
    assert "still running after 0.1 s" in words


def test_what_cannot_be_tried_is_said():
    outcome = attempt(fault(NotHereError("no mount")), 3)
    assert outcome.tried == 0 and "not tried here: no mount" in section("T", [outcome])


def test_a_section_replaces_the_one_of_its_name(tmp_path):
    page = tmp_path / "page.md"
    first = section("One", [attempt(fault("well"), 2)])
    assert "a &lt;fault> | all\\|well | 2 | 2 | 2 × well |" in first
    refresh("One", first, page)
    refresh("Two", "## Two\n\nB\n", page)
    refresh("One", "## One\n\nA\n", page)
    text = page.read_text()
    assert text.startswith("# ") and text.endswith("## One\n\nA\n\n## Two\n\nB\n")
    assert "well" not in text
