"""A training that ended anywhere goes on, and gives the numbers of one that never ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from test_massive_training import PLACE, SMALL, TEXTS

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.massive import FreezeMoment, Recipe, WarmStart, ZeroMoment, train_and_watch
from lensprobe.massive.training.state import moved_into, slug

OPTIONS = {**SMALL, **PLACE, "steps": 8, "every": 3, "seeds": [0, 1], "save_every": 2}
RUNS = {
    "adamw": Recipe("adamw", learning_rate=1e-3, warmup=3, clip=0.3),
    "momentum": Recipe(
        "momentum",
        learning_rate=1e-3,
        weight_decay=0.1,
        interventions=(FreezeMoment("first", steps=[4, 5]),),
    ),
    "warm": Recipe(
        "adamw", interventions=(WarmStart(batches=2), ZeroMoment("second", "writer", steps=6))
    ),
}
if hasattr(torch.optim, "Muon"):
    RUNS["muon"] = Recipe("muon", learning_rate=1e-3)


class Killed(BaseException):
    """What no handler of ours expects."""


def same(one, other):
    for table in one.tables:
        pd.testing.assert_frame_equal(one.to_frame(table), other.to_frame(table), check_exact=True)


@pytest.fixture
def mortal(monkeypatch):
    """Make the n-th forward pass with gradients from now on the last."""

    def until(count, error=Killed):
        from lensprobe.massive.training import run

        left = [count]
        backward = run.backward

        def counted(*args):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return backward(*args)

        monkeypatch.setattr(run, "backward", counted)

    return until


def test_killed_anywhere_and_taken_up_again(decoder, tmp_path, mortal, monkeypatch):
    whole = train_and_watch(decoder, TEXTS, runs=RUNS, **OPTIONS)
    found = set()
    for count in (1, 5, 17, 19, 19):
        mortal(count)
        with pytest.raises(Killed):
            train_and_watch(decoder, TEXTS, runs=RUNS, out=tmp_path, **OPTIONS)
        monkeypatch.undo()
        found |= {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("state-*")}
    assert len(found) >= 3
    same(train_and_watch(decoder, TEXTS, runs=RUNS, out=tmp_path, **OPTIONS), whole)


def test_killed_by_the_system(gpt2_folder, tmp_path):
    """Another process, ended without a chance to tidy up, in the middle of a step."""
    script = f"""
import os, sys, torch, lensprobe as lp
from lensprobe.massive import train_and_watch
from lensprobe.massive.training import run
sys.path.insert(0, "tests")
from test_massive_resume import OPTIONS, TEXTS
backward, left = run.backward, [5]
def last(*args):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    return backward(*args)
run.backward = last
train_and_watch(lp.load({str(gpt2_folder)!r}), TEXTS, out={str(tmp_path / "out")!r}, **OPTIONS)
"""
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()
    assert list((tmp_path / "out").rglob("state-*"))
    model = lp.load(gpt2_folder)
    resumed = train_and_watch(model, TEXTS, out=tmp_path / "out", **OPTIONS)
    same(resumed, train_and_watch(model, TEXTS, **OPTIONS))


def test_an_interrupt_is_saved_at_its_step(tiny_gpt2, tmp_path, mortal, monkeypatch):
    options = {**OPTIONS, "save_every": 100}
    mortal(5, KeyboardInterrupt)
    with pytest.raises(Interrupted, match="in step 6 of run 'adamw', seed 0") as caught:
        train_and_watch(tiny_gpt2, TEXTS, out=tmp_path, **options)
    assert caught.value.partial.losses["step"].tolist() == [1, 2, 3, 4, 5]
    monkeypatch.undo()
    mortal(3 + 8)
    resumed = train_and_watch(tiny_gpt2, TEXTS, out=tmp_path, **options)
    monkeypatch.undo()
    same(resumed, train_and_watch(tiny_gpt2, TEXTS, **options))


def test_what_is_over_is_not_done_again(tiny_gpt2, tmp_path, mortal):
    first = train_and_watch(tiny_gpt2, TEXTS, runs={"a": "adamw"}, out=tmp_path, **OPTIONS)
    mortal(2 * 8)
    more = train_and_watch(
        tiny_gpt2, TEXTS, runs={"a": "adamw", "b": "sgd"}, out=tmp_path, **OPTIONS
    )
    assert more.runs["run"].tolist() == ["a", "a", "b", "b"]
    pd.testing.assert_frame_equal(
        more.steps[more.steps["run"] == "a"], first.steps, check_exact=True
    )
    assert not list(tmp_path.rglob("state-*"))


def test_nothing_in_the_folder_is_a_pickle(tiny_gpt2, tmp_path, mortal):
    mortal(5, KeyboardInterrupt)
    with pytest.raises(Interrupted):
        train_and_watch(tiny_gpt2, TEXTS, out=tmp_path, **OPTIONS)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".parquet", ".safetensors"}
    assert len(list(tmp_path.rglob("state-*"))) == 1
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 9}, "steps"),
        ({"every": 2}, "every"),
        ({"optimizer": Recipe("adamw", learning_rate=1e-5)}, "recipe"),
        ({"dim": 8}, "place"),
        ({"batch_size": 3}, "batch_size"),
        ({"held_out": 2}, "texts"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tiny_gpt2, tmp_path, change, named):
    options = {**OPTIONS, "steps": 2, "seeds": 0}
    train_and_watch(tiny_gpt2, TEXTS, optimizer="adamw", out=tmp_path, **options)
    given = {"optimizer": "adamw", **options, **change}
    with pytest.raises(ArgumentError, match=f"holds a run with other .*{named}"):
        train_and_watch(tiny_gpt2, TEXTS, out=tmp_path, **given)


def test_other_weights_are_refused(gpt2_folder, tmp_path):
    options = {**OPTIONS, "steps": 2, "seeds": 0}
    model = lp.load(gpt2_folder)
    train_and_watch(model, TEXTS, out=tmp_path, **options)
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    with pytest.raises(ArgumentError, match="holds a run with other weights"):
        train_and_watch(model, TEXTS, out=tmp_path, **options)


def test_a_folder_that_cannot_be_is_said(tiny_gpt2, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        train_and_watch(tiny_gpt2, TEXTS, out=tmp_path / "file", **OPTIONS)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def half(path):
        (path / "one").write_text("1")
        raise Killed

    with pytest.raises(Killed):
        moved_into(tmp_path / "there", half)
    assert list(tmp_path.iterdir()) == []
    moved_into(tmp_path / "there", lambda path: (path / "one").write_text("1"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_names_of_runs_as_folders():
    names = ["adamw", "AdamW, β₁ = 0", "AdamW, β₂ = 0", "a/b", "a b", "..", "é"]
    folders = [slug(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all(
        set(folder) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-")
        for folder in folders
    )
    assert not any(folder.startswith(".") for folder in folders)


def test_settings_are_readable(tiny_gpt2, tmp_path):
    options = {**OPTIONS, "steps": 1, "seeds": 4}
    train_and_watch(tiny_gpt2, TEXTS, out=tmp_path, **options)
    settings = json.loads((tmp_path / "adamw" / "seed-4" / "settings.json").read_text())
    assert settings["seed"] == 4 and settings["steps"] == 1
    assert settings["recipe"]["torch"][0]["class"] == "AdamW"
