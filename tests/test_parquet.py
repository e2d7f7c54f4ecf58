"""Every table of a result as a Parquet file, for tools that know nothing of this library."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from synthetic import massive_scan, sink_scan

from lensprobe.errors import OutputError
from lensprobe.reporting.report import joined
from lensprobe.results import Shown
from lensprobe.steering import SteeringVector


def assert_same(one, two):
    # A table without columns comes back with another kind of no names.
    pd.testing.assert_frame_equal(one, two, check_dtype=False, check_column_type=False)


def vector():
    return SteeringVector(np.arange(6.0), 1, "resid_post")


def report():
    return joined(massive_scan(), sink_scan(), "")


@pytest.mark.parametrize("make", [massive_scan, sink_scan, report, vector])
def test_every_table_comes_back(tmp_path, make):
    result = make()
    folder = result.to_parquet(tmp_path / "a" / "tables")
    assert {path.name for path in folder.iterdir()} == {
        "provenance.json",
        *(f"{table}.parquet" for table in result.tables),
    }
    for table in result.tables:
        again = pd.read_parquet(folder / f"{table}.parquet")
        assert_same(again, result.to_frame(table))
    facts = json.loads((folder / "provenance.json").read_text("utf-8"))
    assert facts.get("model") == result.provenance.get("model")


def test_numbers_of_numpys_are_numbers(tmp_path):
    made = massive_scan()
    made.provenance["factor"] = np.float32(0.5)
    facts = json.loads((made.to_parquet(tmp_path) / "provenance.json").read_text())
    assert facts["factor"] == 0.5


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "layers.parquet").write_text("mine")
    with pytest.raises(OutputError, match=r"layers\.parquet.*overwrite=True"):
        massive_scan().to_parquet(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["layers.parquet"]
    massive_scan().to_parquet(tmp_path, overwrite=True)
    assert len(pd.read_parquet(tmp_path / "layers.parquet"))
    with pytest.raises(OutputError, match="cannot be written"):
        massive_scan().to_parquet(tmp_path / "layers.parquet")


def test_what_has_no_tables_says_so():
    with pytest.raises(ValueError, match="no tables"):
        Shown().to_frame("layers")
