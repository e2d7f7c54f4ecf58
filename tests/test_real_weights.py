"""SmolLM2-135M, real weights: what tiny random models cannot show."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import lensprobe as lp
from lensprobe import positions
from lensprobe.costs import PeakMemory, resident

pytestmark = pytest.mark.weights

PROSE = (
    "The river had risen in the night, and by morning the lower field was a sheet of grey water. "
    "Nobody in the village was surprised: it happened every spring, and every spring the old men "
    "said that it had never been so high. "
)


def test_chunks_equal_the_plain_way_and_a_long_prompt_stays_small(smollm2):
    ids = smollm2.to_tokens(PROSE * 45)[0][:2048]
    assert len(ids) == 2048
    edit = lp.Add(torch.ones(576) * 0.01, layers=12, positions=positions.front(1))
    before = resident()
    with PeakMemory(torch.device("cpu")) as peak:
        long = lp.score(smollm2, ids, edits=edit)
    # Keys and values of 2,048 tokens are 94 MB of this; their logits alone would be 384 MB.
    assert (peak.bytes - before) / 2**20 < 300
    short = ids[:700]
    whole = lp.score(smollm2, short, edits=edit, chunk=700).tokens["loss"]
    parts = lp.score(smollm2, short, edits=edit, chunk=128).tokens["loss"]
    np.testing.assert_allclose(whole[1:], parts[1:], atol=1e-4)
    np.testing.assert_allclose(whole[1:], long.tokens["loss"][1:700], atol=1e-4)


def test_padded_batches_equal_members_alone(smollm2):
    texts = [PROSE, "Yes.", PROSE * 3]
    alone = [lp.forward(smollm2, text, layers=[1, 15, 29]) for text in texts]
    expected = np.concatenate([one.activations for one in alone], axis=1)
    logits = np.concatenate([one.logits for one in alone])
    for side in ("left", "right"):
        got = lp.forward(smollm2, texts, layers=[1, 15, 29], side=side)
        scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
        assert (np.abs(got.activations - expected) / scale).max() < 1e-5
        np.testing.assert_allclose(got.logits, logits, atol=5e-4)


def test_a_bfloat16_model_takes_a_float32_vector(smollm2):
    twin = copy.deepcopy(smollm2).to(torch.bfloat16)
    vector = torch.randn(576, generator=torch.Generator().manual_seed(0))
    edit = lp.Add(vector, layers=15, scale=2.0, positions=positions.after_prompt())
    got = lp.generate(twin, "The weather today is", edits=edit, max_new_tokens=4, logprobs=True)
    assert got.provenance["dtype"] == "bfloat16" and np.isfinite(got.tokens["logprob"]).all()
    plain = lp.forward(twin, "The weather today is", layers=15).activations[0]
    edited = lp.forward(twin, "The weather today is", layers=15, edits=lp.Add(vector, layers=15))
    step = np.abs(plain).max(1, keepdims=True) * 2.0**-7
    assert (np.abs(edited.activations[0] - plain - vector.numpy()) <= step).all()


def test_a_chat_answers_and_has_one_bos(smollm2):
    chat = lp.chat(smollm2, [{"role": "user", "content": "What is the capital of France?"}])
    bos = smollm2.tokenizer.bos_token_id
    assert chat.ids[0] == bos and chat.ids[1] != bos
    answer = lp.generate(smollm2, chat, max_new_tokens=12)
    assert "Paris" in answer.completions[0]
