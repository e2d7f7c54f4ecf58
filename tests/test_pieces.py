"""A corpus in pieces: the same texts cut alike, stepped over where kept, and seen when changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensprobe.corpus import Corpus
from lensprobe.errors import ArgumentError, OutputError
from lensprobe.models.adapter import adapter_for
from lensprobe.shards.folder import Kept
from lensprobe.shards.identity import identity, weights_fingerprint
from lensprobe.shards.pieces import pieces

TEXTS = ["Hello world, this is", "I", "The cat sat on the mat and then it went away", "Yes no"] * 5


def cut(adapter, texts=TEXTS, tokens=20, earlier=None, **options):
    corpus = Corpus(adapter, texts, length=8, **options)
    kept = earlier or {}
    return list(pieces(corpus, tokens, kept.get)), corpus


@settings(max_examples=25)
@given(tokens=st.integers(1, 300))
def test_pieces_hold_every_window_once_in_order(tiny_gpt2, tokens):
    adapter = adapter_for(tiny_gpt2)
    found, corpus = cut(adapter, tokens=tokens)
    whole = list(Corpus(adapter, TEXTS, length=8).windows())
    assert [window for piece in found for window in piece.windows] == whole
    assert [piece.number for piece in found] == list(range(len(found)))
    assert all(piece.tally.tokens >= tokens for piece in found[:-1])
    assert sum(piece.tally.documents for piece in found) == len(TEXTS)
    assert corpus.exhausted and corpus.read.tokens == sum(p.tally.tokens for p in found)


@settings(max_examples=20)
@given(data=st.data())
def test_kept_pieces_are_stepped_over_and_the_rest_is_the_same(tiny_gpt2, data):
    adapter = adapter_for(tiny_gpt2)
    found, whole = cut(adapter)
    numbers = data.draw(st.sets(st.sampled_from(range(len(found)))))
    kept = {n: Kept({**found[n].facts, "notes": []}, {}) for n in numbers}
    again, corpus = cut(adapter, earlier=kept)
    for one, two in zip(found, again, strict=True):
        assert (one.number, one.tally, one.fingerprint) == (two.number, two.tally, two.fingerprint)
        assert two.windows == (() if one.number in kept else one.windows)
        assert (two.kept is None) == (one.number not in kept)
    assert corpus.read == whole.read and corpus.exhausted


def test_changed_texts_are_seen(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    found, _ = cut(adapter)
    kept = {0: Kept(found[0].facts, {})}
    for texts in (["Hello World, this is", *TEXTS[1:]], TEXTS[1:], TEXTS[:2]):
        with pytest.raises(OutputError, match="not those of the run"):
            cut(adapter, texts, earlier=kept)


@pytest.mark.parametrize(
    "text",
    [
        [1, 2, 3, 4],
        np.array([1, 2, 3, 4]),
        torch.tensor([1, 2, 3, 4]),
        "\ud800 half a character",
    ],
    ids=["list", "array", "tensor", "surrogate"],
)
def test_every_kind_of_text_has_a_fingerprint(tiny_gpt2, text):
    from lensprobe.shards.pieces import _bytes

    assert _bytes(text) == _bytes(text) != _bytes("1234")


def test_no_texts_are_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="no text at all"):
        cut(adapter_for(tiny_gpt2), iter(()))


def test_a_run_is_named_by_what_decides_its_numbers(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)

    def named(**options):
        corpus = Corpus(adapter, TEXTS, **{"length": 8, **options})
        return identity(adapter, corpus, "massive.scan", {"layers": (0,)}, 64)

    assert named() == named()
    assert named(length=7) != named() != named(batch_tokens=64)
    before = weights_fingerprint(tiny_gpt2)
    weight = next(iter(tiny_gpt2.parameters()))
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.view(-1)[0] += 1
        assert weights_fingerprint(tiny_gpt2) != before
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert weights_fingerprint(tiny_gpt2) == before
