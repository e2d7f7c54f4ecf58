"""Files of every kind are one stream; what is broken in them is named and costs only itself."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensprobe.documents import Broken, documents, readable, records
from lensprobe.errors import ArgumentError
from lensprobe.textfiles import SUFFIXES, named_files

TEXTS = ["Hello world, this is", "I", "The cat sat\non the mat · ü"]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def lines(items=TEXTS) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in items).encode()


def read(source, **options):
    return [text for _, text in documents(source, **options).stream]


def whole(source, **options):
    return list(readable(documents(source, **options).stream))


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", PACK)
def test_lines_and_paragraphs_in_every_wrapping(tmp_path, packed):
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](lines()))
    assert read(path) == read(str(path)) == TEXTS
    path = tmp_path / f"a.txt{packed}"
    path.write_bytes(PACK[packed]("\n\n".join(TEXTS).encode()))
    assert read(path) == read(str(path)) == TEXTS


def test_several_members_are_one_file(tmp_path):
    for packed in (".gz", ".bz2", ".xz", ".zst"):
        path = tmp_path / f"a.jsonl{packed}"
        path.write_bytes(PACK[packed](lines(TEXTS[:1])) + PACK[packed](lines(TEXTS[1:])))
        assert read(path) == TEXTS, packed


@pytest.mark.parametrize("group", [1, 2, 100])
def test_parquet(tmp_path, group):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": TEXTS, "number": [1, 2, 3], "ids": [[1], [2, 3], [4]]})
    frame.to_parquet(path, row_group_size=group)
    assert whole(path) == [(f"a.parquet row {n}", text) for n, text in enumerate(TEXTS)]
    assert read(str(path), column="ids") == [[1], [2, 3], [4]]
    assert documents(path).count == 3 and documents(path, limit=2).count == 2
    rows = [record for _, record in records(path).stream]
    assert rows == frame.to_dict("records")


def test_a_pattern_is_its_files_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in (("b/1.jsonl", "three"), ("a-2.jsonl", "two"), ("a-1.jsonl", "one")):
        (tmp_path / name).write_bytes(lines([text]))
    (tmp_path / "a-3.jsonl").mkdir()
    (tmp_path / "a-1.txt").write_text("not this one")
    assert whole(f"{tmp_path}/a-*.jsonl") == [
        ("a-1.jsonl line 1", "one"),
        ("a-2.jsonl line 1", "two"),
    ]
    assert read(tmp_path / "**" / "*.jsonl") == ["one", "two", "three"]
    assert read(tmp_path / "a-[2].*") == ["two"]
    given = [tmp_path / "b" / "1.jsonl", tmp_path / "a-1.*"]
    assert read(given) == ["three", "one", "not this one"]
    odd = tmp_path / "odd[1].jsonl"
    odd.write_bytes(lines(["a name with brackets"]))
    assert read(odd) == ["a name with brackets"]


def test_files_of_one_name_keep_their_folders(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    assert [place for place, _ in whole(tmp_path / "*" / "a.txt")] == [
        f"{tmp_path / folder / 'a.txt'} line 1" for folder in ("one", "two")
    ]


def test_what_is_no_name_of_a_file_is_a_text():
    for text in ("What is a .txt?", "a.txt\nb.txt", ["a.txt"], [Path("a.txt"), "words"], []):
        assert named_files(text) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.jsonl.gz", "no such file"),
        ("*.nothing", "no such file"),
        (".", "is a folder, not a file; name its files"),
        ("b.parquet.gz", "compressed inside"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, name, words):
    (tmp_path / "b.parquet.gz").write_bytes(b"x")
    with pytest.raises(ArgumentError, match=words):
        named_files(tmp_path / name)


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), max_size=9
    ),
    packed=st.sampled_from(sorted(PACK)),
)
@settings(max_examples=30)
def test_any_text_comes_back(tmp_path_factory, texts, packed):
    path = tmp_path_factory.mktemp("any") / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](lines(texts)))
    assert read(path) == texts
    pd.DataFrame({"text": pd.Series(texts, dtype=str)}).to_parquet(path.with_name("a.parquet"))
    assert read(path.with_name("a.parquet")) == texts


# ---- what is broken -----------------------------------------------------------------------------


def reasons(source, **options):
    return [item.reason for item in read(source, **options) if isinstance(item, Broken)]


def good(source, **options):
    return [item for item in read(source, **options) if not isinstance(item, Broken)]


@pytest.mark.parametrize(
    ("content", "words", "left"),
    [
        (b'"a"\n{"text": \n"b"\n', "line 2 is not JSON: Expecting value", ["a", "b"]),
        (b'"a"\n{"body": "x"}\n"b"\n', "a.jsonl line 2 has the columns body", ["a", "b"]),
        (b'"a"\n"\xff\xfe"\n"b"\n', "line 2 cannot be read as UTF-8 text: byte 0xff", ["a", "b"]),
        (b'"a"\n"\xc3"\n', "line 2 cannot be read as UTF-8 text: byte 0xc3", ["a"]),
        (b'"a"\n' + b"[" * 100_000 + b"\n", "line 2 is not JSON", ["a"]),
        (b'"a"\nNaN\n\n"b"', "", ["a", "b"]),
    ],
)  # fmt: skip
def test_a_bad_line(tmp_path, content, words, left):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    if words:
        (reason,) = reasons(path)
        assert words in reason and reason.startswith(("a.jsonl line 2", "column="))
        with pytest.raises(ArgumentError, match=r"a\.jsonl line 2"):
            whole(path)
    assert [item for item in good(path) if isinstance(item, str)] == left


def test_a_bad_byte_costs_its_paragraph(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\n\nthree\nf\xffur\nfive\n\nsix \xc3\xbc\n")
    assert good(path) == ["one\ntwo", "six \u00fc"]
    assert reasons(path) == ["a.txt line 5 cannot be read as UTF-8 text: byte 0xff."]


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_that_ends_early(tmp_path, packed):
    path, texts = tmp_path / f"a.jsonl{packed}", [f"{n} " * 50 for n in range(4_000)]
    data = PACK[packed](lines(texts))
    path.write_bytes(data[: len(data) // 2])
    (tmp_path / f"b.jsonl{packed}").write_bytes(PACK[packed](lines(TEXTS)))
    found = good(f"{tmp_path}/*.jsonl{packed}")
    kept = len(found) - len(TEXTS)
    assert 0 <= kept < len(texts) and found == texts[:kept] + TEXTS
    (reason,) = reasons(path)
    assert f"a.jsonl{packed} cannot be read from line {kept + 1} on" in reason
    path.write_bytes(b"nothing of the kind")
    assert "cannot be read from line 1 on" in reasons(path)[0]


def test_parquet_that_ends_early(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    (reason,) = reasons(path)
    assert "a.parquet cannot be read as Parquet" in reason
    assert documents(path).count == 0
    with pytest.raises(ArgumentError, match="cannot be read as Parquet"):
        whole(path)


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text number {n} " * 20 for n in range(40)]
    table = pa.table({"text": texts})
    pq.write_table(table, path, row_group_size=10, write_page_checksum=True, use_dictionary=False)
    place = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[place.data_page_offset + place.total_compressed_size - 20] ^= 0xFF
    path.write_bytes(data)
    assert good(path) == texts[:10] + texts[20:]
    (reason,) = reasons(path)
    assert reason.startswith("a.parquet rows 10 to 19 cannot be read: ")


def test_a_parquet_file_without_the_column(tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"txt": TEXTS}).to_parquet(path)
    (reason,) = reasons(path)
    assert reason == "column='text': a.parquet has the columns txt. Did you mean 'txt'?"


def test_parquet_that_is_not_utf8(tmp_path):
    path = tmp_path / "a.parquet"
    binary = pa.array([b"one", b"\xff", b"three"]).view(pa.string())
    pq.write_table(pa.table({"text": binary}), path)
    assert good(path) == ["one", "three"]
    assert reasons(path)[0].startswith("a.parquet row 1 cannot be read: ")


# ---- how much is read ---------------------------------------------------------------------------


def test_the_end_is_foreseen(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines([f"{n * n} words" for n in range(40_000)])))
    found = documents(path)
    assert found.expected(0) is None
    for read, _ in enumerate(found.stream, 1):
        if read == 20_000:
            assert found.expected(read) == pytest.approx(40_000, rel=0.3)
            assert documents(path, limit=3).expected(0) is None
    assert found.expected(read) == read == 40_000


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    path, word = tmp_path / "a.parquet", "0123456789abcdef" * 64
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        writer.write_table(pa.table({"text": [word] * 20_000}), row_group_size=10**6)
    assert pq.read_metadata(path).num_row_groups == 1 and path.stat().st_size > 20e6
    stream = iter(documents(path).stream)
    next(stream)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in stream)
    assert most < 6e6


def test_every_suffix_is_read(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        packed = next((p for p in (".gz", ".bz2", ".xz", ".zst") if suffix.endswith(p)), "")
        if suffix == ".parquet":
            pd.DataFrame({"text": ["one"]}).to_parquet(path)
        else:
            path.write_bytes(PACK[packed](b"one" if ".txt" in suffix else b'"one"'))
        assert read(str(path)) == ["one"]
