"""Weights at the residual stream: what they say must be what the model does, on every class."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny_models import write_tokenizer
from tolerance import close
from torch import nn

import lensprobe as lp
from lensprobe.errors import ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import Norm, Projection, weights_of

IDS = torch.tensor([[0, 5, 300, 7, 41, 41, 9]])


@torch.no_grad()
def cache_of(model):
    return model.run_with_cache(IDS)[1]


@pytest.fixture
def weights(shaped):
    return weights_of(adapter_for(shaped))


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_a_projection_is_what_the_layer_adds(shaped, weights, part):
    cache = cache_of(shaped)
    site, inputs = (
        ("attn_out", "attn.hook_z") if part == "attention" else ("mlp_out", "mlp.hook_post")
    )
    for layer in range(4):
        projection = getattr(weights, part)(layer)
        given = cache[f"blocks.{layer}.{inputs}"].flatten(2)
        out = cache[f"blocks.{layer}.hook_{site}"]
        close(projection.after(projection.before(given)), out, "residual")


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_the_parts_of_a_projection_sum_to_one_coordinate(shaped, weights, part):
    cache = cache_of(shaped)
    site, inputs = (
        ("attn_out", "attn.hook_z") if part == "attention" else ("mlp_out", "mlp.hook_post")
    )
    projection = getattr(weights, part)(2)
    given = cache[f"blocks.2.{inputs}"].flatten(2).double()
    for dim in (0, 17, 47):
        scale = projection.scale(given)
        parts = given * projection.column(dim) * scale[..., None]
        total = parts.sum(-1) + projection.constant(dim) * scale + projection.offset(dim)
        close(total, cache[f"blocks.2.hook_{site}"][..., dim], "residual")


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_after_the_projection_is_linear_at_its_scale(centred, bias):
    """Closed form, with every part that no released architecture combines."""
    torch.manual_seed(0)
    norm = Norm(torch.randn(6), torch.randn(6) if bias else None, 1e-2, centred)
    projection = Projection(torch.randn(9, 6), torch.randn(6) if bias else None, norm, 0.5)
    inputs = torch.randn(4, 9).double()
    whole = projection.before(inputs)
    if centred:
        expected = nn.functional.layer_norm(
            whole, (6,), norm.gain.double(), None if norm.bias is None else norm.bias.double(), 1e-2
        )
        close(projection.after(whole), 0.5 * expected)
    scale = projection.scale(inputs)
    for dim in range(6):
        parts = inputs * projection.column(dim) * scale[:, None]
        total = parts.sum(1) + projection.constant(dim) * scale + projection.offset(dim)
        close(total, projection.after(whole)[:, dim])


@pytest.mark.parametrize("name", ["ln1", "ln2", "ln_final"])
def test_a_norm_is_the_models_own(shaped, weights, name):
    cache = cache_of(shaped)
    before = "blocks.1.hook_resid_pre" if name == "ln1" else "blocks.1.hook_resid_mid"
    if name == "ln_final":
        before = "blocks.3.hook_resid_post"
    if before not in cache:
        before = "blocks.1.hook_resid_pre"  # a parallel block norms one residual twice
    norm = weights.norm(name, 1)
    x = cache[before]
    if name == "ln_final":
        close(norm(x) @ unembedding(shaped), logits_of(shaped))
        return
    module = getattr(shaped.blocks[1], name)
    with torch.no_grad():
        close(norm(x), module(x))


def unembedding(model):
    return model.W_U


@torch.no_grad()
def logits_of(model):
    logits = model(IDS)
    bias = getattr(model, "b_U", None)
    logits = logits if bias is None else logits - bias
    cap = getattr(model.cfg, "output_logits_soft_cap", None) or -1
    return logits if cap <= 0 else cap * torch.atanh(logits / cap)


def test_embedding_and_positions_are_what_the_first_block_reads(shaped, weights):
    cache = cache_of(shaped)
    first = cache["blocks.0.hook_resid_pre"][0]
    rows = weights.embedding[IDS[0]]
    if weights.positions is not None:
        close(rows + weights.positions[: len(first)], first)
        return
    # Gemma's rows are scaled; every model's are parallel to what is stored.
    ratio = (first / rows).flatten()
    close(ratio / ratio[0], torch.ones_like(ratio))
    assert shaped.cfg.positional_embedding_type == "rotary"


def test_positions_of_opt_start_behind_the_rows_it_never_uses(tmp_path):
    config = transformers.OPTConfig(
        vocab_size=write_tokenizer(tmp_path),
        hidden_size=48,
        word_embed_proj_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=96,
        max_position_embeddings=64,
    )
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    weights = weights_of(adapter_for(model))
    assert weights.positions is not None and len(weights.positions) == 64
    first = cache_of(model)["blocks.0.hook_resid_pre"][0]
    close(weights.embedding[IDS[0]] + weights.positions[: len(first)], first)


def test_experts_have_no_one_output_matrix(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=write_tokenizer(tmp_path),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    weights = weights_of(adapter_for(lp.load(tmp_path)))
    assert not weights.has_neurons(0)
    with pytest.raises(ModelError, match="mixture of experts"):
        weights.mlp(0)


def test_a_multiplier_of_the_architecture_is_applied(tmp_path):
    config = transformers.GraniteConfig(
        vocab_size=write_tokenizer(tmp_path),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        residual_multiplier=0.25,
    )
    transformers.GraniteForCausalLM(config).save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    projection = weights_of(adapter_for(model)).mlp(1)
    cache = cache_of(model)
    post = cache["blocks.1.mlp.hook_post"]
    assert projection.multiplier == 0.25
    close(projection.after(projection.before(post)), cache["blocks.1.hook_mlp_out"], "residual")


def test_packed_weights_are_refused(llama_folder):
    model = lp.load(llama_folder)
    layer = model.original_model.model.layers[0].mlp.down_proj
    layer = getattr(layer, "original_component", layer)
    layer.weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"packed .* load the model unpacked"):
        weights_of(adapter_for(model))


def test_lora_layers_that_are_not_merged_are_refused(llama_folder):
    class BaseTunerLayer(nn.Identity):
        """By its name PEFT's."""

    model = lp.load(llama_folder)
    model.original_model.add_module("extra", BaseTunerLayer())
    with pytest.raises(ModelError, match="LoRA layers that are not merged"):
        weights_of(adapter_for(model))


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="needs a decoder-only model"):
        weights_of(adapter_for(tiny_t5))


def test_asking_leaves_no_trace(shaped, weights):
    before = [p.clone() for p in shaped.parameters()]
    seen = []
    point = shaped.hook_dict["blocks.0.ln1.hook_normalized"]
    point.add_hook(lambda value, hook: seen.append(1))
    try:
        weights.norm("ln1", 0), weights.mlp(0), weights.attention(0)
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert not seen
    assert all(torch.equal(a, b) for a, b in zip(before, shaped.parameters(), strict=True))
