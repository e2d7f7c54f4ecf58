"""The page about columns knows the vocabulary, and says nothing twice."""

from __future__ import annotations

import re

from columns import PAGE, documented, unknown
from synthetic import massive_scan, sink_scan

ARCHITECTURE = PAGE.parent / "architecture.md"


def test_the_vocabulary_of_the_architecture_is_defined():
    text = ARCHITECTURE.read_text(encoding="utf-8")
    names = re.search(r"column vocabulary has gained(.*?)\n- ", text, re.S)
    assert names
    found = set(re.findall(r"`(\w+)`", names[1]))
    assert len(found) > 50
    assert found <= documented()


def test_a_scan_of_each_kind_has_known_columns_only():
    assert unknown(massive_scan()) == unknown(sink_scan()) == set()


def test_a_column_that_nobody_defined_is_found():
    scan = massive_scan()
    scan.findings.insert(0, "colour", "blue")
    assert unknown(scan) == {"colour"}


def test_beginnings_stand_for_what_begins_so():
    scan = massive_scan()
    scan.findings.insert(0, "plain_entropy", 0.0)
    assert unknown(scan) == set()


def test_every_term_has_a_definition():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    terms = [k for k, line in enumerate(lines) if line.startswith("`")]
    assert terms and all(lines[k + 1].startswith(": ") for k in terms)
