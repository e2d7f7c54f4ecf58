"""Records that cannot be read are fatal, or skipped, counted and named; never silently dropped."""

from __future__ import annotations

import gzip
import json

import datasets
import every_analysis
import numpy as np
import pandas as pd
import pytest

import lensprobe as lp
from lensprobe.corpus import SHOWN, Corpus
from lensprobe.errors import ArgumentError, Interrupted, LensprobeError, OutputError
from lensprobe.models.adapter import adapter_for
from lensprobe.shards import keeping

GOOD = [f"Hello world, this is number {n}. " * (1 + n % 4) for n in range(24)]
BAD = ["{broken", '{"body": "x"}', '{"text": null}', '{"text": ""}', '{"text": 3}', '"\udcff"']
LOW = {"threshold": 0.05, "ratio": 4.0, "batch_tokens": 128}


@pytest.fixture
def mixed(tmp_path):
    """A file in which every fourth line is bad, and the numbers of the good ones."""
    rows, numbers = [], []
    for number, text in enumerate(GOOD):
        if number % 4 == 0:
            rows.append(BAD[number // 4])
        numbers.append(len(rows))
        rows.append(json.dumps({"text": text}))
    path = tmp_path / "mixed.jsonl"
    path.write_bytes("\n".join(rows).encode("utf-8", "surrogateescape"))
    return path, numbers


def notes(result):
    return [note for note in result.provenance["notes"] if "skipped" in note]


def test_a_corpus_without_its_bad_records(tiny_gpt2, mixed):
    path, numbers = mixed
    adapter = adapter_for(tiny_gpt2)
    with pytest.raises(ArgumentError, match=r"mixed\.jsonl line 1 is not JSON"):
        list(Corpus(adapter, path).windows())
    corpus = Corpus(adapter, path, on_error="skip")
    found = list(corpus.windows())
    plain = list(Corpus(adapter, GOOD).windows())
    assert [window.ids for window in found] == [window.ids for window in plain]
    assert [window.document for window in found] == numbers
    assert corpus.read.skipped == len(BAD) and len(corpus.read.reasons) == SHOWN
    assert corpus.read.documents == len(GOOD)
    (note,) = corpus.notes(corpus.read)
    assert note.startswith(f"{len(BAD)} records skipped: mixed.jsonl line 1 is not JSON")
    for words in (
        "line 6 has the columns body",
        "line 11: a text is",
        "line 16: the text is empty",
    ):
        assert words in note
    assert note.endswith("; and 1 more")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["fine", "", "also"], r"texts\[1\]: the text is empty"),
        ([[1, 2], [10**6], [3]], r"texts\[1\]: token ids run"),
        ([{"text": "a"}, {"txt": "b"}, {"text": "c"}], r"texts\[1\] has the columns txt"),
        (
            datasets.Dataset.from_list([{"text": t} for t in ("a", None, "c")]),
            r"texts\[1\]: a text",
        ),
    ],
)
def test_what_is_in_memory_is_skipped_too(tiny_gpt2, texts, words):
    adapter = adapter_for(tiny_gpt2)
    with pytest.raises(ArgumentError, match=words):
        list(Corpus(adapter, texts).windows())
    with lp.options(on_error="skip"):
        corpus = Corpus(adapter, texts)
    assert [window.document for window in corpus.windows()] == [0, 2]
    assert corpus.notes(corpus.read)[0].startswith("1 record skipped: ")


def test_a_streamed_dataset(tiny_gpt2):
    rows = [{"body": text} for text in ("one", "", "three")]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    corpus = Corpus(adapter_for(tiny_gpt2), stream, column="body", on_error="skip")
    assert [window.document for window in corpus.windows()] == [0, 2]


def test_nothing_but_bad_records(tiny_gpt2):
    with pytest.raises(
        ArgumentError, match=r"no text that can be read: 2 records skipped: texts\[0"
    ):
        list(Corpus(adapter_for(tiny_gpt2), ["", ""], on_error="skip").windows())


def test_another_rule_is_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="on_error='ignore': 'raise' or 'skip'"):
        lp.massive.scan(tiny_gpt2, GOOD, on_error="ignore")


# ---- analyses -----------------------------------------------------------------------------------


def scans(room):
    options = LOW if room == "massive" else {"batch_tokens": 128}
    call = getattr(lp, room).scan
    return lambda model, texts, **more: call(model, texts, **{**options, **more})


@pytest.fixture(params=["massive", "sinks"])
def scan(request):
    return scans(request.param)


def same(one, two):
    for table in one.tables:
        pd.testing.assert_frame_equal(one.to_frame(table), two.to_frame(table), check_exact=True)


def test_a_scan_is_that_of_the_good_records(tiny_gpt2, scan, mixed):
    path, _ = mixed
    with pytest.raises(ArgumentError, match="line 1 is not JSON"):
        scan(tiny_gpt2, path)
    found, plain = scan(tiny_gpt2, path, on_error="skip"), scan(tiny_gpt2, GOOD)
    same(found, plain)
    assert found.provenance["documents"] == len(GOOD)
    assert found.provenance["skipped"] == len(BAD) and plain.provenance["skipped"] == 0
    assert len(notes(found)) == 1 and not notes(plain)
    planned = scan(tiny_gpt2, path, on_error="skip", dry_run=True)
    assert planned.costs["documents"][0] == len(GOOD)


def test_half_a_file_is_said(tiny_gpt2, scan, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    data = gzip.compress("".join(json.dumps(text) + "\n" for text in GOOD).encode())
    path.write_bytes(data[:-9])
    with pytest.raises(ArgumentError, match=r"a\.jsonl\.gz cannot be read from line"):
        scan(tiny_gpt2, path)
    found = scan(tiny_gpt2, [path], on_error="skip")
    (note,) = notes(found)
    assert "1 record skipped: a.jsonl.gz cannot be read from line" in note


def test_a_run_that_goes_on_says_the_same(tiny_gpt2, scan, mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 100)
    path, _ = mixed
    with path.open("ab") as file:
        file.write(b"\n{at the end\n{and once more")
    whole = scan(tiny_gpt2, path, out=tmp_path / "whole", on_error="skip")
    real, calls = lp.scanning.forward, []

    def forward(*given):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(lp.scanning, "forward", forward)
    with pytest.raises(Interrupted):
        scan(tiny_gpt2, path, out=tmp_path / "run", on_error="skip")
    for _ in range(2):
        again = scan(tiny_gpt2, path, out=tmp_path / "run", on_error="skip")
        same(again, whole)
        assert again.provenance == whole.provenance
        assert again.provenance["skipped"] == len(BAD) + 2
    with pytest.raises(ArgumentError, match=r"line 1 is not JSON.*An earlier run skipped it"):
        scan(tiny_gpt2, path, out=tmp_path / "run")


def test_after_a_fatal_record_the_run_goes_on_without_it(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 100)
    texts = [*GOOD[:12], "", *GOOD[12:]]
    with pytest.raises(ArgumentError, match=r"texts\[12\]: the text is empty"):
        lp.massive.scan(tiny_gpt2, texts, out=tmp_path / "run", **LOW)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("shard-*")}
    assert kept
    found = lp.massive.scan(tiny_gpt2, texts, out=tmp_path / "run", on_error="skip", **LOW)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert notes(found) == [
        "1 record skipped: texts[12]: the text is empty; give at least one character"
    ]


def test_a_bad_record_that_was_mended_is_another_text(tiny_gpt2, mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "PIECE_TOKENS", 100)
    path, _ = mixed
    lp.massive.scan(tiny_gpt2, path, out=tmp_path / "run", on_error="skip", **LOW)
    path.write_bytes(path.read_bytes().replace(b"{broken", b'"mended"'))
    with pytest.raises(OutputError, match="not those of the run"):
        lp.massive.scan(tiny_gpt2, path, out=tmp_path / "run", on_error="skip", **LOW)


def test_a_report_of_the_good_records(tiny_gpt2, mixed):
    path, _ = mixed
    found = lp.report(tiny_gpt2, path, on_error="skip", length=32)
    assert len(notes(found)) == 2


def test_interpolation_is_that_of_the_good_records(tiny_gpt2):
    options = {"layer": 1, "weight": 0.5, "batch_tokens": 64}
    texts = [*GOOD[:4], "", [5], *GOOD[4:6]]
    with pytest.raises(ArgumentError, match=r"texts\[4\]"):
        lp.interpolation.score(tiny_gpt2, texts, **options)
    found = lp.interpolation.score(tiny_gpt2, texts, on_error="skip", **options)
    plain = lp.interpolation.score(tiny_gpt2, GOOD[:6], **options)
    assert found.texts["text"].unique().tolist() == [0, 1, 2, 3, 6, 7]
    np.testing.assert_array_equal(found.to_frame()["loss"], plain.to_frame()["loss"])
    assert "texts[5] is shorter than 2 tokens" in notes(found)[0]


ONE_TEXT = {
    "lp.editing", "lp.attention", "lp.interpolation.trace", "lp.sinks.clusters", "lp.sinks.patch",
    "lp.sinks.repeats", "lp.sinks.scores", "lp.steering.calibrate", "lp.steering.contrast",
    "lp.steering.mixing",
}  # fmt: skip
"""Analyses that take no corpus."""


def test_no_analysis_is_silent_about_what_it_skipped(tiny_gpt2):
    """Each names the record in its result, or refuses it."""
    first, second = every_analysis.TEXTS
    silent, said = [], 0
    with lp.options(on_error="skip", progress=False):
        for name, call in every_analysis.calls(tiny_gpt2, (first, "", second)).items():
            if name in ONE_TEXT:
                continue
            try:
                result = call()
            except LensprobeError:
                continue
            told = json.dumps(result.provenance, default=str)
            said += "skipped: " in told
            silent += [] if "skipped: " in told else [name]
    assert not silent and said > 20


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_a_difference_leaves_out_both_sides(tiny_gpt2, method):
    positive, negative = GOOD[:6], [text.upper() for text in GOOD[:6]]
    options = {"method": method, "layers": [1], "batch_tokens": 64}
    clean = lp.steering.difference(tiny_gpt2, positive, negative, **options)
    positive, negative = (
        [*positive[:2], "", *positive[2:], "x"],
        [*negative[:2], "y", *negative[2:], ""],
    )
    with pytest.raises(ArgumentError, match=r"positive\[2\]: the text is empty"):
        lp.steering.difference(tiny_gpt2, positive, negative, **options)
    found = lp.steering.difference(tiny_gpt2, positive, negative, on_error="skip", **options)
    np.testing.assert_allclose(found[1].values, clean[1].values, rtol=1e-5, atol=1e-7)
    (note,) = notes(found[1])
    assert "2 records skipped: positive[2]: the text is empty" in note and "negative[7]" in note


def test_questions_that_are_none_are_skipped(tiny_gpt2, tmp_path):
    record = {"question": "Do you sleep?", "answer_matching_behavior": " No"}
    rows = [{**record, "answer_not_matching_behavior": " Yes"}] * 2
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, [rows[0], record, rows[1]])) + "\n{")
    with pytest.raises(ArgumentError, match="line 2 lacks"):
        lp.steering.difference(tiny_gpt2, path)
    found = lp.steering.difference(tiny_gpt2, path, on_error="skip", layers=1)
    clean = lp.steering.difference(tiny_gpt2, rows, layers=1)
    np.testing.assert_allclose(found.values, clean.values, rtol=1e-5, atol=1e-7)
    assert "line 2 lacks" in notes(found)[0] and "line 4 is not JSON" in notes(found)[0]
