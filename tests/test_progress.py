"""Progress as lines of JSON: what is done, of how much, how fast, how long it takes yet."""

from __future__ import annotations

import importlib
import json
from contextlib import nullcontext

import pytest

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.running import progress
from lensprobe.running.batching import progress_bar


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def told(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_lines_say_rate_and_time_left_once_a_second(clock, capsys):
    with progress_bar("tok", "json", total=1000) as bar:
        for _ in range(40):
            clock.now += 0.25
            bar.update(10)
    found = told(capsys)
    assert [line["done"] for line in found] == [*range(10, 400, 40), 400]
    assert set(found[0]) == {"done", "total", "unit", "rate", "seconds", "seconds_left"}
    assert all(line["rate"] == 40 and line["unit"] == "tok" for line in found)
    assert found[-1]["seconds_left"] == 15 and found[-1]["seconds"] == 10


def test_what_an_earlier_run_had_done_is_not_speed(clock, capsys):
    with progress_bar("tok", "json") as bar:
        clock.now += 0.1
        bar.update(100_000)
        for _ in range(progress.RECENT + 5):
            clock.now += 1
            bar.total = 101_000
            bar.update(10)
    last = told(capsys)[-1]
    assert last["rate"] == pytest.approx(10)
    assert last["seconds_left"] == pytest.approx((101_000 - last["done"]) / 10)


def test_without_a_total_nothing_is_promised(clock, capsys):
    with progress_bar("step", "json") as bar:
        bar.set_postfix_str("first")
        clock.now += 2
        bar.update()
        bar.update()
    first, last = told(capsys)
    assert first["total"] is None and first["seconds_left"] is None and first["note"] == "first"
    assert last["done"] == 2


@pytest.mark.parametrize("given", ["jsno", 2, "bar"])
def test_other_values_are_refused(given):
    with pytest.raises(ArgumentError, match=r'True, False, None or "json"'):
        progress_bar("tok", given)


def test_every_analysis_takes_it(tiny_gpt2, capsys, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"Hello world, this is number {n}." for n in range(50)))
    with lp.options(progress="json"):
        scan = lp.massive.scan(tiny_gpt2, path, batch_tokens=64)
        lp.score(tiny_gpt2, ["Hello world", "I am"])
    found = told(capsys)
    scanned = [line for line in found if line["unit"] == "tok"]
    assert scanned[-1]["done"] == scanned[-1]["total"] == scan.provenance["tokens"]
    assert found[-1]["unit"] == "text" and found[-1]["done"] == found[-1]["total"] == 2


class Bar:
    """What is drawn on: keeps every step."""

    def __init__(self):
        self.n, self.total, self.steps = 0, None, []

    def update(self, step):
        self.n += step
        self.steps.append(self.n)


@pytest.fixture
def drawn(monkeypatch):
    bar = Bar()
    # By name: `lp.steering.difference` is the function.
    for module in ("scanning", "steering.difference", "interpolation.texts"):
        there = importlib.import_module(f"lensprobe.{module}")
        monkeypatch.setattr(there, "progress_bar", lambda *args, **kwargs: nullcontext(bar))
    return bar


SENTENCES = [
    f"Number {k} is larger than number {k - 1} and smaller than the next." for k in range(24)
]


@pytest.mark.parametrize(
    "call",
    [
        lambda model, out: lp.massive.scan(model, SENTENCES, batch_tokens=64, out=out),
        lambda model, out: lp.interpolation.score(
            model, SENTENCES, layer=1, weight=0.3, batch_tokens=64, out=out
        ),
        lambda model, out: lp.steering.difference(
            model, SENTENCES, SENTENCES[::-1], layers=1, batch_tokens=64, out=out
        ),
    ],
    ids=["scan", "score", "difference"],
)
def test_a_run_that_is_kept_moves_with_every_batch_and_ends_where_one_that_is_not_ends(
    tiny_llama, tmp_path, drawn, call
):
    call(tiny_llama, None)
    plain, drawn.n, drawn.steps = drawn.steps, 0, []
    call(tiny_llama, tmp_path / "run")
    kept, drawn.n, drawn.steps = drawn.steps, 0, []
    # One piece, many batches.
    assert len(plain) > 5 and len(set(kept)) > 5
    assert kept == sorted(kept)
    assert kept[-1] == plain[-1]
    call(tiny_llama, tmp_path / "run")
    assert drawn.steps == [plain[-1]]
