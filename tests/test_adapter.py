"""The adapter: skipping what is not read, and the same answers on both model classes."""

from __future__ import annotations

import copy
import gc
import json
import weakref

import pytest
import torch

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for


@pytest.fixture
def model(decoder):
    return decoder


@pytest.fixture
def ids(model):
    return torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))


def block_calls(model) -> tuple[list[int], list]:
    """Counts what truly runs: attention of each block, which an identity shadow never calls."""
    calls: list[int] = []
    handles = []
    for index, block in enumerate(model.blocks):
        handle = block.attn.register_forward_pre_hook(
            lambda module, args, i=index: calls.append(i), with_kwargs=False
        )
        handles.append(handle)
    return calls, handles


@torch.no_grad()
def test_blocks_outside_start_and_stop_do_not_run(model, ids):
    adapter = adapter_for(model)
    plain = model(ids)
    residual = adapter.run(ids, stop=2)
    adapter.run(residual, start=2)
    calls, handles = block_calls(model)
    try:
        assert torch.equal(adapter.run(residual, start=2), plain)
        assert calls == list(range(2, adapter.n_layers))
        calls.clear()
        adapter.run(ids, stop=2)
        assert calls == [0, 1]
        calls.clear()
        adapter.run(residual, start=2, stop=3)
        assert calls == [2]
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(model(ids), plain)


@torch.no_grad()
def test_stop_after_the_last_block_is_the_residual_before_the_final_norm(model, ids):
    adapter = adapter_for(model)
    residual = adapter.run(ids, stop=adapter.n_layers)
    assert residual.shape == (2, 9, adapter.d_model)
    torch.testing.assert_close(model.unembed(model.ln_final(residual)), model(ids))
    assert adapter.run(ids, stop=0).shape == (2, 9, adapter.d_model)


@torch.no_grad()
def test_a_cache_continues_crops_and_keeps_masks(model, ids):
    adapter = adapter_for(model)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :3] = False
    whole = adapter.run(ids, mask=mask)
    cache = adapter.new_cache(2)
    first = adapter.run(ids[:, :5], mask=mask[:, :5], cache=cache)
    adapter.run(ids[:, :2], cache=cache)
    cache.drop(2)
    rest = adapter.run(ids[:, 5:], cache=cache)
    got = torch.cat([first, rest], dim=1)
    torch.testing.assert_close(got[mask], whole[mask], atol=1e-4, rtol=1e-4)
    alone = adapter.run(ids[1:, 3:])
    torch.testing.assert_close(whole[1:, 3:], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_pass_can_start_late_over_a_filled_cache(model, ids):
    adapter = adapter_for(model)
    plain = model(ids)
    cache = adapter.new_cache(2)
    adapter.run(ids[:, :5], cache=cache)
    residual = adapter.run(ids, stop=2)[:, 5:]
    late = adapter.run(residual, start=2, cache=cache)
    torch.testing.assert_close(late, plain[:, 5:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("start", [0, 2, 4])
def test_rows_of_a_cache_repeat_and_go_on_from_any_block(model, ids, start, ragged):
    adapter = adapter_for(model)
    mask = torch.ones(ids.shape, dtype=torch.bool)
    mask[0, :2] = not ragged
    whole = adapter.run(ids, mask=mask)
    inside = adapter.run(ids, mask=mask, stop=start) if start else ids
    cache = adapter.new_cache(2)
    adapter.run(ids[:, :4], mask=mask[:, :4], cache=cache, logits=None)
    copied = cache.repeated(3, start)
    new, real = (t[:, 4:].repeat_interleave(3, dim=0) for t in (inside, mask))
    out = adapter.run(new, mask=real, cache=copied, start=start)
    wanted = whole[:, 4:].repeat_interleave(3, dim=0)
    torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
    # The original still goes on as if nothing had been copied.
    assert (cache.length, copied.length) == (4, 9)
    rest = adapter.run(ids[:, 4:], mask=mask[:, 4:], cache=cache)
    torch.testing.assert_close(rest, whole[:, 4:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_of_the_newest_column_only(model, ids):
    adapter = adapter_for(model)
    torch.testing.assert_close(adapter.run(ids, logits="last"), model(ids)[:, -1:])
    assert adapter.run(ids, logits=None) is None


def test_layers_are_resolved_once(model):
    adapter = adapter_for(model)
    assert adapter.layer(-1) == adapter.n_layers - 1
    assert adapter.layers("all") == tuple(range(adapter.n_layers))
    assert adapter.layers([1, -1, 1]) == (1, adapter.n_layers - 1)
    assert adapter.layers(-2) == (adapter.n_layers - 2,)
    for bad, message in ((9, "layers=9"), (True, "whole number"), ([], "empty"), ("some", "all")):
        with pytest.raises(ArgumentError, match=message):
            adapter.layers(bad)


def test_provenance_is_json_and_names_what_matters(model):
    facts = adapter_for(model).provenance()
    json.dumps(facts)
    assert facts["dtype"] == "float32" and facts["coordinates"] == "raw"
    assert facts["versions"]["torch"] == torch.__version__


def test_the_dtype_is_the_parameters(model):
    twin = copy.deepcopy(model).to(torch.bfloat16)
    assert adapter_for(twin).dtype == torch.bfloat16


def test_an_adapter_does_not_keep_its_model_alive(model):
    twin = copy.deepcopy(model)
    adapter = adapter_for(twin)
    reference = weakref.ref(twin)
    del twin
    gc.collect()
    assert reference() is None
    with pytest.raises(ModelError, match="no longer exists"):
        adapter.provenance()


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), torch.nn.Sequential()])
def test_other_objects_are_told_apart(thing):
    with pytest.raises(ModelError, match="not a TransformerLens model"):
        adapter_for(thing)


def test_a_transformers_model_is_told_to_be_wrapped():
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20, n_positions=8))
    with pytest.raises(ModelError, match=r"wrap it first: lp\.load"):
        adapter_for(small)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: lp.massive.scan(model, "one"),
        lambda model: lp.sinks.scan(model, "one"),
        lambda model: lp.report(model, "one"),
        lambda model: lp.steering.contrast(model, "one", "two"),
    ],
)
def test_an_encoder_decoder_is_refused_where_a_decoder_is_needed(tiny_t5, call):
    with pytest.raises(ModelError, match="needs a decoder-only model"):
        call(tiny_t5)
