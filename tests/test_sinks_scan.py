"""The sink scan against a slow loop over single prompts, written from the definition."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe import sinks
from lensprobe.corpus import Corpus
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.sinks.reading import attention_to, entropies
from lensprobe.tokens import token_strings

TEXTS = [
    "Hello world, this is",
    "I",
    "The cat sat on the mat. And then, it went away.\nOnce more: hello, world!",
    "one, two, three, four, five, six, seven, eight, nine, ten. " * 3,
]


@pytest.fixture(params=["tiny_gpt2", "tiny_llama"])
def model(request):
    return request.getfixturevalue(request.param)


def windows_of(model, texts, **options):
    options = {"length": 64, **options}
    return [list(window.ids) for window in Corpus(adapter_for(model), texts, **options).windows()]


@torch.no_grad()
def loop(model, windows):
    """Float64 patterns `[layer, head, query, key]` and values `[layer, pos, kv_head, d_head]`."""
    adapter = adapter_for(model)
    layers = range(adapter.n_layers)
    patterns = [adapter.hook_name("attn.pattern", layer) for layer in layers]
    values = [adapter.hook_name("attn.v", layer) for layer in layers]
    found = []
    for ids in windows:
        _, cache = model.run_with_cache(
            torch.tensor([ids]), names_filter=lambda n: n in patterns or n in values
        )
        shape = (len(ids), adapter.n_kv_heads, adapter.d_head)
        found.append(
            (
                np.stack([cache[name][0].double().numpy() for name in patterns]),
                np.stack([cache[name][0].double().numpy().reshape(shape) for name in values]),
            )
        )
    return found


def alpha(pattern, key):
    """Mean over queries t >= key of A[t, key]; `pattern` is one head's `[query, key]`."""
    return np.mean([pattern[query, key] for query in range(key, len(pattern))])


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
@pytest.mark.parametrize("options", [{}, {"length": 12}, {"bos": False, "length": 7}])
def test_the_scan_equals_the_loop(model, batch_tokens, options):
    epsilon = 0.12
    scan = sinks.scan(model, TEXTS, batch_tokens=batch_tokens, epsilon=epsilon, **options)
    windows = windows_of(model, TEXTS, **options)
    found = loop(model, windows)
    for row in scan.heads.itertuples():
        reached = [
            alpha(pattern[row.layer, row.head], row.key)
            for pattern, _ in found
            if pattern.shape[-1] > row.key
        ]
        assert row.count == len(reached)
        close(row.value, np.mean(reached))
        close(row.sink_rate, np.mean([value > epsilon for value in reached]))
    rates = scan.heads["sink_rate"]
    assert ((rates > 0) & (rates < 1)).any()
    for row in scan.layers.itertuples():
        part = scan.heads[(scan.heads["layer"] == row.layer) & (scan.heads["key"] == row.key)]
        close(row.sink_rate, part["sink_rate"].mean())
        close(row.value, part["value"].mean())
    adapter = adapter_for(model)
    group = adapter.n_heads // adapter.n_kv_heads
    for row in scan.profile.itertuples():
        patterns = [pattern[row.layer, row.head] for pattern, _ in found]
        rows = [query[query > 0] for pattern in patterns for query in pattern]
        close(row.entropy, np.mean([-(query * np.log(query)).sum() for query in rows]))
        norms = [np.linalg.norm(v[row.layer, :, row.head // group], axis=-1) for _, v in found]
        first = np.mean([norm[0] for norm in norms])
        others = np.mean(np.concatenate([norm[1:] for norm in norms]))
        close(row.value_norm, first)
        close(row.other_norm, others)
        close(row.ratio, first / others)
    assert scan.provenance["short"] == sum(
        len(window) < options.get("length", 64) for window in windows
    )


def test_sequences_without_a_key_do_not_count_for_it(model):
    scan = sinks.scan(model, [[5], [5, 6], [5, 6, 7]], keys=4)
    counts = scan.heads.groupby("key")["count"].unique()
    assert [list(values) for values in counts] == [[3], [2], [1], [0]]
    assert scan.heads.loc[scan.heads["key"] == 3, ["value", "sink_rate"]].isna().all(axis=None)
    # A single token attends to itself alone.
    alone = sinks.scan(model, [[5]], keys=1)
    assert (alone.heads["value"] == 1).all()
    assert (alone.profile["entropy"] == 0).all()
    assert alone.profile["ratio"].isna().all()
    assert alone.sink_rate() == alone.summary()["sink_rate"] == 1


def test_rows_of_pads_are_not_read():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.softmax(torch.randn(2, 3, 5, 5, generator=generator), -1).tril()
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected = attention_to(pattern[1:, :, :2, :2], real[1:, :2], 4)
    for junk in (7.0, torch.nan, torch.inf):
        pattern[1, :, 2:] = junk
        got = attention_to(pattern, real, 4)[1:]
        torch.testing.assert_close(got, expected, equal_nan=True)
    assert got[..., 2:].isnan().all()
    close(got[0, :, 1], pattern[1, :, 1, 1])


def test_the_entropy_of_a_uniform_row_is_the_logarithm_of_its_length():
    rows = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    close(entropies(rows), np.log([1, 2, 4]))


def test_the_sink_rate_is_a_strict_threshold():
    model_free = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    assert attention_to(model_free, torch.ones(1, 2, dtype=torch.bool), 2).tolist() == [
        [[0.75, 0.5]]
    ]


def test_some_layers(model):
    whole, some = sinks.scan(model, TEXTS), sinks.scan(model, TEXTS, layers=[2, 0], keys=2)
    assert some.layers["layer"].unique().tolist() == [0, 2]
    part = whole.heads[whole.heads["layer"].isin([0, 2]) & (whole.heads["key"] < 2)]
    close(some.heads["value"], part["value"])


def test_batching_changes_nothing(model):
    one = sinks.scan(model, TEXTS, batch_tokens=1)
    many = sinks.scan(model, iter(TEXTS[::-1]), batch_tokens=4096)
    for table in one.tables:
        words, numbers = ({"include": ["object", "string"]}, {"exclude": ["object", "string"]})
        a, b = one.to_frame(table), many.to_frame(table)
        pd.testing.assert_frame_equal(a.select_dtypes(**words), b.select_dtypes(**words))
        close(a.select_dtypes(**numbers), b.select_dtypes(**numbers))
    assert one.key_tokens == many.key_tokens


def test_key_tokens_are_the_most_common(model):
    texts = [[5, 9, 9], [5, 8, 9], [5, 9, 7], [4, 8, 7]]
    scan = sinks.scan(model, texts, keys=3)
    # Of 8 and 9, and of 7 and 9, equally common ones: the smaller id.
    assert scan.key_tokens == token_strings(model.tokenizer, [5, 8, 7])
    assert len(sinks.scan(model, [[5, 6]]).key_tokens) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(tiny_gpt2, dtype):
    model = copy.deepcopy(tiny_gpt2).to(dtype)
    model.cfg.dtype = dtype
    scan = sinks.scan(model, TEXTS, batch_tokens=1)
    found = loop(model, windows_of(model, TEXTS))
    expected = [
        np.mean([alpha(pattern[row.layer, row.head], 0) for pattern, _ in found])
        for row in scan.heads[scan.heads["key"] == 0].itertuples()
    ]
    close(scan.heads.loc[scan.heads["key"] == 0, "value"], expected)
    assert scan.provenance["nonfinite"] == {}


def test_broken_attention_is_counted_and_left_out(model):
    plain = sinks.scan(model, [TEXTS[0], TEXTS[2]], batch_tokens=1)

    def spoil(pattern, hook):
        # Only the longer text, and of it one head.
        if pattern.shape[-1] < 20:
            return None
        broken = pattern.clone()
        broken[:, 1] = torch.nan
        return broken

    with model.hooks(fwd_hooks=[("blocks.3.attn.hook_pattern", spoil)]):
        scan = sinks.scan(model, [TEXTS[0], TEXTS[2]], batch_tokens=1)
    assert scan.provenance["nonfinite"] == {"3": 1}
    assert "layers 3" in scan.provenance["notes"][-1] + scan.provenance["notes"][-2]
    head = scan.heads[(scan.heads["layer"] == 3) & (scan.heads["head"] == 1)]
    assert set(head["count"]) == {1}
    below = scan.heads["layer"] < 3
    close(scan.heads.loc[below, "value"], plain.heads.loc[below, "value"])
    assert np.isfinite(scan.heads["value"]).all()


def test_the_planted_heads_sink_as_much_as_they_were_made_to(planted):
    length = 64
    text = (TEXTS[2] * 2)[: length - 1]
    scan = sinks.scan(planted, [text, text[::-1]])
    first = scan.heads[scan.heads["key"] == 0].set_index(["layer", "head"])
    assert len(first) == PLANTED.n_layers * PLANTED.n_heads
    for sink in PLANTED.sink_heads:
        row = first.loc[sink.layer, sink.head]
        close(row["value"], PLANTED.mean_attention(sink.strength, 1.0, length))
        assert row["sink_rate"] == 1
    for layer, head in first.index:
        if PLANTED.kind(layer, head) == "uniform":
            close(first.loc[(layer, head), "value"], PLANTED.uniform_attention(length))
    assert scan.sink_rate() == pytest.approx(len(PLANTED.sink_heads) / len(first))
    assert scan.provenance["short"] == 0
    strongest = max(PLANTED.sink_heads, key=lambda sink: sink.strength)
    assert scan.summary()["strongest_head"] == f"L{strongest.layer}H{strongest.head}"
    uniform = scan.profile[
        [PLANTED.kind(r.layer, r.head) == "uniform" for r in scan.profile.itertuples()]
    ]
    close(uniform["entropy"], [np.log(np.arange(1, length + 1)).mean()] * len(uniform))


def test_the_result_is_saved_and_summed_up(model, tmp_path):
    scan = sinks.scan(model, TEXTS)
    again = lp.open(scan.save(tmp_path / "scan.zip"))
    assert again.tables[:3] == ("heads", "layers", "profile")
    assert set(again.tables[3:]) == {"rates", "conditions", "secondary", "massive"}
    for table in scan.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), scan.to_frame(table))
    facts = again.summary()
    assert facts["sequences"] == len(windows_of(model, TEXTS))
    first = scan.heads[scan.heads["key"] == 0]
    best = first.loc[first["value"].idxmax()]
    assert facts["strongest_head"] == f"L{int(best['layer'])}H{int(best['head'])}"
    assert facts["sink_rate"] == pytest.approx(first["sink_rate"].mean())
    assert again.provenance["epsilon"] == 0.3
    assert again.provenance["length"] == 64
    assert any("shorter than 64 tokens" in note for note in again.provenance["notes"])
    assert "gu2025attention" in scan.cite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": 0}, "keys=0"),
        ({"keys": 65}, "1 to the length, 64"),
        ({"keys": True}, "keys=True"),
        ({"epsilon": 1.0}, r"epsilon=1\.0"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"length": 0}, "length=0"),
        ({"layers": "some"}, "layers='some'"),
        ({"layers": -9}, "layers=-9"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(model, options, message):
    def texts():
        raise AssertionError("a text was read")
        yield ""

    with pytest.raises(ArgumentError, match=message):
        sinks.scan(model, texts(), **options)
