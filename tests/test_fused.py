"""Attention in one piece: the same stream, only where nobody reads inside, nothing left switched."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_tokenizer
from tolerance import close

import lensprobe as lp
from lensprobe.models import fused
from lensprobe.models.adapter import adapter_for
from lensprobe.models.hooks import attached

TEXTS = ["Hello world, this is", "I", "The cat sat on the mat and then it went away"] * 3
LOW = {"threshold": 0.05, "ratio": 4.0}


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the queries that PyTorch's kernel was called with."""
    seen: list[tuple[int, ...]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        seen.append(tuple(query.shape))
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    return seen


def residuals(model, ids, mask, sites=("resid_mid", "resid_post", "attn_out", "attn.q", "attn.z")):
    """What these sites of all layers hold at real tokens."""
    adapter = adapter_for(model)
    kept = {}
    hooks = [
        (
            adapter.point(name),
            lambda value, hook, name=name: kept.update({name: value[mask].clone()}),
        )
        for site in sites
        for name in (adapter.hook_name(site, layer) for layer in range(adapter.n_layers))
    ]
    with torch.no_grad(), attached(hooks), adapter.fused():
        adapter.run(ids, mask=mask, logits=None)
    return kept


def stepwise(monkeypatch, read):
    """The same with attention as the bridge computes it."""
    with monkeypatch.context() as patched:
        patched.setattr(fused, "_attentions", lambda adapter: [])
        return read()


def boot(folder, dtype=torch.float32):
    """A bridge over a folder, new."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=dtype)


def untouched(model) -> bool:
    configs = {part.config._attn_implementation for part in model.modules() if _has_kernel(part)}
    return configs <= {"eager"} and not any("forward" in vars(block.attn) for block in model.blocks)


def _has_kernel(part) -> bool:
    return hasattr(getattr(part, "config", None), "_attn_implementation")


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_the_stream_is_the_same_whatever_the_rows(tiny_bridge, lengths, seed):
    longest = max(lengths)
    ids = torch.randint(0, 64, (len(lengths), longest), generator=torch.manual_seed(seed))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    with pytest.MonkeyPatch.context() as patched:
        plain = stepwise(patched, lambda: residuals(tiny_bridge, ids, mask))
    whole = residuals(tiny_bridge, ids, mask)
    assert plain.keys() == whole.keys()
    for name in plain:
        close(whole[name], plain[name], "residual")
    assert untouched(tiny_bridge)


def test_a_scan_of_the_stream_is_fused_in_every_layer_and_finds_the_same(
    tiny_bridge, calls, monkeypatch
):
    def scan():
        return lp.massive.scan(tiny_bridge, TEXTS, **LOW)

    whole = scan()
    layers = adapter_for(tiny_bridge).n_layers
    assert calls and len(calls) % layers == 0
    before = len(calls)
    plain = stepwise(monkeypatch, scan)
    assert len(calls) == before
    for table in plain.tables:
        left, right = whole.to_frame(table), plain.to_frame(table)
        numbers = left.columns[[column.kind in "fi" for column in left.dtypes]]
        close(left[numbers], right[numbers])


def test_real_weights_give_the_same_findings(smollm2, calls, monkeypatch):
    text = "The old lighthouse keeper wrote one line a day, and no two of them were alike. " * 12

    def scan():
        return lp.massive.scan(smollm2, text)

    whole = scan()
    assert calls or adapter_for(smollm2).line == "hooked"
    plain = stepwise(monkeypatch, scan)
    assert len(whole.findings) and whole.findings["dim"].tolist() == plain.findings["dim"].tolist()
    np.testing.assert_allclose(whole.findings["value"], plain.findings["value"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_fused_too(llama_folder, dtype):
    model = boot(llama_folder, getattr(torch, dtype))
    adapter = adapter_for(model)
    assert fused._same(adapter, fused._attentions(adapter))


@pytest.mark.parametrize("point", ["hook_pattern", "hook_attn_scores", "hook_rot_q"])
def test_a_hook_inside_an_attention_sees_its_pass(tiny_bridge, calls, point):
    seen = []

    def keep(value, hook):
        seen.append(value.shape)

    with tiny_bridge.hooks([(f"blocks.1.attn.{point}", keep)]):
        lp.massive.scan(tiny_bridge, TEXTS, **LOW)
    assert seen
    assert not calls


def test_a_module_hook_on_an_attention_still_gets_the_pattern(tiny_bridge, calls):
    weights = []
    handle = tiny_bridge.blocks[0].attn.register_forward_hook(
        lambda module, inputs, output: weights.append(output[1])
    )
    try:
        lp.massive.scan(tiny_bridge, TEXTS, **LOW)
    finally:
        handle.remove()
    assert weights and all(one is not None for one in weights)
    assert not calls


def test_a_scan_of_patterns_is_not_fused(tiny_bridge, calls):
    assert len(lp.sinks.scan(tiny_bridge, TEXTS * 2).heads)
    assert not calls


def test_an_edit_of_the_users_acts_in_a_fused_pass(tiny_bridge, calls):
    def larger(value, hook):
        return value * 3

    plain = lp.massive.scan(tiny_bridge, TEXTS, **LOW)
    with tiny_bridge.hooks([("blocks.0.attn.hook_v", larger)]):
        edited = lp.massive.scan(tiny_bridge, TEXTS, **LOW)
    assert calls
    assert not np.allclose(edited.layers["value"], plain.layers["value"], rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_whose_attentions_differ_is_read_step_by_step(llama_folder, monkeypatch, dtype):
    model = boot(llama_folder, dtype)
    with monkeypatch.context() as patched:
        patched.setattr(fused, "_attentions", lambda adapter: [])
        expected = lp.massive.scan(model, TEXTS, **LOW)
    # Read by transformers' pass alone: the bridge's own has it from the projections' weights.
    inner = model.blocks[2].attn.original_component
    inner.register_forward_hook(lambda module, inputs, output: (output[0] * 1.06, output[1]))
    got = lp.massive.scan(model, TEXTS, **LOW)
    assert fused._trusted[model] == []
    close(got.layers["value"], expected.layers["value"])
    assert untouched(model)


@pytest.mark.parametrize("name", fused._BEYOND)
def test_what_the_kernel_cannot_do_keeps_its_own_pass(tiny_bridge, name):
    inner = tiny_bridge.blocks[0].attn.original_component
    assert fused._attentions(adapter_for(tiny_bridge))
    setattr(inner, name, 30.0)
    try:
        assert not fused._attentions(adapter_for(tiny_bridge))
    finally:
        delattr(inner, name)


@pytest.mark.parametrize("flag", fused._SPLIT)
def test_split_projections_keep_their_own_pass(tiny_bridge, flag):
    setattr(tiny_bridge.cfg, flag, True)
    try:
        assert not fused._attentions(adapter_for(tiny_bridge))
    finally:
        setattr(tiny_bridge.cfg, flag, False)


def test_shapes_without_a_known_attention_are_read_as_ever(shaped):
    adapter = adapter_for(shaped)
    ids, mask = torch.arange(20)[None] % 40, torch.ones(1, 20, dtype=torch.bool)
    sites = ("resid_post",)
    with pytest.MonkeyPatch.context() as patched:
        plain = stepwise(patched, lambda: residuals(shaped, ids, mask, sites))
    whole = residuals(shaped, ids, mask, sites)
    for name in plain:
        close(whole[name], plain[name], "residual")
    if adapter.line == "hooked":
        assert isinstance(adapter.fused(), nullcontext)


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"]
)
def test_whatever_ends_a_pass_nothing_stays_switched(tiny_bridge, error):
    adapter = adapter_for(tiny_bridge)
    ids = torch.arange(8)[None]

    def fail(value, hook):
        assert not untouched(tiny_bridge)
        raise error

    with (
        pytest.raises(type(error)),
        attached([(adapter.point("blocks.1.hook_resid_post"), fail)]),
        adapter.fused(),
    ):
        adapter.run(ids, logits=None)
    assert untouched(tiny_bridge)


def test_a_config_inside_the_config_keeps_its_own_kernel():
    model = torch.nn.Module()
    model.config = transformers.LlavaConfig(attn_implementation="eager")
    model.config.vision_config._attn_implementation = "flash_attention_2"
    with fused._switched([], fused._configs(model)):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "flash_attention_2"


def test_the_first_scan_of_a_model_may_stand_under_an_edit(llama_folder):
    model = boot(llama_folder)
    text = "The cat sat on the mat and then it went away. Hello world, this is the cat."
    far = lp.positions.at(15)
    with lp.editing(model, lp.Scale(factor=0.5, layers=1, positions=far)):
        first = lp.massive.scan(model, text, **LOW)
        close(lp.massive.scan(model, text, **LOW).layers["value"], first.layers["value"])
    assert model in fused._trusted


def test_a_model_that_clamps_its_projections_keeps_its_own_pass(tiny_bridge):
    config = tiny_bridge.blocks[0].attn.original_component.config
    config.clip_qkv = 0.5
    try:
        assert not fused._attentions(adapter_for(tiny_bridge))
    finally:
        del config.clip_qkv


def family(folder, name, **options):
    """A tiny model of another architecture."""
    size = write_tokenizer(folder)
    kind = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **options,
    )
    torch.manual_seed(0)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    return boot(folder)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Mistral", {"sliding_window": 8}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("Qwen3", {"head_dim": 12}),
        ("Gemma3", {"sliding_window": 8, "head_dim": 12}),
        ("Phi3", {}),
        ("Olmo2", {}),
        ("Granite", {"residual_multiplier": 0.5}),
    ],
)
def test_other_families_windows_among_them(tmp_path, calls, name, options):
    model = family(tmp_path, name, **options)
    ids = torch.randint(0, 60, (2, 50), generator=torch.manual_seed(1))
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[1, 30:] = False
    sites = ("resid_post", "attn_out")
    whole = residuals(model, ids, mask, sites)
    before = len(calls)
    again = residuals(model, ids, mask, sites)
    # Either every pass is fused or none is: which one a batch is must not show in its last bits.
    fusing = name not in ("Phi3", "Granite")
    assert len(calls) - before == (3 if fusing else 0)
    with pytest.MonkeyPatch.context() as patched:
        plain = stepwise(patched, lambda: residuals(model, ids, mask, sites))
    for key in plain:
        close(whole[key], plain[key], "residual")
        assert torch.equal(whole[key], again[key])


def test_a_hook_on_a_norm_of_queries_keeps_its_layout(tmp_path, calls):
    model = family(tmp_path, "Qwen3", head_dim=12)
    shapes = []
    with model.hooks([("blocks.1.attn.q_norm.hook_out", lambda v, hook: shapes.append(v.shape))]):
        lp.massive.scan(model, TEXTS[0], **LOW)
    assert not calls
    assert shapes and all(shape[1] == 4 for shape in shapes)
