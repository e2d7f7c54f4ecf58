"""Scans that keep what is finished: killed at any moment they go on, and the answer is the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.shards import keeping

TEXTS = [f"Hello world, this is number {n}. " * (1 + n % 5) for n in range(40)]
LOW = {"threshold": 0.05, "ratio": 4.0}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 200)


@pytest.fixture(params=["massive", "sinks"])
def scan(request):
    room = getattr(lp, request.param)
    options = LOW if request.param == "massive" else {}
    return lambda *given, **more: room.scan(*given, **{**options, "batch_tokens": 128, **more})


def equal(one, two):
    """Bit for bit, tables, arrays and provenance."""
    assert one.provenance == two.provenance
    for table in one.tables:
        pd.testing.assert_frame_equal(one.to_frame(table), two.to_frame(table), check_exact=True)
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(two, name))


def test_the_folder_changes_nothing_but_the_order_of_sums(tiny_gpt2, scan, tmp_path):
    plain, kept = scan(tiny_gpt2, TEXTS), scan(tiny_gpt2, TEXTS, out=tmp_path / "run")
    assert len(list((tmp_path / "run").rglob("shard-*.npz"))) > 4
    assert {**kept.provenance, "notes": []} == {**plain.provenance, "notes": []}
    for table in plain.tables:
        pd.testing.assert_frame_equal(plain.to_frame(table), kept.to_frame(table), rtol=1e-4)


def test_a_finished_run_is_read_back(tiny_gpt2, scan, tmp_path):
    first = scan(tiny_gpt2, TEXTS, out=tmp_path)
    passes = []
    handle = tiny_gpt2.blocks[0].register_forward_pre_hook(lambda *given: passes.append(1))
    try:
        again = scan(tiny_gpt2, TEXTS, out=tmp_path)
    finally:
        handle.remove()
    equal(first, again)
    assert not passes
    equal(lp.open(tmp_path), first)


def test_an_interrupted_run_goes_on(tiny_gpt2, scan, tmp_path, monkeypatch):
    whole = scan(tiny_gpt2, TEXTS, out=tmp_path / "whole")
    real, calls = lp.scanning.forward, []

    def forward(*given):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(lp.scanning, "forward", forward)
    with pytest.raises(Interrupted) as caught:
        scan(tiny_gpt2, TEXTS, out=tmp_path / "run")
    assert caught.value.partial.provenance["complete"] is False
    with pytest.raises(OutputError, match=r"finished shards and no result yet"):
        lp.open(tmp_path / "run")
    equal(scan(tiny_gpt2, TEXTS, out=tmp_path / "run"), whole)


def test_a_damaged_shard_is_read_again(tiny_gpt2, scan, tmp_path):
    first = scan(tiny_gpt2, TEXTS, out=tmp_path)
    shard = sorted(tmp_path.rglob("shard-*.npz"))[2]
    shard.write_bytes(shard.read_bytes()[:-40])
    equal(scan(tiny_gpt2, TEXTS, out=tmp_path), first)


def test_what_is_another_run_is_refused(tiny_gpt2, tiny_llama, scan, tmp_path):
    scan(tiny_gpt2, TEXTS, out=tmp_path)
    for given in ({"length": 16}, {"batch_tokens": 64}, {"layers": [0]}):
        with pytest.raises(OutputError, match="holds another run"):
            scan(tiny_gpt2, TEXTS, out=tmp_path, **given)
    with pytest.raises(OutputError, match="holds another run"):
        scan(tiny_llama, TEXTS, out=tmp_path)
    with pytest.raises(OutputError, match="not those of the run"):
        scan(tiny_gpt2, TEXTS[1:], out=tmp_path)
    with (
        tiny_gpt2.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x)]),
        pytest.raises(ArgumentError, match="hooks of your own"),
    ):
        scan(tiny_gpt2, TEXTS, out=tmp_path / "other")


SCRIPT = """
import sys
import lensprobe as lp
from lensprobe.shards import keeping
keeping.PIECE_TOKENS = 400
model = lp.load("planted", device="cpu")
texts = [f"Hello world, this is number {n}. " * (1 + n % 5) for n in range(60)]
print("ready", flush=True)
lp.massive.scan(model, texts, batch_tokens=128, out=sys.argv[1])
"""


@pytest.mark.slow
def test_kill_nine_at_random_moments(tmp_path):
    """The process has no say in it: what is on the disk is whole, and the run goes on from there."""

    def start(out):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    begin = time.monotonic()
    assert not start(tmp_path / "whole").wait()
    seconds = time.monotonic() - begin
    chance, killed = random.Random(0), 0
    for _ in range(12):
        process = start(tmp_path / "run")
        try:
            process.wait(chance.uniform(0, 0.3 * seconds))
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    else:
        assert not start(tmp_path / "run").wait()
    assert killed
    assert not list((tmp_path / "run").glob("*.part"))
    equal(lp.open(tmp_path / "run"), lp.open(tmp_path / "whole"))
