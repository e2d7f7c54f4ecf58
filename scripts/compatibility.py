"""`docs/compatibility.md`: every analysis on every class of model, from the tests that were run.

    python scripts/compatibility.py [MAIN.xml LEGACY.xml] [--out docs/compatibility.md]

Reads what pytest leaves (`make test` and `make test-legacy` write `build/junit-*.xml`); runs nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lensprobe.models.checking import _NEEDS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
LINES = ("4.3", "3.9")
"""Of TransformerLens, in the order of the two files."""

ELSEWHERE = {
    "lp.forward": ("running", "adapter", "edits"),
    "lp.score": ("running",),
    "lp.generate": ("running",),
    "lp.editing": ("running",),
    "lp.chat": ("running",),
    "lp.report": ("report",),
    "lp.interpolation.loss": ("interpolation_learn",),
    "lp.massive.train_and_watch": ("massive_training", "massive_resume", "massive_account"),
    "lp.sinks.first_token_detector": ("sinks_detector",),
    "lp.steering.calibrate": ("steering_calibrate", "steering_measures"),
    "lp.steering.compare_depth": ("steering_compare",),
    "lp.steering.compare_persistence": ("steering_compare",),
    "lp.steering.compare_positions": ("steering_compare",),
    "lp.steering.compare_sites": ("steering_compare",),
    "lp.steering.compare_stacks": ("steering_stacks",),
    "lp.steering.contrast": ("steering_vectors",),
    "lp.steering.mixing": ("steering_vectors", "steering_stacks"),
}
"""Analyses whose tests are not in a file of their own name."""

OTHERS = {
    "Loading: folders, GGUF files, hub ids": ("loading",),
    "Encoder-decoders (T5)": ("seq2seq",),
    "Scans kept in a folder": ("resuming", "shards", "pieces"),
    "Every analysis once, and what `lp.check` says": ("check",),
}


@dataclass(frozen=True)
class Case:
    """One test: its file without `test_`, the models it was given, how it ended, and why."""

    file: str
    models: tuple[str, ...]
    ended: str
    why: str


def cases(path: Path) -> Iterator[Case]:
    """The tests of a junit file."""
    for case in ElementTree.parse(path).iter("testcase"):
        file = case.get("classname", "").split(".")[-1].removeprefix("test_")
        models = tuple(
            sorted(p.get("value", "") for p in case.iter("property") if p.get("name") == "model")
        )
        ended, why = "passed", ""
        for name, tag in (("failed", "failure"), ("failed", "error"), ("skipped", "skipped")):
            found = case.find(tag)
            if found is not None:
                ended, why = name, (found.get("message") or "").splitlines()[0]
        yield Case(file, models, ended, why)


def files_of(analysis: str) -> tuple[str, ...]:
    """Names of the test files of an analysis, without `test_`."""
    return ELSEWHERE.get(analysis, (analysis.removeprefix("lp.").replace(".", "_"),))


def page(files: dict[str, Path]) -> str:
    """The whole page."""
    found = {line: list(cases(path)) for line, path in files.items()}
    classes = [(line, model) for line in found for model in _models(found[line])]
    rows = {f"`{name}`": files_of(name) for name in _NEEDS} | OTHERS
    head = [f"{model}, TransformerLens {line}" if model else f"no model shared, {line}"
            for line, model in classes]  # fmt: skip
    lines = [HEAD, "", "| | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for name, files_ in rows.items():
        cells = [_cell([c for c in found[line] if c.file in files_ and _of(c, model)])
                 for line, model in classes]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Why tests were skipped, and what failed", ""]
    for line in found:
        lines += [f"TransformerLens {line}:", "", *_reasons(found[line]), ""]
    lines += [
        "## All tests",
        "",
        "| TransformerLens | passed | skipped | failed |",
        "|---|---|---|---|",
    ]
    for line in found:
        ended = Counter(case.ended for case in found[line])
        lines.append(f"| {line} | {ended['passed']} | {ended['skipped']} | {ended['failed']} |")
    return "\n".join(lines) + "\n"


HEAD = """# What runs on which class of model

Made by `make compatibility` from the test runs of both lines of TransformerLens, not by hand. A cell
counts the tests of an analysis that were given a model of that class: passed, and how many were skipped
or failed. One test file may serve several analyses. Tests without a shared model check arguments,
figures, files and models that they make themselves. TransformerLens 3.9 has a bridge too: it
carries folders and GGUF files there."""


def _models(found: list[Case]) -> list[str]:
    names = {model for case in found for model in case.models}
    return [*sorted(names & {"HookedTransformer", "TransformerBridge"}), ""]


def _of(case: Case, model: str) -> bool:
    return model in case.models if model else not case.models


def _cell(found: list[Case]) -> str:
    ended = Counter(case.ended for case in found)
    told = [f"{ended['passed']}"] if ended["passed"] else []
    told += [f"{ended[name]} {name}" for name in ("skipped", "failed") if ended[name]]
    return ", ".join(told) or "–"


def _reasons(found: list[Case]) -> list[str]:
    reasons: dict[tuple[str, str], set[str]] = defaultdict(set)
    counts: Counter[tuple[str, str]] = Counter()
    for case in found:
        if case.ended != "passed":
            key = case.ended, re.sub(r"[|<`]", " ", case.why).strip()
            reasons[key].add(case.file)
            counts[key] += 1
    rows = [f"- {count} {ended} ({', '.join(sorted(reasons[ended, why]))}): {why}"
            for (ended, why), count in counts.most_common()]  # fmt: skip
    return rows or ["- none"]


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = [ROOT / "build" / f"junit-{name}.xml" for name in ("main", "legacy")]
    parser.add_argument("junit", nargs="*", type=Path, default=defaults)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    if len(given.junit) != len(LINES):
        parser.error(f"one junit file for each of TransformerLens {' and '.join(LINES)}")
    missing = [str(path) for path in given.junit if not path.is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}; `make test test-legacy` writes them")
    text = page(dict(zip(LINES, given.junit, strict=True)))
    given.out.write_text(text, encoding="utf-8")
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
