"""Every public callable shows how it is called, and what its example shows is what happens.

The examples in docstrings are run as they stand, with `lp` and `model`, the planted model, at hand.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lensprobe as lp
from lensprobe.results import Result

ROOT = Path(lp.__file__).parent
RETURNED = ("lp.TokenBatch", "lp.mnist.DigitsData", "lp.positions.Positions", "lp.positions.Step")
"""Besides results and errors, what is handed over by calls and never made by a user."""
ROOMS = ("massive", "sinks", "steering", "interpolation", "mnist", "explore", "positions")


def modules() -> Iterator[ModuleType]:
    """The modules in which an example stands."""
    for file in sorted(ROOT.rglob("*.py")):
        if ">>>" in file.read_text("utf-8"):
            parts = file.relative_to(ROOT.parent).with_suffix("").parts
            yield importlib.import_module(".".join(p for p in parts if p != "__init__"))


def public() -> Iterator[tuple[str, Any]]:
    """What a user calls, by the name that the user writes: functions, and what one makes oneself."""
    for room, module in (("lp", lp), *((f"lp.{name}", getattr(lp, name)) for name in ROOMS)):
        for name in module.__all__:
            value, full = getattr(module, name), f"{room}.{name}"
            returned = inspect.isclass(value) and issubclass(value, (Result, BaseException))
            if callable(value) and not returned and full not in RETURNED:
                yield full, value


CALLS = dict(public())
EXAMPLES = {
    test.name: (test, module)
    for module in modules()
    for test in doctest.DocTestFinder().find(module)
    if test.examples
}


def test_there_are_calls_to_look_at():
    assert {"lp.load", "lp.open", "lp.massive.scan", "lp.positions.front"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_public_callable_has_an_example_that_shows_something(name):
    call = CALLS[name]
    assert ">>> " in (inspect.getdoc(call) or ""), f"{name} has no example"
    test, _ = EXAMPLES[f"{call.__module__}.{call.__qualname__}"]
    assert any(example.want for example in test.examples), f"{name}: nothing is shown"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_true(name, planted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    test, module = EXAMPLES[name]
    assert not any(doctest.SKIP in example.options for example in test.examples), "left out"
    called = any(f"{c.__module__}.{c.__qualname__}" == name for c in CALLS.values())
    # A reader of a public function's example has not imported what its module has.
    test.globs = {**({} if called else vars(module)), "lp": lp, "model": planted}
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    assert result.attempted and not result.failed, "".join(said)
