"""Interpolated sampling against its definition, on both model classes and every shape of block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpolating import by_definition, embedded
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.interpolation import generate
from lensprobe.interpolation.blend import steady_norm
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import weights_of
from lensprobe.tokens import encode

PROMPTS = ["Hello world, this is", "I", "The cat sat on the mat and then"]
WEIGHTS = {1: 0.9, 2: 0.6}
STRONG = {"layer": list(WEIGHTS), "weight": list(WEIGHTS.values()), "norm": "raw"}
SHORT = {"max_new_tokens": 8, "stop_at_eos": False}


def written(model, found, text, condition="interpolated"):
    """Prompt ids, all ids, and the token rows of one continuation."""
    own = found.tokens.query("text == @text and condition == @condition")
    prompt = encode(adapter_for(model), PROMPTS[text])
    return prompt, [*prompt, *own["id"]], own


def check_against(model, found, logits_of):
    """Greedy tokens, log-probabilities, entropies and ranks follow from the definition's logits."""
    for text in range(len(PROMPTS)):
        prompt, ids, own = written(model, found, text)
        logits = logits_of(ids, len(prompt))[len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == own["id"].tolist()
        logs = logits.double().log_softmax(-1)
        chosen = logs[range(len(own)), own["id"].tolist()]
        close(own["logprob"], chosen)
        close(own["entropy"], -(logs.exp() * logs).sum(-1))
        assert own["rank"].tolist() == [1] * len(own)


# ---- the definition ---------------------------------------------------------------------------------


def test_the_cached_way_is_the_definition(shaped):
    found = generate(shaped, PROMPTS, **STRONG, **SHORT)
    check_against(
        shaped, found, lambda ids, n: by_definition(shaped, ids, WEIGHTS, embedded(shaped, ids))
    )
    assert (found.tokens["logprob"] - found.tokens["plain_logprob"]).abs().max() > 0.05


@pytest.mark.parametrize("where", ["prompt", "generated"])
def test_where_is_about_the_position_that_is_blended(decoder, where):
    found = generate(decoder, PROMPTS, where=where, **STRONG, **SHORT)

    def logits(ids, prompt):
        def chosen(place):
            return (place < prompt) == (where == "prompt")

        return by_definition(decoder, ids, WEIGHTS, embedded(decoder, ids), chosen=chosen)

    check_against(decoder, found, logits)


def test_the_norm_is_matched_and_position_0_taken_along_when_asked(decoder):
    found = generate(decoder, PROMPTS, layer=1, weight=0.5, keep_first=False, **SHORT)

    def scale(e, h):
        return e * steady_norm(h) / steady_norm(e)

    def logits(ids, prompt):
        own = embedded(decoder, ids)
        return by_definition(decoder, ids, {1: 0.5}, own, first=0, scale=scale)

    check_against(decoder, found, logits)


def test_unembedding_directions_of_a_given_norm(decoder):
    gain = weights_of(adapter_for(decoder)).norm("ln_final").gain
    found = generate(decoder, PROMPTS, layer=1, weight=0.8, target="unembedding", norm=3.0, **SHORT)
    rows = decoder.W_U.detach().T * gain

    def logits(ids, prompt):
        def target(place):
            return 3.0 * rows[ids[place + 1]] / rows[ids[place + 1]].norm()

        return by_definition(decoder, ids, {1: 0.8}, target)

    check_against(decoder, found, logits)


@pytest.mark.parametrize("target", ["early", 1])
def test_early_residuals_are_those_of_the_plain_model(decoder, target):
    options = {"layer": [1, 2], "weight": 0.7, "target": target, "norm": "raw", **SHORT}
    found = generate(decoder, PROMPTS, **options)

    def logits(ids, prompt):
        layer = 0 if target == "early" else target
        # A residual depends on nothing after it: one plain pass has what every step would read.
        plain = torch.from_numpy(lp.forward(decoder, ids, layers=layer).activation(layer))
        return by_definition(decoder, ids, {1: 0.7, 2: 0.7}, lambda place: plain[place + 1])

    check_against(decoder, found, logits)
    same_words(generate(decoder, PROMPTS, chunk=2, **options), found)


def test_the_rule_asks_the_plain_model(decoder):
    below = 0.02
    found = generate(decoder, PROMPTS, below=below, **STRONG, **SHORT)
    taken = []

    def logits(ids, prompt):
        plain = lp.score(decoder, ids).tokens["probability"].to_numpy()

        def chosen(place):
            taken.append(plain[place + 1] < below)
            return taken[-1]

        return by_definition(decoder, ids, WEIGHTS, embedded(decoder, ids), chosen=chosen)

    check_against(decoder, found, logits)
    assert 0.1 < np.mean(taken) < 0.95
    for options in ({"cache": False}, {"chunk": 2}):
        same_words(generate(decoder, PROMPTS, below=below, **options, **STRONG, **SHORT), found)


# ---- ways of computing ------------------------------------------------------------------------------


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_cache_chunks_and_batches_change_nothing(decoder, data):
    layers = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
    weights = [data.draw(st.floats(0.1, 1.0)) for _ in layers]
    options = {
        "layer": layers,
        "weight": weights,
        "norm": data.draw(st.sampled_from(["match", "raw", 2.0])),
        "where": data.draw(st.sampled_from(["both", "prompt", "generated"])),
        "temperature": 1.0,
        "seed": data.draw(st.integers(0, 99)),
        **SHORT,
    }
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    prompts = [list(range(3, 3 + n)) for n in lengths]
    found = generate(decoder, prompts, **options)
    same_words(generate(decoder, prompts, cache=False, **options), found)
    same_words(generate(decoder, prompts, chunk=data.draw(st.integers(1, 4)), **options), found)
    # A row draws by its own seed, so only the first prompt can be sampled alone the same way.
    alone = generate(decoder, prompts[0], **options)
    same_words(alone, found, texts=[0])


def same_words(found, expected, texts=None):
    rows = (
        expected.tokens if texts is None else expected.tokens[expected.tokens["text"].isin(texts)]
    )
    assert found.tokens["id"].tolist() == rows["id"].tolist()
    for name in ("logprob", "entropy", "plain_logprob", "plain_entropy"):
        close(found.tokens[name], rows[name])


def test_a_weight_of_zero_takes_the_plain_path(decoder, monkeypatch):
    def never(*args):
        raise AssertionError("a hook was attached")

    monkeypatch.setattr("lensprobe.interpolation.content.Content.hooks", never)
    found = generate(decoder, PROMPTS, layer=1, weight=0.0, **SHORT)
    plain = lp.generate(decoder, PROMPTS, logprobs=True, **SHORT)
    assert found.tokens["id"].tolist() == plain.tokens["id"].tolist()
    assert found.tokens["logprob"].tolist() == plain.tokens["logprob"].tolist()
    close(found.tokens["logprob"], found.tokens["plain_logprob"])


@pytest.mark.parametrize("options", [{"layer": 1, "weight": 1e-9}, {"layer": -1, "weight": 1.0}])
def test_nothing_to_speak_of_and_nothing_that_is_read_change_nothing(decoder, options):
    """After the last block only the newest position is read, and that one is never blended."""
    found = generate(decoder, PROMPTS, **options, **SHORT)
    plain = lp.generate(decoder, PROMPTS, logprobs=True, **SHORT)
    assert found.tokens["id"].tolist() == plain.tokens["id"].tolist()
    close(found.tokens["logprob"], plain.tokens["logprob"])
    close(found.tokens["logprob"], found.tokens["plain_logprob"])


def test_replacing_all_before_the_last_block_is_a_closed_form(tiny_gpt2):
    """The last block then reads position 0, the tokens themselves, and the newest as it is."""
    model, layer = tiny_gpt2, 2
    found = generate(model, PROMPTS[2], layer=layer, weight=1.0, norm="raw", **SHORT)
    own = found.tokens["id"].tolist()
    ids = [*encode(adapter_for(model), PROMPTS[2]), *own]
    residual = torch.from_numpy(lp.forward(model, ids, layers=layer).activation(layer))
    block = model.blocks[3]
    for step, token in enumerate(own):
        j = len(ids) - len(own) - 1 + step
        stream = torch.cat([residual[:1], model.W_E.detach()[ids[2 : j + 1]], residual[j : j + 1]])
        with torch.no_grad():
            normed = block.ln1(stream[None])
            weights = {name: getattr(block.attn, name) for name in ("W_Q", "W_K", "W_V")}
            biases = {name: getattr(block.attn, name) for name in ("b_Q", "b_K", "b_V")}
            q, k, v = (
                torch.einsum("pd,hde->phe", normed[0], weights[f"W_{n}"])
                + biases[f"b_{n}"].reshape(4, 12)
                for n in "QKV"
            )
            pattern = (torch.einsum("he,phe->hp", q[-1], k) / 12**0.5).softmax(-1)
            heads = torch.einsum("hp,phe->he", pattern, v)
            out = torch.einsum("he,hed->d", heads, block.attn.W_O) + block.attn.b_O
            middle = stream[-1] + out
            last = middle + block.mlp(block.ln2(middle[None, None]))[0, 0]
            logits = adapter_for(model).run(last[None, None], start=4)[0, 0]
        assert int(logits.argmax()) == token
        close(logits.log_softmax(-1)[token], found.tokens["logprob"][step])


def test_nothing_is_left_behind(decoder):
    points = {id(point): point for point in decoder.hook_dict.values()}.values()
    generate(decoder, PROMPTS, below=0.5, **STRONG, **SHORT)
    assert not any(point.fwd_hooks for point in points)


def test_the_users_hooks_see_whole_texts(decoder):
    """A hook that goes by place in the text would otherwise meet two tokens at a time."""
    found = generate(decoder, PROMPTS[0], **STRONG, **SHORT)
    seen = []

    def count(stream, hook):
        seen.append(stream.shape[1])

    point = decoder.hook_dict["blocks.0.hook_resid_post"]
    point.add_hook(count)
    try:
        under = generate(decoder, PROMPTS[0], **STRONG, **SHORT)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    same_words(under, found)
    prompt = len(encode(adapter_for(decoder), PROMPTS[0]))
    steps = list(range(prompt, prompt + 8))
    assert seen[:8] == steps
    assert any("hooks of your own" in note for note in under.provenance["notes"])
    assert not any("hooks of your own" in note for note in found.provenance["notes"])


# ---- what comes back --------------------------------------------------------------------------------


def test_the_plain_continuation_stands_beside(decoder):
    options = {"temperature": 1.0, "seed": 3, **SHORT}
    found = generate(decoder, PROMPTS, plain=True, **STRONG, **options)
    plain = lp.generate(decoder, PROMPTS, **options)
    own = found.texts.query("condition == 'plain'")
    assert own["completion"].tolist() == plain.completions
    rows = found.tokens.query("condition == 'plain'")
    for name in ("logprob", "entropy"):
        close(rows[name], rows[f"plain_{name}"])
    assert found.completions == generate(decoder, PROMPTS, **STRONG, **options).completions
    assert found.texts["condition"].tolist() == ["interpolated", "plain"] * 3
    assert "plain: " in str(found)


def test_the_plain_columns_are_what_scoring_says(decoder):
    found = generate(decoder, PROMPTS, temperature=1.5, seed=1, **STRONG, **SHORT)
    for text in range(len(PROMPTS)):
        prompt, ids, own = written(decoder, found, text)
        scored = lp.score(decoder, ids).tokens.iloc[len(prompt) :]
        close(own["plain_logprob"], -scored["loss"])
        logits = torch.from_numpy(lp.forward(decoder, ids).logits[len(prompt) - 1 : -1])
        order = logits.argsort(-1, descending=True)
        rank = (order == torch.tensor(own["id"].tolist())[:, None]).int().argmax(-1) + 1
        assert own["plain_rank"].tolist() == rank.tolist()


def test_it_prints_saves_and_opens(tiny_llama, tmp_path):
    found = generate(tiny_llama, PROMPTS, **STRONG, **SHORT)
    again = lp.open(found.save(tmp_path / "found.zip"))
    assert again.tokens.equals(found.tokens) and again.provenance == found.provenance
    facts = found.summary()
    assert facts["layers"] == "[1, 2]" and facts["tokens"] == 24
    assert str(found).startswith(found.texts["prompt"][0] + found.completions[0])
    without = generate(tiny_llama, PROMPTS, logprobs=False, **STRONG, **SHORT)
    assert list(without.tokens.columns) == ["text", "condition", "position", "token", "id"]
    assert without.provenance["notes"] == []


def test_an_interruption_leaves_what_was_written(tiny_gpt2, monkeypatch):
    from lensprobe.interpolation.decoding import BlendDecoder

    advance, steps = BlendDecoder.advance, []

    def interrupted(self, tokens):
        steps.append(tokens)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return advance(self, tokens)

    monkeypatch.setattr(BlendDecoder, "advance", interrupted)
    with pytest.raises(Interrupted, match="after 9 tokens") as caught:
        generate(tiny_gpt2, PROMPTS, plain=True, **STRONG, **SHORT)
    partial = caught.value.partial
    assert len(partial.tokens) == 9 and not partial.provenance["complete"]
    assert set(partial.tokens["condition"]) == {"interpolated"}
    assert not any(point.fwd_hooks for point in tiny_gpt2.hook_dict.values())


# ---- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 1.5}, r"weight=1\.5.*extrapolate"),
        ({"weight": None}, "weight=None"),
        ({"layer": 4}, "layer"),
        ({"layer": None}, "layer=None"),
        ({"where": "prompts"}, r"where='prompts'.*Did you mean 'prompt'"),
        ({"below": 0.0}, r"below=0\.0"),
        ({"target": "embeding"}, "Did you mean 'embedding'"),
        ({"norm": -1.0}, "norm"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 300}, "context"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_input_is_refused_before_a_pass(tiny_gpt2, options, words):
    def never(activation, hook):
        raise AssertionError("a pass was run")

    point = tiny_gpt2.hook_dict["hook_embed"]
    point.add_hook(never)
    try:
        with pytest.raises(ArgumentError, match=words):
            generate(tiny_gpt2, PROMPTS, **{"layer": 1, "weight": 0.5, **options})
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()


@pytest.mark.parametrize("prompt", ["", [], [[]], [[9999]], 3])
def test_no_prompt_and_tokens_of_another_model_are_refused(tiny_gpt2, prompt):
    with pytest.raises(ArgumentError):
        generate(tiny_gpt2, prompt, layer=1, weight=0.5)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        generate(tiny_t5, "a", layer=1, weight=0.5)
