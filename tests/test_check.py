"""`lp.check`: what it says about each kind of model, and that it is true."""

from __future__ import annotations

import re

import columns
import every_analysis
import pytest
import torch
import transformers
from tiny_models import write_tokenizer
from torch import nn

import lensprobe as lp
from lensprobe.errors import LensprobeError, ModelError

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 64,
}


@pytest.fixture
def load(tmp_path):
    """Write a random model of some architecture, and load it."""

    def make(config, kind, **options):
        config = config(vocab_size=write_tokenizer(tmp_path), **options)
        kind(config).save_pretrained(tmp_path)
        return lp.load(tmp_path)

    return make


def test_the_facts_of_a_gpt2(tiny_gpt2):
    facts = lp.check(tiny_gpt2).facts
    assert facts["layers"] == "4"
    assert facts["heads"] == "4, 12 wide"
    assert facts["width"] == "48"
    assert facts["context"] == "256 tokens"
    assert facts["attention"] == "causal"
    assert facts["BOS"] == "'<|endoftext|>' (0), prepended by default"
    assert (facts["dtype"], facts["device"], facts["weights"]) == ("float32", "cpu", "plain")
    assert facts["coordinates"] == "raw"
    assert {"resid_pre", "resid_mid", "resid_post", "attn.v"} <= set(facts["sites"].split(", "))
    assert facts["your hooks"] == "none"
    assert facts["from"] == "loaded outside lensprobe"


def test_grouped_queries_are_said(tiny_llama):
    facts = lp.check(tiny_llama).facts
    assert facts["heads"] == "4 queries over 2 keys and values, 12 wide"
    assert facts["positions"] == "rotary"


def test_where_it_came_from_is_said(planted):
    assert lp.check(planted).facts["from"] == "built by lensprobe"


def test_what_it_says_runs_does_run(decoder):
    """Each analysis is called; a check that promises too much fails here."""
    calls = every_analysis.calls(decoder)
    said = lp.check(decoder).analyses
    assert set(said) == set(calls)
    for name, call in calls.items():
        if said[name]:
            with pytest.raises(LensprobeError):
                call()
        else:
            assert columns.unknown(call()) == set(), f"{name}: define them in docs/columns.md"


def test_an_encoder_decoder_says_what_runs_and_why_the_rest_does_not(tiny_t5):
    found = lp.check(tiny_t5)
    assert found.facts["kind"] == "encoder-decoder"
    runs = {name for name, why in found.analyses.items() if not why}
    expected = {"lp.forward", "lp.score", "lp.generate", "lp.editing"}
    expected |= {"lp.steering.compare_stacks", "lp.steering.mixing"}
    assert runs == expected
    assert all("encoder-decoder" in why for why in found.analyses.values() if why)
    with pytest.raises(ModelError) as error:
        lp.massive.scan(tiny_t5, ["hello"])
    assert str(error.value) == found.analyses["lp.massive.scan"]


def test_the_stacks_of_an_encoder_decoder_are_told_apart(tiny_t5):
    facts = lp.check(tiny_t5).facts
    assert facts["layers"] == "encoder 2; decoder 2"
    assert facts["attention"].startswith("both ways in the encoder")
    encoder, decoder = facts["sites"].split("; ")
    assert encoder.startswith("encoder resid_pre") and decoder.startswith("decoder resid_pre")


def test_sliding_windows_are_said(load):
    model = load(
        transformers.MistralConfig, transformers.MistralForCausalLM, sliding_window=16, **SHAPE
    )
    found = lp.check(model)
    assert found.facts["attention"] == "causal, sliding over 16 tokens in every layer"
    assert any("out of sight after 16 tokens" in note for note in found.notes)


def test_capped_scores_and_windows_in_some_layers_are_said(load):
    model = load(
        transformers.Gemma2Config, transformers.Gemma2ForCausalLM, sliding_window=16, **SHAPE
    )
    words = lp.check(model).facts["attention"]
    assert "sliding over 16 tokens in 1 of its layers" in words
    assert "scores capped at 50" in words


def test_normed_queries_are_said(load):
    model = load(transformers.Qwen3Config, transformers.Qwen3ForCausalLM, **SHAPE)
    assert "queries and keys normed" in lp.check(model).facts["attention"]


def test_a_parallel_block_has_no_middle(load):
    model = load(
        transformers.GPTNeoXConfig,
        transformers.GPTNeoXForCausalLM,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        use_parallel_residual=True,
    )
    found = lp.check(model)
    assert "resid_mid" not in found.facts["sites"].split(", ")
    assert not found.analyses["lp.massive.scan"]


def test_the_users_hooks_are_named_and_kept(tiny_gpt2):
    point = tiny_gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: value)
    try:
        found = lp.check(tiny_gpt2)
        assert found.facts["your hooks"].startswith("blocks.1.hook_")
        assert any("stay attached and active" in note for note in found.notes)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


def test_mixed_dtypes_packed_weights_and_training_are_said(load):
    model = load(transformers.LlamaConfig, transformers.LlamaForCausalLM, **SHAPE)
    raw = model.original_model
    head = (
        raw.lm_head.original_component
        if hasattr(raw.lm_head, "original_component")
        else raw.lm_head
    )
    whole = head.weight
    head.weight = nn.Parameter(whole.data.to(torch.bfloat16))
    assert set(lp.check(model).facts["dtype"].split(", ")) == {"float32", "bfloat16"}
    head.weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    found = lp.check(model)
    assert found.facts["weights"].startswith("packed")
    assert "packed (4- or 8-bit)" in found.analyses["lp.massive.anatomy"]
    assert not found.analyses["lp.massive.scan"]
    head.weight = whole
    model.train()
    assert any("training mode" in note for note in lp.check(model).notes)


def test_a_model_without_a_tokenizer_takes_ids(load):
    model = load(transformers.LlamaConfig, transformers.LlamaForCausalLM, **SHAPE)
    model.tokenizer = None
    found = lp.check(model)
    assert found.facts["BOS"] == "no tokenizer"
    assert any("token ids only" in note for note in found.notes)
    assert not found.analyses["lp.massive.scan"]
    lp.massive.scan(model, [[1, 2, 3]], progress=False)


def test_attention_that_keeps_no_pattern_is_said(load):
    model = load(transformers.LlamaConfig, transformers.LlamaForCausalLM, **SHAPE)
    model.original_model.config._attn_implementation = "sdpa"
    found = lp.check(model)
    assert "computed by sdpa" in found.analyses["lp.sinks.scan"]
    assert not found.analyses["lp.massive.scan"]


def test_it_prints_itself(tiny_gpt2):
    found = lp.check(tiny_gpt2)
    lines = repr(found).splitlines()
    assert lines[0].split(maxsplit=1)[0] == "model"
    assert any(line.split() == ["lp.massive.scan", "runs"] for line in lines)
    shown = found._repr_html_()
    assert f"<summary>{len(found.analyses) - 1} of {len(found.analyses)} analyses run" in shown
    assert re.search(r"<th[^>]*>lp\.sinks\.scan</th><td[^>]*>runs</td>", shown)
    frame = found.to_frame()
    assert list(frame.columns) == ["analysis", "runs", "why"]
    assert frame.set_index("analysis")["runs"]["lp.sinks.scan"]


def test_markup_in_a_name_stays_text(tiny_gpt2):
    found = lp.check(tiny_gpt2)
    odd = type(found)({"model": "<img src=x>"}, {}, ("<i>",))
    assert "<img" not in odd._repr_html_()
    assert "<i>" not in odd._repr_html_()


@pytest.mark.parametrize("model", [3, nn.Linear(2, 2)])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ModelError, match="is not a TransformerLens model"):
        lp.check(model)


def test_a_bare_transformers_model_is_told_how(llama_folder):
    raw = transformers.AutoModelForCausalLM.from_pretrained(llama_folder)
    with pytest.raises(ModelError, match=r"wrap it first: lp\.load"):
        lp.check(raw)
