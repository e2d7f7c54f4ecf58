"""Scans that keep what is finished: stopped anywhere they go on, and the answer is the same.

What `kill -9` does to them is tried in `faults/killing.py`.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

import lensprobe as lp
from faults import scans
from faults.scans import equal
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.shards import keeping
from lensprobe.shards.files import read_state, write_state

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


# ---- pieces that somebody else made ----------------------------------------------------------------


def forge(place, change):
    """Change what a piece holds; its checksum is right again."""
    header, state = read_state(place)
    change(header["facts"], state)
    write_state(place, header, state)


def other_shape(facts, state):
    """One statistic of another shape, whose own fields fit one another."""
    owner = next(name for name in state if name.endswith("/mean")).rpartition("/")[0]
    for name, array in state.items():
        if name.startswith(f"{owner}/") and array.ndim:
            state[name] = array[:0]


def no_shape(facts, state):
    """One field alone has another shape."""
    state[next(name for name in sorted(state) if state[name].ndim)] = np.zeros((2, 3, 4))


def fewer(facts, state):
    del state[sorted(state)[0]]


def lies(facts, state):
    facts["sequences"] = 0


def words(facts, state):
    facts["notes"] = "abc"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *product(("massive", "sinks", "difference"), (other_shape, no_shape, fewer, lies, words)),
        *product(("score", "surprise", "sweep"), (no_shape, fewer)),
    ],
)
def test_a_forged_piece_is_refused_wherever_it_is(kind, change, tmp_path):
    scans.scan(kind, tmp_path)
    pieces = sorted(tmp_path.rglob("shard-*.npz"))
    # Nothing was there yet that the first one could be compared with.
    place = pieces[0 if change is other_shape else 2]
    good = place.read_bytes()
    forge(place, change)
    with pytest.raises(OutputError, match=r"is damaged: it holds other|does not say what it holds"):
        scans.scan(kind, tmp_path)
    place.write_bytes(good)
    assert scans.scan(kind, tmp_path)


def keyed(name, field, number):
    def change(facts, state):
        state[f"{name}/{field}"] = np.full_like(state[f"{name}/{field}"], number)

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("massive", keyed("hits", "keys", 99)),
        ("massive", keyed("places", "keys", 0)),
        ("massive", keyed("tokens", "keys", 2**40)),
        ("massive", keyed("hits", "count", 0)),
        ("massive", keyed("landscape", "ids", -1)),
        ("sinks", keyed("tokens", "keys", 99)),
        ("sinks", keyed("tokens", "counts", -1)),
        ("score", keyed("windows", "of ids", 2**40)),
        ("score", keyed("windows", "of place", 99)),
        ("surprise", keyed("windows", "keys", -1)),
    ],
)
def test_keys_that_name_nothing_are_refused(kind, change, tmp_path):
    scans.scan(kind, tmp_path)
    forge(min(tmp_path.rglob("shard-*.npz")), change)
    with pytest.raises(OutputError, match="is damaged: it holds other statistics"):
        scans.scan(kind, tmp_path)
