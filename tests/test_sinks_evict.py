"""Streaming with little room: one pass equals token by token over a cache that evicts."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import weights_of
from lensprobe.sinks import evict
from lensprobe.sinks.sight import Sight, read
from lensprobe.texts import default_texts
from lensprobe.tokens import Encoded, TokenBatch

TEXTS = [
    "Hello world, this is the cat that sat on the mat and then it went away again.",
    "one two three four five six seven eight nine ten eleven twelve and so on, and on.",
    "The quick brown fox jumps over the lazy dog.",
]
ROWS = [tuple(range(40, 58)), tuple(range(90, 102))]


def run(model, texts=TEXTS, **options):
    return evict(
        model, texts, **{"keep": (0, 2), "window": 6, "length": 99, "progress": False, **options}
    )


# ---- the slow reference: plain attention in float64, one token at a time ----------------------------


def turned(x, place):
    """The rotary turn of `[head d]` at one position, by its definition."""
    half = x.shape[-1] // 2
    angle = place * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angle.cos().repeat(2), angle.sin().repeat(2)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Reference:
    """One token after another through a rotary or absolute model, over a cache that evicts.

    What is cached is the key before its turn; at each step every key is turned by its place in the
    cache, as StreamingLLM does. Absolute positions were added when the token was read.
    """

    def __init__(self, model, keep, window, *, masked=0):
        self.model, self.keep, self.window, self.masked = model, keep, window, masked
        self.rotary = model.cfg.positional_embedding_type == "rotary"
        self.weights = weights_of(adapter_for(model))
        self.cache = [[] for _ in range(model.cfg.n_layers)]

    def of(self, home, name):
        found = getattr(home, name, None)
        return torch.zeros((), dtype=torch.float64) if found is None else found.detach().double()

    def norm(self, name, x, layer=0):
        norm = self.weights.norm(name, layer)
        centred = x - x.mean() if norm.centred else x
        out = centred / (centred.square().mean() + norm.eps).sqrt() * norm.gain.double()
        return out if norm.bias is None else out + norm.bias.detach().double()

    def heads(self, attention, name, x):
        found = torch.einsum("d,hde->he", x, self.of(attention, f"W_{name}"))
        found = found + self.of(attention, f"b_{name}")
        return found.repeat_interleave(self.model.cfg.n_heads // len(found), 0)

    def attend(self, layer, x, position):
        attention = self.model.blocks[layer].attn
        query, key, value = (self.heads(attention, name, x) for name in "QKV")
        kept = self.cache[layer]
        # Those that were masked from the start see themselves; nobody else ever sees them.
        seen = [*([] if position < self.masked else kept), (key, value)]
        if position >= self.masked:
            kept.append((key, value))
        if len(kept) > self.window:
            del kept[self.keep]
            seen = kept
        offset = position - len(seen) + 1 if self.masked else 0
        if self.rotary:
            query = turned(query, len(seen) - 1 + offset)
            keys = torch.stack([turned(k, i + offset) for i, (k, _) in enumerate(seen)], 1)
        else:
            keys = torch.stack([k for k, _ in seen], 1)
        values = torch.stack([v for _, v in seen], 1)
        pattern = (torch.einsum("he,hke->hk", query, keys) / query.shape[-1] ** 0.5).softmax(-1)
        z = torch.einsum("hk,hke->he", pattern, values)
        return torch.einsum("he,hed->d", z, self.of(attention, "W_O")) + self.of(attention, "b_O")

    def mlp(self, layer, x):
        mlp = self.model.blocks[layer].mlp
        if hasattr(mlp, "W_gate") and mlp.W_gate is not None:
            gate = torch.nn.functional.silu(x @ self.of(mlp, "W_gate"))
            post = gate * (x @ self.of(mlp, "W_in")) + self.of(mlp, "b_in")
        else:
            pre = x @ self.of(mlp, "W_in") + self.of(mlp, "b_in")
            post = torch.nn.functional.gelu(pre, approximate="tanh")
        return post @ self.of(mlp, "W_out") + self.of(mlp, "b_out")

    def read(self, ids):
        out = []
        for position, token in enumerate(ids):
            x = self.of(self.model, "W_E")[token]
            if not self.rotary:
                x = x + self.weights.positions[position].detach().double()
            for layer in range(self.model.cfg.n_layers):
                x = x + self.attend(layer, self.norm("ln1", x, layer), position)
                x = x + self.mlp(layer, self.norm("ln2", x, layer))
            x = self.norm("ln_final", x)
            out.append(x @ self.of(self.model, "W_U") + self.of(self.model, "b_U"))
        return torch.stack(out)


def passed(model, sight):
    adapter = adapter_for(model)
    batch = TokenBatch.pad(adapter, [Encoded(ids) for ids in ROWS])
    rotary = model.cfg.positional_embedding_type == "rotary"
    out = read(adapter, batch, sight, rotary=rotary, probes={})
    return [out[i, : len(ids)] for i, ids in enumerate(ROWS)]


@pytest.mark.parametrize(("keep", "window"), [(0, 6), (1, 6), (3, 7), (2, 40)])
def test_one_pass_equals_token_by_token_over_an_evicting_cache(decoder, keep, window):
    for got, ids in zip(passed(decoder, Sight("evicted", keep, window)), ROWS, strict=True):
        close(got, Reference(decoder, keep, window).read(ids))


def test_masking_equals_tokens_that_nobody_kept(decoder):
    for got, ids in zip(passed(decoder, Sight("masked", 2, 6)), ROWS, strict=True):
        close(got, Reference(decoder, 0, 40, masked=2).read(ids))


@pytest.mark.parametrize("keep", [0, 3])
def test_a_cache_with_room_for_all_is_the_plain_run(shaped, keep):
    plain = passed(shaped, Sight("plain", 0, 30))
    for got, wanted in zip(passed(shaped, Sight("evicted", keep, 30)), plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_before_the_cache_is_full_nothing_differs(shaped):
    plain = passed(shaped, Sight("plain", 0, 6))
    for got, wanted in zip(passed(shaped, Sight("evicted", 2, 6)), plain, strict=True):
        torch.testing.assert_close(got[:6], wanted[:6], rtol=0, atol=1e-5)
        assert float((got[6:] - wanted[6:]).abs().max()) > 1e-3


def test_the_oldest_key_of_each_query():
    assert Sight("plain", 0, 3).oldest(5).tolist() == [0, 0, 0, 0, 0]
    assert Sight("evicted", 0, 3).oldest(5).tolist() == [0, 0, 0, 1, 2]
    assert Sight("evicted", 1, 3).oldest(5).tolist() == [0, 0, 0, 0, 0]
    assert Sight("masked", 2, 3).oldest(5).tolist() == [0, 1, 2, 2, 2]


@pytest.mark.parametrize("sight", [Sight("evicted", 2, 5), Sight("evicted", 0, 5)])
def test_no_query_sees_more_keys_than_the_cache_holds(sight):
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    seen = causal & ~sight.hidden(12, causal.device)
    assert seen.sum(1).tolist() == [min(t + 1, 5) for t in range(12)]
    assert bool(seen.diagonal().all())


# ---- the result ------------------------------------------------------------------------------------


def test_its_numbers_are_those_of_its_runs(decoder):
    result = run(decoder, [list(ids) for ids in ROWS], seed=0)
    lost = []
    for got, ids in zip(passed(decoder, Sight("evicted", 2, 6)), ROWS, strict=True):
        lost.append(-got[6:-1].log_softmax(-1).gather(1, torch.tensor(ids[7:])[:, None]))
    loss = torch.cat(lost).double().mean()
    close([result.effect("loss", "evicted", 2)["value"]], [loss])
    close(np.log([result.effect("perplexity", "evicted", 2)["value"]]), [loss])
    each = result.documents.query("measure == 'loss' and kind == 'evicted' and keep == 2")["value"]
    close(each, [part.mean() for part in lost])
    plain = lp.score(decoder, [list(ids) for ids in ROWS]).tokens
    wanted = plain[plain["position"] > 6]["loss"].mean()
    close([result.effect("loss", "plain")["value"]], [wanted])


def test_attention_to_the_oldest_key_is_read_off_the_patterns(tiny_gpt2):
    result = run(tiny_gpt2, [list(ROWS[0])], keep=[0])
    pattern = tiny_gpt2.run_with_cache(torch.tensor([ROWS[0]]))[1]
    paid = torch.stack([pattern[f"blocks.{n}.attn.hook_pattern"][0, :, 6:, 0] for n in range(4)])
    close([result.effect("attention", "plain")["value"]], [paid.mean()])
    close([result.effect("sink_rate", "plain")["value"]], [(paid.mean(-1) > 0.3).float().mean()])


def test_batching_changes_nothing(decoder):
    one, many = run(decoder, batch_tokens=1), run(decoder, batch_tokens=4096)
    rows = [r.effects.query("measure != 'perplexity'").select_dtypes(float) for r in (one, many)]
    close(*rows)


def test_the_curve_parts_where_the_cache_is_full(decoder):
    result = run(decoder)
    wide = result.curve.pivot(index="position", columns=["kind", "keep"], values="loss")
    close(wide["evicted", 0][:6], wide["plain", 0][:6])
    assert float((wide["evicted", 0][6:] - wide["plain", 0][6:]).abs().max()) > 1e-3
    assert result.curve["count"].max() == 3


def test_short_sequences_are_left_out_and_that_is_said(tiny_gpt2):
    result = run(tiny_gpt2, [[5, 6, 7], list(ROWS[0])])
    assert result.provenance["sequences"] == 1
    assert any(
        "1 sequences of up to 7 tokens were left out" in n for n in result.provenance["notes"]
    )
    assert any("position at which they were read" in n for n in result.provenance["notes"])
    assert result.provenance["positions"] == "as read"


def test_the_users_hooks_stay_and_that_they_met_twice_is_said(tiny_llama):
    seen = []
    point = tiny_llama.hook_dict["blocks.0.hook_resid_pre"]
    point.add_hook(lambda value, hook: seen.append(tuple(value.shape[:2])))
    try:
        result = run(tiny_llama, [list(ROWS[0])])
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert seen == [(1, 18), (1, 18), (2, 18), (1, 18)]
    assert any("met each sequence twice" in note for note in result.provenance["notes"])


def test_no_hook_is_left_behind(decoder):
    before = lp.forward(decoder, TEXTS).logits
    run(decoder)
    assert not any(point.fwd_hooks for point in decoder.hook_dict.values())
    np.testing.assert_array_equal(lp.forward(decoder, TEXTS).logits, before)


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.evict"]
    whole, calls = home.read, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(home, "read", stopped)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        run(tiny_gpt2, batch_tokens=1)
    assert not caught.value.partial.summary()["complete"]


def test_it_is_saved_opened_and_drawn(tiny_llama, tmp_path):
    result = run(tiny_llama, seed=1)
    result.save(tmp_path / "e.zip")
    again = lp.open(tmp_path / "e.zip")
    pd.testing.assert_frame_equal(again.effects, result.effects)
    assert again.summary() == result.summary()
    assert "xiao2024efficient" in result.cite()
    for name in again.plot.names:
        figure = getattr(again.plot, name)(theme="dark")
        assert figure.layout.meta["finding"].startswith("Here")
    assert again.plot.curve().data[0].name == "every key stays"


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 2}, "window=2: 2 kept keys leave no room"),
        ({"window": 0}, "window=0: a positive whole number"),
        ({"keep": [-1]}, r"keep=\[-1\]: whole numbers from 0"),
        ({"keep": []}, "keep=.*at least one"),
        ({"keep": 1.5}, "keep=1.5: whole numbers"),
        ({"epsilon": 2}, "epsilon=2"),
        ({"window": 100}, "window=100: the longest of these texts has .* it takes 102"),
    ],
)
def test_bad_input_is_refused_before_a_pass(tiny_gpt2, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(tiny_gpt2), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        run(tiny_gpt2, **options)


def test_an_effect_that_was_not_measured_is_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match=r"the measures are loss.*the runs plain 0, evicted 0"):
        run(tiny_gpt2).effect("loss", "evicted", 5)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        run(tiny_t5)


@pytest.mark.weights
def test_on_real_weights_one_kept_key_saves_the_stream(smollm2):
    """Xiao et al.: without the first keys perplexity explodes, and one or a few bring it back."""
    text = default_texts()[0]
    result = evict(smollm2, text, keep=(0, 1), window=32, length=96, progress=False)
    plain, gone, kept, masked = (
        result.effect("loss", *which)["value"]
        for which in (("plain",), ("evicted", 0), ("evicted", 1), ("masked", 1))
    )
    assert gone > plain + 0.8 and kept < plain + 0.5 and masked < plain + 0.2
    assert result.effect("sink_rate", "evicted", 0)["value"] < 0.05
    assert result.effect("sink_rate", "masked", 1)["value"] > 0.3
