"""Copies of a model for training, and folders written from a bridge: nothing shared, nothing lost."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from conftest import bridge
from torch import nn

import lensprobe as lp
from lensprobe.errors import ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.copying import copied, named_weights
from lensprobe.models.exporting import write_folder

IDS = torch.tensor([[1, 2, 3, 4, 5]])


def shaken(model):
    """Every trainable weight moved, as training would."""
    with torch.no_grad():
        for index, parameter in enumerate(named_weights(model).values()):
            if parameter.requires_grad:
                noise = torch.Generator().manual_seed(index)
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    return model


def test_a_copy_computes_the_same_and_shares_nothing(shaped):
    # A pass with gradients leaves tensors of its graph behind on a bridge.
    before = shaped(IDS)
    weights = [parameter.detach().clone() for parameter in shaped.parameters()]
    other = copied(shaped)
    assert torch.equal(other(IDS), before)
    assert other.training == shaped.training
    _, plain = shaped.run_with_cache(IDS)
    _, again = other.run_with_cache(IDS)
    assert list(plain) == list(again)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not torch.equal(shaken(other)(IDS), before)
    assert torch.equal(shaped(IDS), before)
    assert all(torch.equal(*pair) for pair in zip(weights, shaped.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in shaped.parameters())


def test_gradients_reach_the_copy_alone(shaped):
    other = copied(shaped)
    other(IDS).square().sum().backward()
    assert any(parameter.grad is not None for parameter in other.parameters())
    assert all(parameter.grad is None for parameter in shaped.parameters())


def test_the_users_hooks_stay_behind(decoder):
    heard = []
    point = decoder.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: heard.append("point"))
    point.add_hook(lambda value, hook: heard.append("backward"), dir="bwd")
    handle = decoder.blocks[0].register_forward_hook(lambda *call: heard.append("module"))
    try:
        other = copied(decoder)
        other(IDS).sum().backward()
        assert heard == []
        assert adapter_for(other).user_hooks() == ()
        decoder(IDS)
        assert sorted(heard) == ["module", "point"]
        assert len(point.fwd_hooks) == 1
    finally:
        handle.remove()
        for hook in (*point.fwd_hooks, *point.bwd_hooks):
            hook.hook.remove()
        point.fwd_hooks.clear()
        point.bwd_hooks.clear()


def test_a_copy_keeps_its_name_and_its_hook_points(planted):
    other = copied(planted)
    assert lp.check(other).facts == lp.check(planted).facts


def test_names_are_those_of_the_class(decoder, legacy):
    names = named_weights(decoder)
    assert len({id(weight) for weight in names.values()}) == len(names)
    assert {id(w) for w in names.values()} == {id(w) for w in decoder.parameters()}
    assert any(name.startswith("blocks.0.mlp.") for name in names)
    assert all("_original_component" not in name for name in names)


SHAPES = ["gpt2", "llama", "neox", "gemma"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trained_bridge_survives_its_folder(request, tmp_path, shape):
    model = shaken(copied(bridge(request.getfixturevalue(f"{shape}_folder"))))
    with torch.no_grad():
        expected = model(IDS)
        write_folder(model, tmp_path / "out")
        again = lp.load(tmp_path / "out")
        assert torch.equal(again(IDS), expected)
        assert torch.equal(again.to_tokens("Hello cat"), model.to_tokens("Hello cat"))
        plain = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "out", attn_implementation="eager"
        )
        assert torch.allclose(plain(IDS).logits, expected, atol=1e-4)
    assert not list((tmp_path / "out").glob("*.bin"))


def test_a_part_of_a_fused_matrix_may_be_zero(gpt2_folder, tmp_path):
    model = copied(bridge(gpt2_folder))
    with torch.no_grad():
        model.blocks[1].attn.q.original_component.bias.zero_()
        write_folder(model, tmp_path / "out")
        assert torch.equal(lp.load(tmp_path / "out")(IDS), model(IDS))


def test_the_dtype_is_kept(llama_folder, tmp_path):
    model = lp.load(llama_folder, dtype="bfloat16")
    write_folder(model, tmp_path / "out")
    assert adapter_for(lp.load(tmp_path / "out")).dtype == torch.bfloat16


def test_what_cannot_be_copied_or_written_is_refused(tiny_gpt2, tiny_t5, gpt2_folder, tmp_path):
    with pytest.raises(ModelError, match="encoder-decoder"):
        copied(tiny_t5)
    with pytest.raises(ModelError, match="not a TransformerLens model"):
        copied(nn.Linear(2, 2))
    spread = bridge(gpt2_folder)
    spread.original_model.hf_device_map = {"": "cpu"}
    with pytest.raises(ModelError, match="spread over devices"):
        copied(spread)
    processed = copy.deepcopy(bridge(gpt2_folder))
    processed.compatibility_mode = True
    with pytest.raises(ModelError, match="compatibility mode"):
        write_folder(processed, tmp_path / "out")
    if adapter_for(tiny_gpt2).line == "hooked":
        with pytest.raises(ModelError, match="HookedTransformer cannot be written"):
            write_folder(tiny_gpt2, tmp_path / "out")
    assert not (tmp_path / "out").exists()
