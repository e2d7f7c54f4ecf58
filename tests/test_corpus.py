"""Texts of every kind become the same windows; nothing is read before its time."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import lensprobe as lp
from lensprobe.corpus import LOOKAHEAD, Corpus
from lensprobe.documents import documents
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.tokens import TokenBatch, encode

TEXTS = ["Hello world, this is", "I", "The cat sat on the mat and then it went away"]


@pytest.fixture
def adapter(tiny_gpt2):
    return adapter_for(tiny_gpt2)


def windows(adapter, texts, **options):
    return [window.ids for window in Corpus(adapter, texts, **options).windows()]


def plain(adapter, texts=TEXTS, bos="auto"):
    return [tuple(encode(adapter, text, bos)) for text in texts]


def records():
    return [{"body": text, "id": index} for index, text in enumerate(TEXTS)]


def lazy_dataset():
    return datasets.IterableDataset.from_generator(lambda: iter(records()))


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (list(TEXTS), {}),
        (tuple(TEXTS), {}),
        ((text for text in TEXTS), {}),
        (np.array(TEXTS), {}),
        (pd.Series(TEXTS), {}),
        (records(), {"column": "body"}),
        (datasets.Dataset.from_list(records()), {"column": "body"}),
        (lazy_dataset(), {"column": "body"}),
        ([{"text": text} for text in TEXTS], {}),
        ([*TEXTS, "never read"], {"limit": 3}),
        ((text for text in [*TEXTS, ""]), {"limit": 3}),
    ],
)
def test_every_kind_of_texts_is_the_same_corpus(adapter, texts, options):
    assert windows(adapter, texts, **options) == plain(adapter)


def test_one_text_is_a_corpus_of_one(adapter):
    expected = plain(adapter, TEXTS[:1])
    ids = list(expected[0])
    for text in (TEXTS[0], ids, torch.tensor(ids), np.array(ids), [ids], torch.tensor([ids])):
        assert windows(adapter, text) == expected


def test_a_token_batch_is_its_rows(adapter):
    batch = TokenBatch.pad(adapter, TEXTS, side="left")
    assert windows(adapter, batch) == plain(adapter)


def test_bos_is_resolved_once(adapter):
    for bos in (True, False):
        assert windows(adapter, TEXTS, bos=bos) == plain(adapter, bos=bos)
        assert Corpus(adapter, TEXTS, bos=bos).bos is bos


def test_chat_without_a_template_says_so(adapter):
    with pytest.raises(ModelError, match="chat template"):
        windows(adapter, [{"role": "user", "content": "hi"}])


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(TEXTS),
        "\n".join(TEXTS) + "\n\n\n",
        "\n\n" + "\n  \n\n".join(TEXTS) + "\n",
        "\ufeff" + "\r\n\r\n".join(TEXTS),
    ],
)
def test_a_text_file(adapter, tmp_path, content):
    path = tmp_path / "texts.txt"
    path.write_bytes(content.encode())
    assert windows(adapter, path) == windows(adapter, str(path)) == plain(adapter)


def test_a_blank_line_separates_and_a_line_break_does_not(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert list(documents(path).stream) == [
        ("texts.txt line 1", "one\ntwo"),
        ("texts.txt line 4", "three"),
    ]


def test_a_jsonl_file(adapter, tmp_path):
    path = tmp_path / "texts.jsonl"
    ids = list(plain(adapter)[2])
    path.write_text("\n".join(map(json.dumps, [{"text": TEXTS[0]}, TEXTS[1], ids])) + "\n\n")
    assert windows(adapter, path) == plain(adapter)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'"fine"\n{"text": \n', r"a\.jsonl line 2 is not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', r"column='text': a\.jsonl line 1 has the columns body"),
        ("a.txt", b"\xff\xfe\xfa", "cannot be read as UTF-8"),
        ("a.txt", b" \n \n", "no text at all"),
        ("a.jsonl", b"", "no text at all"),
        ("a.jsonl", b"3\n", r"a\.jsonl line 1: a text is a string"),
    ],
)
def test_a_bad_file_is_named_with_its_line(adapter, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=message):
        windows(adapter, path)


def test_a_missing_file_and_a_folder(adapter, tmp_path):
    with pytest.raises(ArgumentError, match="no such file"):
        windows(adapter, str(tmp_path / "nothing.txt"))
    with pytest.raises(ArgumentError, match="is a folder"):
        windows(adapter, tmp_path)


# ---- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
def test_a_long_document_is_cut_and_nothing_is_lost(adapter, bos):
    text = " ".join(TEXTS * 5)
    ids = encode(adapter, text, bos)
    corpus = Corpus(adapter, [TEXTS[1], text], bos=bos, length=10)
    found = list(corpus.windows())
    assert found[0].ids == tuple(encode(adapter, TEXTS[1], bos))
    pieces = [window for window in found if window.document == 1]
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert [len(piece.ids) for piece in pieces[:-1]] == [10] * (len(pieces) - 1)
    assert sum((piece.ids[bos:] for piece in pieces), ()) == tuple(ids[bos:])
    if bos:
        assert {piece.ids[0] for piece in pieces} == {adapter.tokenizer.bos_token_id}
    assert corpus.read.documents == 2
    assert corpus.read.split == 1
    (note,) = corpus.notes(corpus.read)
    assert "1 of 2 documents were longer than 10 tokens" in note
    assert ("BOS" in note) is bos


def test_token_ids_without_bos_get_none(adapter):
    ids = list(range(5, 25))
    assert windows(adapter, [ids], bos=True, length=8) == [
        tuple(ids[:8]),
        tuple(ids[8:16]),
        tuple(ids[16:]),
    ]


def test_the_window_is_never_longer_than_the_context(adapter):
    assert Corpus(adapter, TEXTS).length == min(adapter.context, 1024)
    assert Corpus(adapter, TEXTS, longest=64).length == 64
    with lp.options(length=32):
        assert Corpus(adapter, TEXTS, longest=64).length == 32


# ---- batches ----------------------------------------------------------------------------------


def many(adapter, count, seed=0):
    rng = np.random.default_rng(seed)
    for size in rng.integers(1, 60, count):
        yield rng.integers(1, adapter.d_vocab, size).tolist()


def test_batches_hold_every_window_once_within_the_limit(adapter):
    texts = list(many(adapter, 300))
    corpus = Corpus(adapter, texts, length=40, batch_tokens=256)
    found, padded = [], 0
    for batch in corpus.batches():
        assert batch.size <= 256
        padded += batch.size
        assert batch.tokens.rows() == [list(window.ids) for window in batch.windows]
        assert batch.lengths.tolist() == batch.tokens.lengths.tolist()
        found += batch.windows
    expected = list(Corpus(adapter, texts, length=40).windows())
    assert sorted(found, key=lambda w: (w.document, w.index)) == expected
    assert padded < 1.1 * corpus.read.tokens


def test_a_window_longer_than_the_limit_is_a_batch_of_its_own(adapter):
    batches = list(Corpus(adapter, [list(range(1, 30))] * 2, batch_tokens=8).batches())
    assert [batch.size for batch in batches] == [29, 29]


def test_a_generator_is_consumed_lazily(adapter):
    taken = 0

    def texts():
        nonlocal taken
        for text in many(adapter, 2000):
            taken += len(text)
            yield text

    limit, read = 128, 0
    for batch in Corpus(adapter, texts(), batch_tokens=limit).batches():
        read += batch.lengths.sum()
        assert taken - read <= LOOKAHEAD * limit + 60
    assert read == taken > 20 * limit * LOOKAHEAD


def test_the_size_of_the_corpus_is_estimated_until_it_is_known(adapter):
    texts = [[1, 2, 3, 4]] * 1000
    corpus = Corpus(adapter, texts, batch_tokens=16)
    assert corpus.expected_tokens() is None
    expected = [corpus.expected_tokens() for _ in corpus.batches()]
    assert set(expected) == {4000}
    unsized = Corpus(adapter, iter(texts), batch_tokens=16)
    expected = [unsized.expected_tokens() for _ in unsized.batches()]
    assert expected[0] is None
    assert expected[-1] == 4000


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no texts"),
        (iter([]), "no text at all"),
        (["fine", ""], r"texts\[1\]: the text is empty"),
        ((text for text in ["fine", ""]), r"texts\[1\]: the text is empty"),
        ([[1, 2], [10**6]], r"texts\[1\]: token ids run"),
        ({"train": ["a"], "test": ["b"]}, "keys train, test"),
        (3, "type int"),
        ([{"txt": "a"}], "Did you mean 'txt'"),
    ],
)
def test_bad_texts_are_named(adapter, texts, message):
    with pytest.raises(ArgumentError, match=message):
        windows(adapter, texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length=0"),
        ({"length": 2.5}, r"length=2\.5"),
        ({"length": 1, "bos": True}, "BOS alone"),
        ({"length": 10**6}, "context is"),
        ({"limit": 0}, "limit=0"),
        ({"limit": True}, "limit=True"),
        ({"batch_tokens": -1}, "batch_tokens=-1"),
        ({"bos": "yes"}, "bos='yes'"),
        ({"column": "text"}, r"column='text': texts\[0\] is not a record"),
    ],
)
def test_bad_options_are_named(adapter, options, message):
    with pytest.raises(ArgumentError, match=message):
        windows(adapter, TEXTS, **options)
