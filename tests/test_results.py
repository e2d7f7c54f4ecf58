"""Results: saved without pickles, read back equal, never half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import lensprobe as lp
from lensprobe.errors import ArgumentError, LensprobeError, OutputError
from lensprobe.results import Result


@dataclass(frozen=True, repr=False, eq=False)
class Sample(Result):
    kind: ClassVar[str] = "test.sample"
    values: pd.DataFrame
    others: pd.DataFrame
    grid: np.ndarray
    names: list[str]

    def summary(self):
        return {**super().summary(), "largest": float(self.values["value"].max())}


@pytest.fixture
def sample():
    return Sample(
        provenance={"model": "m<b>", "seed": None, "complete": True},
        values=pd.DataFrame(
            {"layer": [0, 1], "token": ["<s>", "é\n"], "value": [1.5, float("nan")]}
        ),
        others=pd.DataFrame({"layer": pd.Series([], dtype=int)}),
        grid=np.arange(6, dtype=np.uint8).reshape(2, 3),
        names=["a", "↵"],
    )


def test_saved_and_opened_is_the_same(sample, tmp_path):
    path = sample.save(tmp_path / "r.zip")
    again = lp.open(path)
    assert type(again) is Sample and again.names == sample.names
    assert again.provenance == sample.provenance
    pd.testing.assert_frame_equal(again.values, sample.values)
    pd.testing.assert_frame_equal(again.others, sample.others)
    assert np.array_equal(again.grid, sample.grid) and again.grid.dtype == np.uint8


def test_tables_are_named_and_copied(sample):
    assert sample.tables == ("values", "others")
    frame = sample.to_frame()
    frame.loc[0, "value"] = 99
    assert sample.values["value"][0] == 1.5
    with pytest.raises(ArgumentError, match="Did you mean 'others'"):
        sample.to_frame("other")


def test_it_prints_itself_small_and_escaped(sample):
    assert repr(sample) == "Sample(model=m<b>, largest=1.5)"
    assert "m&lt;b&gt;" in sample._repr_html_() and "<b>largest" not in sample._repr_html_()


def test_a_file_is_never_overwritten_or_left_half_written(sample, tmp_path, monkeypatch):
    path = sample.save(tmp_path / "r.zip")
    with pytest.raises(OutputError, match="overwrite=True"):
        sample.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "save", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OutputError, match="disk full"):
        sample.save(path, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.zip"]


@pytest.mark.parametrize("where", ["missing/r.zip", "."])
def test_an_unwritable_path_is_one_clear_error(sample, tmp_path, where):
    with pytest.raises(OutputError, match=r"cannot be written|folder"):
        sample.save(tmp_path / where, overwrite=True)


def test_what_is_not_an_ordinary_file_is_left_alone(sample, tmp_path):
    pipe, target, link = tmp_path / "pipe", tmp_path / "target", tmp_path / "link"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not an ordinary file"):
        sample.save(pipe, overwrite=True)
    target.write_text("old")
    link.symlink_to(target)
    sample.save(link, overwrite=True)
    assert link.is_symlink() and type(lp.open(target)) is Sample


def test_numbers_of_numpys_in_the_provenance_become_plain(sample, tmp_path):
    odd = {"a": np.float32(0.5), "b": tmp_path, "c": "\ud800"}
    saved = dataclasses.replace(sample, provenance=odd).save(tmp_path / "odd.zip")
    assert lp.open(saved).provenance == {"a": 0.5, "b": str(tmp_path), "c": "\ud800"}


def test_any_damaged_byte_is_told_as_damage(sample, tmp_path):
    path = sample.save(tmp_path / "r.zip")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        with contextlib.suppress(OutputError):
            lp.open(path)


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "other zip", "pickle"])
def test_damaged_and_foreign_files_are_told(sample, tmp_path, damage):
    path = sample.save(tmp_path / "r.zip")
    data = path.read_bytes()
    if damage == "other zip" or damage == "pickle":
        path.unlink()
        with zipfile.ZipFile(path, "w") as archive:
            if damage == "pickle":
                archive.writestr(
                    "result.json", '{"format": 1, "kind": "test.sample", "fields": {}}'
                )
                archive.writestr("grid.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', }\n")
            else:
                archive.writestr("x", "y")
    else:
        path.write_bytes({"empty": b"", "garbage": b"x" * 99, "truncated": data[:200]}[damage])
    with pytest.raises(LensprobeError):
        lp.open(path)


def test_a_file_that_is_not_there():
    with pytest.raises(OutputError, match="no such file"):
        lp.open("nowhere.zip")


def test_every_analysis_result_survives_saving(tiny_gpt2, tmp_path):
    for index, result in enumerate(
        (
            lp.forward(tiny_gpt2, ["one", "two three"], layers=[0, 1]),
            lp.score(tiny_gpt2, ["one two", "three"]),
            lp.generate(tiny_gpt2, "one", max_new_tokens=3, logprobs=True),
        )
    ):
        again = lp.open(result.save(tmp_path / f"{index}.zip"))
        assert again.summary() == result.summary()
        for table in result.tables:
            pd.testing.assert_frame_equal(again.to_frame(table), result.to_frame(table))


def test_options_hold_inside_a_block_and_unknown_names_are_refused():
    before = dict(lp.options())
    with lp.options(batch_tokens=7) as inside:
        assert inside["batch_tokens"] == 7 and lp.options()["batch_tokens"] == 7
    assert dict(lp.options()) == before
    with pytest.raises(ArgumentError, match="Did you mean 'progress'"):
        lp.options(progres=True)


def test_unknown_names_suggest_the_nearest_and_dir_is_curated():
    with pytest.raises(AttributeError, match="Did you mean 'generate'"):
        lp.genrate  # noqa: B018
    assert "massive" in dir(lp) and "torch" not in dir(lp)


def test_importing_the_package_alone_does_not_load_torch():
    code = "import sys, lensprobe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
