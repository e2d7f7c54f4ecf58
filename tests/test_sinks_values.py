"""Values, keys and angles at a sink, against a loop over single prompts from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe import sinks
from lensprobe.corpus import Corpus
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for

TEXTS = [
    "Hello world, this is",
    "I",
    "The cat sat on the mat. And then, it went away.\nOnce more: hello, world!",
    [4, 9, 9, 31],
]


def products(model, cache, layer, head):
    """Queries times keys `[query key]`, turned as the model turns them: its scores, unscaled."""
    scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][0, head].double().numpy()
    attention = model.blocks[layer].attn
    inner = getattr(attention, "original_component", None)
    cap = getattr(model.cfg, "attn_scores_soft_cap", None)
    if cap is not None and cap > 0:
        scores = cap * np.arctanh(np.clip(scores / cap, -0.99999, 0.99999))
    if inner is None:
        return scores * attention.attn_scale
    return scores / (getattr(inner, "scaling", None) or model.cfg.d_head**-0.5)


def both(x, position):
    return x[position], np.delete(x, position).mean()


def pairs(table, position):
    later = range(position + 1, len(table))
    rows = [np.delete(table[t, : t + 1], position).mean() for t in later]
    return np.mean([table[t, position] for t in later]), np.mean(rows)


@torch.no_grad()
def loop(model, ids, position):
    """One sequence's numbers by layer and head, from the model's own scores: no turn is worked out."""
    adapter = adapter_for(model)
    _, cache = model.run_with_cache(torch.tensor([ids]))
    found = {}
    for layer, head in np.ndindex(adapter.n_layers, adapter.n_heads):
        vectors = []
        for site in ("attn.q", "attn.k", "attn.v"):
            x = cache[adapter.hook_name(site, layer)][0].double().flatten(1)
            x = x.unflatten(-1, (-1, adapter.d_head)).numpy()
            vectors.append(x[:, head // (adapter.n_heads // x.shape[1])])
        q, k, v = vectors
        sizes, lengths = np.linalg.norm(q, axis=1), np.linalg.norm(k, axis=1)
        written = v @ model.blocks[layer].attn.W_O[head].double().numpy()
        product = np.outer(sizes, lengths)
        found[layer, head] = {
            "value": both(np.linalg.norm(v, axis=1), position),
            "written": both(np.linalg.norm(written, axis=1), position),
            "key": both(lengths, position),
            "query": (sizes[position + 1 :].mean(),) * 2,
            "cosine": pairs(products(model, cache, layer, head) / product, position),
            "product": pairs(product, position),
        }
    return found


@pytest.mark.parametrize("position", [0, 2])
def test_every_number_is_the_loop_over_single_prompts(shaped, position):
    got = sinks.values(shaped, TEXTS, position=position, batch_tokens=60)
    windows = Corpus(adapter_for(shaped), TEXTS, length=64).windows()
    usable = [list(window.ids) for window in windows if len(window.ids) > position + 1]
    found = [loop(shaped, ids, position) for ids in usable]
    assert set(got.heads["count"]) == {len(usable)}
    for row in got.heads.itertuples():
        each = [one[row.layer, row.head][row.measure] for one in found]
        at, others = np.mean(each, axis=0)
        close(row.value, at)
        close(row.others, others)
        close(row.ratio, np.nan if row.measure == "cosine" else at / others)


def test_sequences_without_a_later_token_are_left_out(tiny_llama):
    some = sinks.values(tiny_llama, TEXTS, position=5)
    short = [text for text in TEXTS if not isinstance(text, list)]
    close(
        some.heads[["value", "others"]],
        sinks.values(tiny_llama, short, position=5).heads[["value", "others"]],
    )
    assert any("left out" in note for note in some.provenance["notes"])
    with pytest.raises(ArgumentError, match="no text has a token after it"):
        sinks.values(tiny_llama, [[1, 2, 3]], position=2)


def test_some_layers_batches_and_plans(tiny_gpt2):
    whole = sinks.values(tiny_gpt2, TEXTS)
    some = sinks.values(tiny_gpt2, TEXTS[::-1], layers=[2], batch_tokens=1)
    close(
        some.measure("cosine")["value"],
        whole.heads.query("layer == 2 and measure == 'cosine'")["value"],
    )
    assert isinstance(sinks.values(tiny_gpt2, TEXTS, dry_run=True), Plan)


def test_it_is_saved_and_summed_up(tiny_gpt2, tmp_path):
    found = sinks.values(tiny_gpt2, TEXTS)
    again = lp.open(found.save(tmp_path / "values.zip"))
    assert again.summary() == found.summary()
    middle = found.measure("written")["ratio"].median()
    assert again.summary()["written_ratio"] == pytest.approx(middle)
    assert found.provenance["bos"] is True and found.provenance["length"] == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": 63}, "from 0 to 62"),
        ({"position": True}, "position=True"),
        ({"layers": 7}, "layers=7"),
        ({"length": 0}, "length=0"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(tiny_gpt2, options, message):
    def texts():
        raise AssertionError("a text was read")
        yield ""

    with pytest.raises(ArgumentError, match=message):
        sinks.values(tiny_gpt2, texts(), **options)
