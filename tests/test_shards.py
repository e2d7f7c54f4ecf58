"""Files of states and folders of shards: whole or not there, one run at a time, never mixed."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensprobe.errors import OutputError
from lensprobe.shards.files import DamagedError, fingerprint, read_state, write_state
from lensprobe.shards.folder import Folder

STATE = {
    "top/values": np.array([3.0, np.inf, np.nan]),
    "top/places": np.arange(6).reshape(2, 3),
    "top/type": np.array("TopK"),
    "none/empty": np.zeros((0, 4), np.float32),
}
HEADER = {"model": "planted", "layers": [0, 1], "ünï": "код"}
RUN = {"model": "planted", "length": 64}


def same(one, two):
    assert set(one) == set(two)
    for name in one:
        assert one[name].dtype == two[name].dtype and one[name].shape == two[name].shape
        assert one[name].tobytes() == two[name].tobytes()


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "state.npz"
    write_state(file, HEADER, STATE)
    header, state = read_state(file)
    assert header == HEADER
    same(state, STATE)
    assert os.listdir(tmp_path) == ["state.npz"]


@settings(max_examples=60)
@given(data=st.data())
def test_every_damage_is_seen(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "damage.npz"
    write_state(file, HEADER, STATE)
    good = file.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "flip", "zeros"]))
    place = data.draw(st.integers(0, len(good) - 1))
    if kind == "cut":
        bad = good[:place]
    elif kind == "zeros":
        bad = good[:place] + bytes(len(good) - place)
    else:
        bad = (
            good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
        )
    file.write_bytes(bad)
    try:
        header, state = read_state(file)
    except DamagedError:
        return
    # A byte of the zip's own bookkeeping, such as a date, may change without changing what is held.
    assert header == HEADER
    same(state, STATE)


def test_pickles_are_not_read(tmp_path):
    file = tmp_path / "state.npz"
    np.savez(file, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DamagedError):
        read_state(file)


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(OutputError, match="cannot be read") as caught:
        read_state(tmp_path / "none.npz")
    assert not isinstance(caught.value, DamagedError)


def test_fingerprints_keep_parts_apart():
    assert fingerprint(b"ab", b"c") != fingerprint(b"a", b"bc")
    assert fingerprint(b"ab") == fingerprint(b"ab")


# ---- folders -----------------------------------------------------------------------------------


def test_shards_come_back(tmp_path):
    with Folder(tmp_path / "a" / "run", RUN) as folder:
        assert folder.load(0) is None
        folder.save(0, {"documents": 3}, STATE)
    with Folder(tmp_path / "a" / "run", RUN) as folder:
        kept = folder.load(0)
        assert kept is not None and kept.facts == {"documents": 3}
        same(kept.state, STATE)
        assert folder.load(1) is None


def test_a_damaged_shard_is_done_again(tmp_path):
    with Folder(tmp_path, RUN) as folder:
        folder.save(0, {}, STATE)
        file = tmp_path / "shard-000000.npz"
        file.write_bytes(file.read_bytes()[:100])
        assert folder.load(0) is None
        assert folder.damaged == [0]
        folder.save(0, {}, STATE)
        assert folder.load(0) is not None


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".shard-000000.npz.abc.part").write_bytes(b"half")
    with Folder(tmp_path, RUN) as folder:
        assert folder.load(0) is None
    assert sorted(os.listdir(tmp_path)) == [".lock", "manifest.json"]


def test_another_run_is_refused_and_what_differs_is_named(tmp_path):
    with Folder(tmp_path, RUN):
        pass
    with (
        pytest.raises(OutputError, match=r"length: 64 there, 32 now"),
        Folder(tmp_path, {**RUN, "length": 32}),
    ):
        pass
    # The refusal left no lock behind.
    with Folder(tmp_path, RUN):
        pass


def test_a_shard_of_another_run_is_refused(tmp_path):
    with Folder(tmp_path / "one", RUN) as folder:
        folder.save(0, {}, STATE)
    with Folder(tmp_path / "two", {**RUN, "length": 32}) as folder:
        (tmp_path / "two" / "shard-000000.npz").write_bytes(
            (tmp_path / "one" / "shard-000000.npz").read_bytes()
        )
        with pytest.raises(OutputError, match="shard of another run"):
            folder.load(0)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"other files \(thesis.tex\)"), Folder(tmp_path, RUN):
        pass
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="cannot be used as a folder"), Folder(file, RUN):
        pass


def test_two_runs_do_not_meet(tmp_path):
    code = (
        "import sys; from lensprobe.shards.folder import Folder\n"
        f"with Folder({str(tmp_path)!r}, {RUN!r}): pass"
    )
    with Folder(tmp_path, RUN):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "another run is working" in done.stderr
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


@pytest.mark.skipif(os.geteuid() != 0 if hasattr(os, "geteuid") else True, reason="needs a mount")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with Folder(tmp_path, RUN) as folder:
            folder.save(0, {}, STATE)
            before = sorted(os.listdir(tmp_path))
            with pytest.raises(OutputError, match="No space left"):
                folder.save(1, {}, {"big/values": np.zeros(100_000)})
            assert sorted(os.listdir(tmp_path)) == before
            assert folder.load(0) is not None
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
