"""`lp.attention`: patterns against the model's own, exact tables beside them, and how they travel."""

from __future__ import annotations

import base64
import struct
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from attending import attention
from columns import unknown
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import HOSTILE
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.plot.attention import pooled
from lensprobe.reporting.attention_view import is_causal, packed, png

TEXT = "Hello world, this is the cat and the dog"
HALF = 0.5 / 255 + 1e-6


def exact(model, ids) -> torch.Tensor:
    """`[layers heads query key]` in float64, read with TransformerLens's own hooks."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    found: dict[str, torch.Tensor] = {}
    hooks = [(name, lambda x, hook, n=name: found.__setitem__(n, x.detach())) for name in names]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
    return torch.stack([found[name][0].double() for name in names])


@pytest.fixture
def ids(decoder) -> list[int]:
    return lp.TokenBatch.pad(adapter_for(decoder), [TEXT]).rows()[0]


def test_patterns_are_the_models_own_to_half_a_step(decoder, ids):
    found, own = lp.attention(decoder, TEXT), exact(decoder, ids).numpy()
    assert found.patterns.shape == own.shape and found.patterns.dtype == np.uint8
    assert np.abs(found.patterns / 255 - own).max() <= HALF
    layer, head = decoder.cfg.n_layers - 1, decoder.cfg.n_heads - 1
    assert np.abs(found.pattern(layer, head) - own[layer, head]).max() <= HALF
    assert found.pattern(layer, head).dtype == np.float32
    assert is_causal(found.patterns)
    assert list(found.tokens["id"]) == ids


def test_tables_are_computed_from_the_exact_weights(decoder, ids):
    found, own = lp.attention(decoder, TEXT), exact(decoder, ids)
    size = len(ids)
    frame = found.to_frame("heads")
    assert list(frame["layer"][: decoder.cfg.n_heads + 1]) == [*[0] * decoder.cfg.n_heads, 1]
    close(frame["entropy"], torch.special.entr(own).sum(-1).mean(-1).ravel())
    close(frame["value"], own[..., 0].mean(-1).ravel())
    close(frame["previous"], own.diagonal(-1, 2, 3).mean(-1).ravel())
    close(frame["own"], own.diagonal(0, 2, 3).mean(-1).ravel())
    close(found.tokens["value"], own.mean((0, 1)).sum(0) / torch.arange(size, 0, -1))


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_over_the_cache_change_nothing(decoder, chunk):
    whole, parts = lp.attention(decoder, TEXT), lp.attention(decoder, TEXT, chunk=chunk)
    step = np.abs(whole.patterns.astype(int) - parts.patterns.astype(int))
    # Equal but where a weight is halfway between two bytes.
    assert step.max() <= 1 and (step > 0).mean() < 1e-3
    for table in whole.tables:
        numbers = whole.to_frame(table).select_dtypes("number")
        close(parts.to_frame(table)[numbers.columns], numbers)


def test_some_layers_are_those_of_all_and_nothing_above_them_runs(decoder):
    ran = []
    block = decoder.blocks[decoder.cfg.n_layers - 1]
    handle = block.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        some, none = lp.attention(decoder, TEXT, layers=[0, 1]), len(ran)
        everything = lp.attention(decoder, TEXT)
    finally:
        handle.remove()
    assert none == 0 and len(ran) == 1
    assert some.layers == [0, 1]
    assert (some.patterns == everything.patterns[:2]).all()
    assert (lp.attention(decoder, TEXT, layers=-1).patterns == everything.patterns[-1:]).all()


def test_an_edit_is_seen_above_its_layer_and_strength_0_is_plain(decoder):
    vector = torch.full((decoder.cfg.d_model,), 3.0)
    vector[::2] = -3.0
    plain = lp.attention(decoder, TEXT).patterns
    nothing = lp.Add(vector, scale=0.0, layers=0)
    assert (lp.attention(decoder, TEXT, edits=nothing).patterns == plain).all()
    edited = lp.attention(
        decoder, TEXT, edits=[lp.Add(vector, layers=0, positions=lp.positions.at(2))]
    )
    assert (edited.patterns[0] == plain[0]).all()
    assert (edited.patterns[1:, :, :2] == plain[1:, :, :2]).all()
    assert (edited.patterns[1:, :, 2:] != plain[1:, :, 2:]).any()
    assert edited.provenance["edits"]


def test_hooks_of_the_users_see_a_whole_pass_and_stay(decoder):
    seen = []
    last = decoder.hook_dict[f"blocks.{decoder.cfg.n_layers - 1}.hook_resid_post"]
    last.add_hook(lambda value, hook: seen.append(value.shape[1]))
    try:
        found = lp.attention(decoder, TEXT, layers=0, chunk=2)
        assert seen == [len(found.tokens)]
        assert any("user's own" in note for note in found.provenance["notes"])
        assert len(last.fwd_hooks) == 1
    finally:
        last.fwd_hooks[-1].hook.remove()
        last.fwd_hooks.clear()


def test_what_is_not_finite_is_counted_and_kept_out_of_the_bytes(decoder):
    point = decoder.hook_dict["blocks.1.attn.hook_pattern"]
    before = list(point.fwd_hooks)

    def spoil(value, hook):
        value = value.clone()
        value[0, 0, 2, 1] = float("nan")
        return value

    point.add_hook(spoil)
    try:
        found = lp.attention(decoder, TEXT)
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks[:] = before
    assert found.patterns[1, 0, 2, 1] == 0
    # Every later number of the pass is lost too.
    assert found.provenance["nonfinite"] >= 1
    assert any("not finite" in note for note in found.provenance["notes"])
    broken = found.heads[(found.heads["layer"] == 1) & (found.heads["head"] == 0)].iloc[0]
    assert np.isnan(broken["entropy"]) and np.isfinite(broken["value"])


def test_a_text_of_one_token(tiny_gpt2):
    found = lp.attention(tiny_gpt2, [5])
    assert (found.patterns == 255).all()
    assert found.heads["previous"].isna().all()
    assert "strongest_previous" not in found.summary()
    assert found.plot().layout.meta["finding"].startswith("Here")
    assert found._repr_html_()


def test_it_is_saved_and_opened(tiny_gpt2, tmp_path):
    found = lp.attention(tiny_gpt2, TEXT)
    again = lp.open(found.save(tmp_path / "a.zip"))
    assert (again.patterns == found.patterns).all()
    assert again.summary() == found.summary()
    pd.testing.assert_frame_equal(again.heads, found.heads)
    assert "gu2025attention" in again.cite()
    assert unknown(found) == set()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: lp.attention(m, ["a", "b"]), "prompt: one text; got 2"),
        (lambda m: lp.attention(m, ""), "empty"),
        (lambda m: lp.attention(m, [1] * 999), "context is"),
        (lambda m: lp.attention(m, "a", layers=99), "layers"),
        (lambda m: lp.attention(m, "a", layers=0.5), "layers"),
        (lambda m: lp.attention(m, "a", chunk=0), "chunk=0"),
        (lambda m: lp.attention(m, "a", edits=3), "edits"),
        (lambda m: lp.attention(m, "a").pattern(99, 0), "layer=99, head=0"),
        (lambda m: lp.attention(m, "a").pattern(0, -1), "head=-1"),
        (lambda m: lp.attention(m, "a").plot.head(layer=99), "layer=99"),
        (lambda m: lp.attention(m, "a").plot.heads(measure="vlaue"), "Did you mean 'value'"),
    ],
)
def test_bad_input(tiny_gpt2, call, words):
    with pytest.raises(ArgumentError, match=words):
        call(tiny_gpt2)


def test_what_does_not_fit_in_memory_is_refused_before_anything_runs(tiny_gpt2, monkeypatch):
    monkeypatch.setattr(sys.modules["lensprobe.running.attention"], "free_memory", lambda _: 1000)
    ran = []
    handle = tiny_gpt2.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(ArgumentError, match="fewer layers or a shorter text"):
            lp.attention(tiny_gpt2, TEXT)
        assert not ran
    finally:
        handle.remove()


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        lp.attention(tiny_t5, "a")


def test_ctrl_c_leaves_nothing_behind(tiny_gpt2):
    point = tiny_gpt2.hook_dict["blocks.1.hook_resid_post"]

    def stop(value, hook):
        raise KeyboardInterrupt

    point.add_hook(stop)
    try:
        with pytest.raises(Interrupted):
            lp.attention(tiny_gpt2, TEXT)
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert not tiny_gpt2.hook_dict["blocks.1.attn.hook_pattern"].fwd_hooks


# ---- how patterns travel -------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_packing_loses_no_byte(size, heads, causal, seed):
    patterns = np.random.default_rng(seed).integers(0, 256, (heads, size, size), dtype=np.uint8)
    if causal:
        patterns *= np.tri(size, dtype=np.uint8)
    flat = np.frombuffer(
        zlib.decompress(base64.b64decode(packed(patterns, causal=causal))), np.uint8
    )
    cells = size * (size + 1) // 2 if causal else size * size
    assert len(flat) == heads * cells
    for head in range(heads):
        for q in range(size):
            for k in range(q + 1 if causal else size):
                # As the page's script finds it.
                at = k * size - k * (k - 1) // 2 + q - k if causal else k * size + q
                assert flat[head * cells + at] == patterns[head, q, k]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_pooling_takes_the_largest_weight_of_every_cell(size, side, seed):
    pattern = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    small = pooled(pattern, side)
    step = -(-size // side)
    assert max(small.shape) <= side
    for i, j in np.ndindex(*small.shape):
        assert small[i, j] == pattern[i * step : (i + 1) * step, j * step : (j + 1) * step].max()


def test_a_picture_is_a_png_of_the_given_opacities():
    shade = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    data = png(shade, (1, 2, 3))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    found, place = {}, 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length :][:4])[0] == zlib.crc32(kind + body)
        found[kind], place = body, place + 12 + length
    assert struct.unpack(">IIBBBBB", found[b"IHDR"]) == (7, 5, 8, 3, 0, 0, 0)
    assert found[b"PLTE"][:3] == b"\x01\x02\x03" and found[b"tRNS"] == bytes(range(256))
    lines = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(5, 8)
    assert (lines[:, 1:] == shade).all() and not lines[:, 0].any()


def test_a_pattern_that_looks_ahead_is_no_triangle():
    assert is_causal(attention(["a", "b", "c"]).patterns)
    assert not is_causal(attention(["a", "b", "c"], causal=False).patterns)


# ---- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
def test_every_head_has_its_square_in_the_grid(theme):
    found = attention(["<s>", *"abcd"], layers=2, heads=3)
    figure = found.plot(theme=theme)
    sheet = np.asarray(figure.data[0].z)
    assert sheet.dtype == np.uint8 and sheet.shape == (2 * 8 - 3, 3 * 8 - 3)
    want = np.round(255 * np.sqrt(found.patterns[1, 2] / 255))
    assert np.abs(sheet[8:13, 16:21] - want).max() <= 1
    assert list(figure.layout.yaxis.ticktext) == ["0", "2"]


def test_one_head_is_shown_with_its_tokens_as_text():
    found = attention(HOSTILE)
    figure = found.plot.head(layer=2, head=1)
    assert (np.asarray(figure.data[0].z) == found.patterns[1, 1]).all()
    assert figure.layout.xaxis.ticktext[0] == "&lt;s&gt;"
    assert "%{x}" not in figure.data[0].hovertemplate.replace("key %{x}", "")
    strongest = found.heads.loc[found.heads["value"].idxmax()]
    name = f"Layer {int(strongest['layer'])}, head {int(strongest['head'])}"
    assert found.plot.head().layout.title.text == name


def test_long_texts_name_every_so_many_tokens_at_their_places():
    found = attention([f"t{i}" for i in range(130)])
    axis = found.plot.head().layout.xaxis
    assert list(axis.tickvals) == list(range(0, 130, 3))
    assert axis.ticktext[1] == "t3  3"
    assert np.asarray(found.plot().data[0].z).shape[1] < 3 * 51


@pytest.mark.parametrize("measure", ["value", "previous", "own", "entropy"])
def test_the_map_of_heads_shows_the_table(measure):
    found = attention(list("abcdef"))
    z = np.asarray(found.plot.heads(measure=measure).data[0].z, dtype=float)
    assert z.shape == (3, 2)
    close(z.T.ravel(), found.heads[measure])
