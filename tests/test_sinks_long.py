"""Long contexts in chunks, several corpora, made-up texts, and models with learned sinks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_models import write_tokenizer
from tolerance import close

import lensprobe as lp
from lensprobe import sinks
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.learned import has_learned_sinks
from lensprobe.sinks.corpora import made_up
from lensprobe.sinks.long import pattern_bytes
from lensprobe.sinks.outliers import Outliers
from lensprobe.sinks.reading import LEAST_QUERIES
from lensprobe.texts import default_texts

RNG = np.random.default_rng(0)
RAGGED = [RNG.integers(1, 300, size).tolist() for size in (50, 33, 1, 21, 50, 49)]
LOW = {"threshold": 0.5, "ratio": 2.5}
"""Thresholds at which residuals of a random model have massive activations, not everywhere."""


def same(one, two):
    for table in one.tables:
        a, b = one.to_frame(table), two.to_frame(table)
        words = [name for name in a if a[name].dtype.kind not in "fiub"]
        pd.testing.assert_frame_equal(a[words], b[words])
        one_by_one = a.drop(columns=words).to_numpy(float), b.drop(columns=words).to_numpy(float)
        np.testing.assert_allclose(*one_by_one, rtol=1e-5, atol=1e-5)


def patterns_of(model, ids):
    adapter = adapter_for(model)
    names = [adapter.hook_name("attn.pattern", n) for n in range(adapter.n_layers)]
    residuals = [adapter.hook_name("resid_post", n) for n in range(adapter.n_layers)]
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]))
    return [
        np.stack([cache[name][0].double().numpy() for name in group])
        for group in (names, residuals)
    ]


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_chunks_equal_whole_passes(decoder, chunk):
    options = {"length": 50, "epsilon": 0.1, **LOW, "batch_tokens": 120}
    whole = sinks.scan(decoder, RAGGED, chunk=50, **options)
    parts = sinks.scan(decoder, RAGGED, chunk=chunk, **options)
    same(whole, parts)
    assert len(whole.massive) and whole.profile["mass"].notna().all()
    assert parts.provenance["chunk"] == chunk and whole.provenance["chunk"] is None
    assert any(f"chunks of at most {chunk} tokens" in note for note in parts.provenance["notes"])


@pytest.mark.weights
def test_on_real_weights_chunks_are_equal_too(smollm2):
    text = " ".join(default_texts())
    options = {"length": 256, "limit": 1, "layers": range(6)}
    whole = sinks.scan(smollm2, [text], chunk=256, **options)
    same(whole, sinks.scan(smollm2, [text], chunk=100, **options))


def test_a_chunk_is_chosen_that_keeps_patterns_small(tiny_llama, monkeypatch):
    monkeypatch.setattr("lensprobe.running.batching.PASS_BYTES", 100_000)
    found = sinks.scan(tiny_llama, [RAGGED[0] * 4], length=200)
    assert 16 <= found.provenance["chunk"] < 200
    same(found, sinks.scan(tiny_llama, [RAGGED[0] * 4], length=200, chunk=200))


def test_reading_whole_is_refused_before_memory_runs_out(tiny_llama, monkeypatch):
    adapter = adapter_for(tiny_llama)
    free = pattern_bytes(adapter, 1, 50, 50)
    monkeypatch.setattr("lensprobe.sinks.long.free_memory", lambda device: free)
    ran = []
    monkeypatch.setattr(adapter, "_forward", lambda *args: ran.append(args))
    with pytest.raises(ArgumentError, match=r"chunk=50: reading 50 of 50 tokens at once takes"):
        sinks.scan(tiny_llama, RAGGED[:1], length=50, chunk=50)
    assert not ran


def test_a_batch_that_would_not_fit_is_split(tiny_llama, monkeypatch):
    free = pattern_bytes(adapter_for(tiny_llama), 1, 50, 50) + 1
    monkeypatch.setattr("lensprobe.sinks.long.free_memory", lambda device: free)
    found = sinks.scan(tiny_llama, [RAGGED[0]] * 3, length=50, chunk=50)
    assert any("memory ran out" in note for note in found.provenance["notes"])
    assert found.provenance["sequences"] == 3


def test_under_the_users_hooks_passes_are_whole(tiny_llama):
    seen = []
    with tiny_llama.hooks(
        fwd_hooks=[("blocks.3.hook_resid_post", lambda x, hook: seen.append(x.shape[1]))]
    ):
        found = sinks.scan(tiny_llama, RAGGED[:1], length=50, chunk=7)
    assert seen == [50]
    assert found.provenance["chunk"] is None


@pytest.mark.parametrize("chunk", [0, -3, True, 2.5])
def test_a_bad_chunk_is_refused(tiny_llama, chunk):
    with pytest.raises(ArgumentError, match="chunk="):
        sinks.scan(tiny_llama, RAGGED, chunk=chunk)


def test_mass_secondary_sinks_and_rates_are_the_loop(decoder):
    found = sinks.scan(decoder, RAGGED, length=50, epsilon=(0.08, 0.2), keys=2, **LOW)
    masses, places, secondary, exposed = {}, {}, {}, {}
    rates = {epsilon: [] for epsilon in (0.08, 0.2, 0.3, 0.8)}
    for ids in RAGGED:
        pattern, residual = patterns_of(decoder, ids)
        size, length = np.abs(residual), len(ids)
        middle = np.sort(size.reshape(len(size), -1), axis=1)[:, (size[0].size - 1) // 2]
        largest = size.max(-1)
        massive = ((largest > 0.5) & (largest >= 2.5 * middle[:, None])).any(0)
        for place in np.flatnonzero(massive):
            places[place, ids[place]] = places.get((place, ids[place]), 0) + 1
        for layer, head in np.ndindex(pattern.shape[:2]):
            attention = pattern[layer, head]
            alpha = [attention[place:, place].mean() for place in range(length)]
            if massive.any():
                rows = attention[massive.argmax() :]
                masses.setdefault((layer, head), []).append(rows[:, massive].sum(1).mean())
            for epsilon, values in rates.items():
                values.append((layer, head, alpha[0] > epsilon))
            for place in range(1, length - LEAST_QUERIES + 1):
                if alpha[place] > 0.08:
                    secondary.setdefault((layer, place), []).append(alpha[place])
        for place in range(length - LEAST_QUERIES + 1):
            exposed[place] = exposed.get(place, 0) + adapter_for(decoder).n_heads
    for row in found.profile.itertuples():
        close(row.mass, np.mean(masses[row.layer, row.head]))
    assert found.massive["count"].sum() == sum(places.values())
    assert found.massive["position"].nunique() == len({place for place, _ in places})
    assert secondary
    got = found.secondary.groupby(["layer", "position"])
    assert set(got.groups) == set(secondary)
    for (layer, place), rows in got:
        assert rows["count"].sum() == len(secondary[layer, place])
        mean = (rows["value"] * rows["count"]).sum() / rows["count"].sum()
        close(mean, np.mean(secondary[layer, place]))
        close(rows["share"].sum(), len(secondary[layer, place]) / exposed[place])
    for epsilon, values in rates.items():
        part = found.rates[(found.rates["epsilon"] == epsilon) & (found.rates["key"] == 0)]
        close(part["sink_rate"].mean(), np.mean([value for *_, value in values]))
    assert found.provenance["epsilons"] == [0.08, 0.2, 0.3, 0.8]
    first = found.heads.query("key == 0")
    close(first["sink_rate"], found.rates.query("epsilon == 0.08 and key == 0")["sink_rate"])


def test_a_sequence_in_pieces_is_judged_like_a_whole_one():
    rng = np.random.default_rng(1)
    lengths = np.array([700, 300])
    stream = torch.tensor(rng.normal(size=(2, 700, 8)), dtype=torch.float32)
    stream[0, [0, 400], 3] = torch.tensor([500.0, -900.0])
    stream[1, 650, 2] = 1e4  # a pad
    stream[1, 7, 1] = torch.inf
    whole, parts = (Outliers(lengths, 1, threshold=100.0, ratio=200.0) for _ in range(2))
    whole.read(0, stream, 0)
    for begin in range(0, 700, 130):
        parts.read(0, stream[:, begin : begin + 130], begin)
    assert np.argwhere(whole.positions()).tolist() == [[0, 0], [0, 400]]
    assert (parts.positions() == whole.positions()).all()


def test_corpora_stand_side_by_side_and_together(tiny_llama):
    prose, code = RAGGED[:3], RAGGED[3:]
    found = sinks.scan(tiny_llama, {"prose": prose, "code": code}, length=50, epsilon=0.1)
    together = sinks.scan(tiny_llama, RAGGED, length=50, epsilon=0.1)
    for table in ("heads", "layers", "profile", "secondary"):
        words = {"exclude": ["object", "string"]}
        a, b = (each.to_frame(table).select_dtypes(**words) for each in (found, together))
        close(a, b)
    for name, texts in (("prose", prose), ("code", code)):
        alone = sinks.scan(tiny_llama, texts, length=50, epsilon=0.1).conditions
        part = found.conditions[found.conditions["condition"] == name]
        close(part[["value", "sink_rate", "entropy"]], alone[["value", "sink_rate", "entropy"]])
        assert (part["kind"] == np.where(part["value"] > 0.1, "dormant", "active")).all()
    switching = found.switching()
    wide = found.conditions.pivot(index=["layer", "head"], columns="condition", values="value")
    assert len(switching) == ((wide > 0.1).nunique(axis=1) > 1).sum() > 0
    close(switching["change"], np.abs(switching["prose"] - switching["code"]))


def test_random_and_repeated_tokens_have_the_same_shape_as_the_texts(tiny_gpt2):
    texts = ["the cat sat on the mat and went away " * 3] * 2
    found = sinks.scan(tiny_gpt2, texts, conditions=("repeated", "random"), length=12, seed=3)
    assert list(found.provenance["conditions"]) == ["natural", "random", "repeated"]
    sequences = {c["sequences"] for c in found.provenance["conditions"].values()}
    assert sequences == {found.provenance["sequences"]}
    again = sinks.scan(tiny_gpt2, texts, conditions="random", length=12, seed=3)
    close(
        again.conditions.query("condition == 'random'")["value"],
        found.conditions.query("condition == 'random'")["value"],
    )
    plain = sinks.scan(tiny_gpt2, texts, length=12)
    close(found.heads["value"], plain.heads["value"])
    assert plain.provenance["seed"] is None


@pytest.mark.parametrize("bos", [True, False])
def test_made_up_sequences(tiny_gpt2, bos):
    adapter = adapter_for(tiny_gpt2)
    options = {"sequences": 30, "length": 9, "bos": bos, "seed": 5}
    rows = {name: list(made_up(adapter, name, **options)) for name in ("random", "repeated")}
    for name, sequences in rows.items():
        assert len(sequences) == 30
        assert {len(row) for row in sequences} == {9}
        rest = [row.ids[bos:] for row in sequences]
        assert not any(0 in ids for ids in rest), "a special token was drawn"
        assert [row.ids[0] == 0 for row in sequences] == [bos] * 30
        assert all((len(set(ids)) == 1) == (name == "repeated") for ids in rest)
    assert len(list(made_up(adapter, "random", **{**options, "sequences": 500}))) == 100


def test_repeated_tokens_without_bos_have_equal_values(tiny_llama):
    """Their values are all the same, and so whatever the heads attend to, they hand on one vector."""
    found = sinks.scan(tiny_llama, [[7] * 20], bos=False, length=20, keys=1)
    pattern, _ = patterns_of(tiny_llama, [7] * 20)
    close(found.heads["value"], pattern[..., 0].mean(-1).reshape(-1))
    values = found.profile
    close(values["value_norm"], values["other_norm"])


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory, legacy):
    """A tiny random gpt-oss: a learned sink in every head."""
    folder = tmp_path_factory.mktemp("oss")
    config = transformers.GptOssConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=48,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        num_local_experts=2,
        num_experts_per_tok=1,
        sliding_window=128,
        max_position_embeddings=256,
        rope_scaling=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GptOssForCausalLM(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(torch.randn_like(weight) * 0.2 + ("norm" in name))
    model.save_pretrained(folder)
    return lp.load(folder)


def test_what_goes_to_a_learned_sink_is_kept_apart(gpt_oss):
    assert has_learned_sinks(adapter_for(gpt_oss))
    found = sinks.scan(gpt_oss, RAGGED[:2], length=50)
    patterns = [patterns_of(gpt_oss, ids)[0] for ids in RAGGED[:2]]
    left = np.concatenate([1 - pattern.sum(-1) for pattern in patterns], axis=-1)
    assert left.mean() > 0.01
    close(found.profile["remainder"], left.mean(-1).reshape(-1))
    outcomes = [np.concatenate([p, 1 - p.sum(-1, keepdims=True)], -1) for p in patterns]
    rows = [-(np.where(p > 0, p * np.log(np.maximum(p, 1e-30)), 0)).sum(-1) for p in outcomes]
    close(found.profile["entropy"], np.concatenate(rows, -1).mean(-1).reshape(-1))
    assert found.provenance["learned_sinks"] is True
    assert any("learned sink" in note for note in found.provenance["notes"])
    same(found, sinks.scan(gpt_oss, RAGGED[:2], length=50, chunk=9))


def test_other_models_have_no_learned_sink(decoder, tiny_t5):
    assert not has_learned_sinks(adapter_for(decoder))
    assert not has_learned_sinks(adapter_for(tiny_t5))
    assert sinks.scan(decoder, RAGGED[:1]).profile["remainder"].isna().all()


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ({}, {}, "empty mapping"),
        ({"random": [[1]]}, {}, "key 'random'"),
        ({3: [[1]]}, {}, "key 3"),
        ([[1, 2]], {"conditions": "shuffled"}, "conditions='shuffled'"),
        ([[1, 2]], {"conditions": 3}, "conditions=3"),
        ([[1, 2]], {"epsilon": (0.2, 1.5)}, "epsilon="),
        ([[1, 2]], {"epsilon": ()}, "epsilon="),
        ([[1, 2]], {"seed": -1}, "seed=-1"),
        ([[1, 2]], {"ratio": -1}, "ratio=-1"),
    ],
)
def test_bad_corpora_and_conditions_are_refused(tiny_gpt2, texts, options, message):
    with pytest.raises(ArgumentError, match=message):
        sinks.scan(tiny_gpt2, texts, **options)


@pytest.mark.weights
def test_repeated_tokens_have_no_sink_in_smollm2(smollm2):
    """As in Gu et al. of Llama 2: repeated tokens without BOS leave nothing to rest on."""
    options = {"bos": False, "conditions": ("random", "repeated"), "seed": 0}
    found = sinks.scan(smollm2, default_texts()[:2], **options)
    rate = found.rates.query("key == 0 and epsilon == 0.3").groupby("condition")["sink_rate"].mean()
    assert rate["natural"] > 0.6 and rate["random"] > 0.6
    assert rate["repeated"] == 0
