"""The invariants of running under edits, on both model classes.

Padding, the key-value cache, chunks and batches are ways of computing; none may change an answer.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import lensprobe as lp
from lensprobe import positions
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for

TEXTS = ["Hello world, this is", "I", "The cat sat on the mat and then it went away"]
SELECTORS = [
    positions.all(),
    positions.front(1),
    positions.after_prompt(),
    positions.generated(),
    positions.last(),
    positions.at(0),
    positions.at(-1),
    positions.between(0, 1),
    positions.where(lambda token: "e" in token),
    positions.all() - positions.front(1),
]


@pytest.fixture
def model(decoder):
    return decoder


@pytest.fixture
def vector(model):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(adapter_for(model).d_model, generator=generator) * 2


def hooks_of(model) -> int:
    points = {id(p): p for p in model.hook_dict.values()}.values()
    return sum(len(p.fwd_hooks) + len(p.bwd_hooks) + len(p._forward_hooks) for p in points)


def edits_for(vector, selector):
    return [
        lp.Add(vector, layers=[0, 1], positions=selector),
        lp.Scale(factor=0.5, dim=(3,), layers=-1, positions=selector),
        lp.Add(vector[None] * 0.5, layers=0, positions=positions.front()),
    ]


# ---- the plain model --------------------------------------------------------------------------


def test_no_edits_is_the_plain_model_bit_for_bit(model):
    for text in TEXTS:
        plain = model(model.to_tokens(text))[0].detach().numpy()
        assert np.array_equal(lp.forward(model, text).logits, plain)


def test_strength_zero_is_the_plain_model(model, vector):
    plain = lp.forward(model, TEXTS).logits
    for edit in (
        lp.Add(vector, layers="all", scale=0.0),
        lp.Mix(vector, layers="all", weight=0.0),
        lp.Scale(layers="all", factor=1.0),
    ):
        np.testing.assert_allclose(lp.forward(model, TEXTS, edits=edit).logits, plain, atol=1e-5)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_add_then_subtract_is_plain(model, vector, site):
    edits = [lp.Add(vector, layers="all", site=site), lp.Add(-vector, layers="all", site=site)]
    plain = lp.forward(model, TEXTS).logits
    np.testing.assert_allclose(lp.forward(model, TEXTS, edits=edits).logits, plain, atol=1e-4)
    changed = lp.forward(model, TEXTS, edits=edits[:1]).logits
    assert np.abs(changed - plain).max() > 1e-2


@pytest.mark.parametrize("factor", [None, 0.5])
def test_what_is_written_in_a_blocks_middle_stays_in_the_stream(model, vector, factor):
    """The block's output is its middle and what the MLP adds to it, and the middle is edited."""
    edits = [lp.Add(vector, layers=1, site="resid_mid")]
    if factor is not None:
        edits.append(lp.Scale(factor=factor, layers=1))
    read = {
        site: lp.forward(model, TEXTS[2], edits=edits, layers=1, site=site).activations
        for site in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    }
    middle = read["resid_pre"] + read["attn_out"] + vector.numpy()
    np.testing.assert_allclose(read["resid_mid"], middle, atol=1e-4)
    end = (factor or 1.0) * (middle + read["mlp_out"])
    np.testing.assert_allclose(read["resid_post"], end, atol=1e-4)


def test_attention_values_can_be_edited(model):
    adapter = adapter_for(model)
    v = torch.randn(adapter.width("attn.v"))
    edits = [lp.Add(v, layers=1, site="attn.v"), lp.Add(-v, layers=1, site="attn.v")]
    plain = lp.forward(model, TEXTS).logits
    np.testing.assert_allclose(lp.forward(model, TEXTS, edits=edits).logits, plain, atol=1e-4)
    # Every query's weights sum to one, so the same vector on all values moves the output by v W_O.
    read = lp.forward(model, TEXTS[2], edits=edits[0], layers=1, site="attn_out").activations
    base = lp.forward(model, TEXTS[2], layers=1, site="attn_out").activations
    shift = (read - base)[0]
    np.testing.assert_allclose(shift, shift[:1].repeat(len(shift), 0), atol=1e-4)
    assert np.abs(shift).max() > 1e-2


def test_activations_are_those_of_run_with_cache(model):
    got = lp.forward(model, TEXTS[2], layers="all")
    _, cache = model.run_with_cache(model.to_tokens(TEXTS[2]))
    for layer in got.layers:
        expected = cache[f"blocks.{layer}.hook_resid_post"][0].detach().numpy()
        np.testing.assert_allclose(got.activation(layer), expected, rtol=1e-5, atol=1e-5)


def test_last_logits_are_the_last_of_all_logits(model, vector):
    edit = lp.Add(vector, layers=1, positions=positions.at(-1))
    whole = lp.forward(model, TEXTS, edits=edit, layers=2)
    last = lp.forward(model, TEXTS, edits=edit, layers=2, logits="last")
    ends = whole.tokens.groupby("text").tail(1).index
    np.testing.assert_allclose(last.logits, whole.logits[ends], atol=1e-4)
    np.testing.assert_allclose(last.activations, whole.activations, atol=1e-5)
    assert lp.forward(model, TEXTS, logits=None).logits.shape == (0, adapter_for(model).d_vocab)


def test_the_last_layer_is_read_and_written_before_the_final_norm(model, vector):
    plain = lp.forward(model, TEXTS[2], layers=-1).activations[0]
    edited = lp.forward(model, TEXTS[2], layers=-1, edits=lp.Add(vector, layers=-1)).activations[0]
    np.testing.assert_allclose(
        edited - plain, vector.numpy()[None].repeat(len(plain), 0), atol=1e-4
    )
    replaced = lp.forward(model, TEXTS[2], edits=lp.Set(value=vector, layers=-1)).logits
    with torch.no_grad():
        expected = model.unembed(model.ln_final(vector[None, None]))[0, 0].numpy()
    np.testing.assert_allclose(replaced, expected[None].repeat(len(replaced), 0), atol=1e-4)


# ---- where -------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 3, -1])
def test_an_edit_at_p_changes_no_logits_before_p(model, vector, position):
    plain = lp.forward(model, TEXTS[2]).logits
    edit = lp.Add(vector, layers=0, positions=positions.at(position))
    edited = lp.forward(model, TEXTS[2], edits=edit).logits
    first = position % len(plain)
    np.testing.assert_allclose(edited[:first], plain[:first], atol=1e-5)
    assert np.abs(edited[first] - plain[first]).max() > 1e-2


def test_the_first_generated_token_feels_after_prompt_and_not_generated(model, vector):
    plain = lp.generate(model, TEXTS, max_new_tokens=1, logprobs=True).tokens
    for selector, feels in ((positions.after_prompt(), True), (positions.generated(), False)):
        edit = lp.Add(vector * 3, layers=1, positions=selector)
        got = lp.generate(model, TEXTS, max_new_tokens=1, logprobs=True, edits=edit).tokens
        moved = np.abs(got["logprob"] - plain["logprob"]).min()
        assert (moved > 1e-3) if feels else (moved < 1e-5)


def test_pads_are_never_edited(model, vector):
    """A batch whose pads were edited would differ from its members alone."""
    adapter = adapter_for(model)
    seen = []
    from lensprobe.running.session import Session, prompt_step
    from lensprobe.tokens import TokenBatch

    for side in ("left", "right"):
        batch = TokenBatch.pad(adapter, TEXTS, side=side)
        name = adapter.hook_name("resid_pre", 0)
        with Session(
            adapter, lp.Set(value=vector, layers=0, site="resid_pre"), {name: seen.append}
        ) as s:
            s.begin()
            s.read(prompt_step(batch), batch.ids)
        real = batch.mask
        assert torch.allclose(seen[-1][real], vector.expand(int(real.sum()), -1))
        assert not torch.isclose(seen[-1][~real], vector).all(-1).any()


# ---- batches, padding, cache -------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_members_alone(model, vector, side):
    edits = edits_for(vector, positions.all())
    together = lp.forward(model, TEXTS, edits=edits, side=side, layers="all")
    alone = [lp.forward(model, text, edits=edits, layers="all") for text in TEXTS]
    expected = np.concatenate([one.logits for one in alone])
    np.testing.assert_allclose(together.logits, expected, atol=1e-4)
    residual = np.concatenate([one.activations for one in alone], axis=1)
    np.testing.assert_allclose(
        together.activations, residual, atol=1e-5 * np.abs(residual).max(), rtol=0
    )


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: s.text)
def test_cached_generation_equals_uncached_and_members_alone(model, vector, selector):
    edits = edits_for(vector, selector)
    options = {"edits": edits, "max_new_tokens": 6, "logprobs": True, "stop_at_eos": False}
    cached = lp.generate(model, TEXTS, **options).tokens
    recomputed = lp.generate(model, TEXTS, cache=False, **options).tokens
    alone = [lp.generate(model, t, **options).tokens.assign(text=i) for i, t in enumerate(TEXTS)]
    chunked = lp.generate(model, TEXTS, chunk=3, **options).tokens
    for other in (recomputed, pd.concat(alone, ignore_index=True), chunked):
        assert cached["id"].tolist() == other["id"].tolist()
        np.testing.assert_allclose(cached["logprob"], other["logprob"], atol=1e-4)


def test_generation_equals_a_loop_of_plain_forward_passes(model):
    ids = model.to_tokens(TEXTS[0])
    for _ in range(6):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    got = lp.generate(model, TEXTS[0], max_new_tokens=6, stop_at_eos=False)
    assert got.tokens["id"].tolist() == ids[0, -6:].tolist()


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: s.text)
def test_scores_are_the_same_in_batches_chunks_and_alone(model, vector, selector):
    edits = edits_for(vector, selector)
    whole = lp.score(model, TEXTS, edits=edits).tokens["loss"].to_numpy()
    for options in ({"batch_tokens": 1}, {"chunk": 3}, {"side": "left"}):
        other = lp.score(model, TEXTS, edits=edits, **options).tokens["loss"].to_numpy()
        np.testing.assert_allclose(whole, other, atol=1e-4)


def test_score_is_cross_entropy(model):
    ids = model.to_tokens(TEXTS[2])
    expected = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="none")
    got = lp.score(model, TEXTS[2])
    np.testing.assert_allclose(got.tokens["loss"][1:], expected.detach(), atol=1e-4)
    assert got.loss == pytest.approx(float(expected.detach().mean()), abs=1e-4)


def test_a_moving_edit_scores_what_generation_would_see(model, vector):
    """Each token predicted with the edit on the one before it alone, written the slow way."""
    edit = lp.Add(vector, layers=1, positions=positions.last())
    got = lp.score(model, TEXTS[2], edits=edit).tokens["loss"].to_numpy()
    ids = model.to_tokens(TEXTS[2])[0]
    for end in range(1, len(ids)):
        step = lp.Add(vector, layers=1, positions=positions.at(-1))
        logits = lp.forward(model, ids[:end], edits=step, logits="last").logits[0]
        expected = -torch.from_numpy(logits).log_softmax(-1)[ids[end]]
        assert got[end] == pytest.approx(float(expected), abs=1e-4)


def test_after_prompt_in_score_begins_at_the_prompts_last_token(model, vector):
    edit = lp.Add(vector, layers=1, positions=positions.after_prompt())
    got = lp.score(model, " world, this", prompt="Hello", edits=edit)
    plain = lp.score(model, " world, this", prompt="Hello")
    assert got.tokens["kind"].tolist()[:2] == ["prompt", "prompt"]
    scored = (got.tokens["kind"] == "text").to_numpy()
    first = int(np.flatnonzero(scored)[0])
    difference = np.abs(got.tokens["loss"] - plain.tokens["loss"]).to_numpy()
    assert np.nanmax(difference[:first]) < 1e-5
    assert difference[first] > 1e-3
    assert got.texts["count"].tolist() == [int(scored.sum())]


# ---- sampling ----------------------------------------------------------------------------------


def test_sampling_depends_on_the_seed_and_the_row_alone(model):
    options = {"temperature": 1.0, "max_new_tokens": 5, "stop_at_eos": False, "seed": 3}
    one = lp.generate(model, TEXTS[0], **options).tokens["id"].tolist()
    batch = lp.generate(model, TEXTS, **options).tokens
    assert batch[batch["text"] == 0]["id"].tolist() == one
    assert one != lp.generate(model, TEXTS[0], **{**options, "seed": 4}).tokens["id"].tolist()
    twins = lp.generate(model, [TEXTS[0]] * 2, **options).tokens
    assert twins[twins["text"] == 0]["id"].tolist() != twins[twins["text"] == 1]["id"].tolist()


def test_top_k_one_is_greedy_and_filters_are_transformers_own(model):
    greedy = lp.generate(model, TEXTS, max_new_tokens=4).tokens["id"].tolist()
    options = {"max_new_tokens": 4, "temperature": 0.7, "seed": 0}
    assert lp.generate(model, TEXTS, top_k=1, **options).tokens["id"].tolist() == greedy
    assert lp.generate(model, TEXTS, top_p=1e-6, **options).tokens["id"].tolist() == greedy


def test_a_repetition_penalty_ignores_pads(model):
    options = {"max_new_tokens": 5, "repetition_penalty": 1.8, "stop_at_eos": False}
    batch = lp.generate(model, TEXTS, **options).tokens
    alone = [lp.generate(model, text, **options).tokens["id"].tolist() for text in TEXTS]
    assert [batch[batch["text"] == i]["id"].tolist() for i in range(3)] == alone


# ---- what stays behind -------------------------------------------------------------------------


def test_nothing_is_left_after_success_error_or_interrupt(model, vector):
    before, plain = hooks_of(model), lp.forward(model, TEXTS[0]).logits
    side = model.tokenizer.padding_side
    lp.generate(model, TEXTS, edits=edits_for(vector, positions.last()), max_new_tokens=2)
    assert hooks_of(model) == before
    with pytest.raises(ArgumentError):
        lp.forward(model, TEXTS, edits=lp.Add(vector, layers=0, positions=positions.at(50)))

    def fail(x, hook):
        raise RuntimeError("inside a hook")

    def interrupt(x, hook):
        raise KeyboardInterrupt

    for function, error in ((fail, RuntimeError), (interrupt, KeyboardInterrupt)):
        point = model.hook_dict["blocks.1.hook_resid_post"]
        point.add_hook(function)
        with pytest.raises(error):
            lp.score(model, TEXTS, edits=edits_for(vector, positions.all()))
        point.remove_hooks()
        assert hooks_of(model) == before
    assert model.tokenizer.padding_side == side
    assert np.array_equal(lp.forward(model, TEXTS[0]).logits, plain)


def test_the_users_hook_stays_and_is_active(model, vector):
    calls = []
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: calls.append(x.shape) or x * 0)
    try:
        result = lp.score(model, TEXTS[2], edits=lp.Add(vector, layers=1), chunk=3)
        assert calls == [(1, len(result.tokens), adapter_for(model).d_model)]
        assert result.provenance["user_hooks"]
        assert len(model.hook_dict["blocks.0.hook_resid_post"].fwd_hooks) == 1
        with_hook = result.loss
    finally:
        model.reset_hooks()
    assert with_hook != pytest.approx(
        lp.score(model, TEXTS[2], edits=lp.Add(vector, layers=1)).loss
    )


def test_a_dry_run_counts_and_times_one_batch(model):
    plan = lp.score(model, TEXTS, batch_tokens=20, dry_run=True)
    done = lp.score(model, TEXTS)
    assert plan.summary()["documents"] == 3 and plan.summary()["passes"] >= 2
    assert plan.summary()["tokens"] == len(done.tokens)
    assert plan.seconds > 0 and plan.memory > 2**20
    with lp.options(dry_run=True):
        assert type(lp.score(model, TEXTS)) is type(plan)
    assert hooks_of(model) == 0


@pytest.fixture
def interrupted_after_one(model):
    """The user presses Ctrl-C during the second forward pass."""
    point = model.hook_dict["blocks.0.hook_resid_post"]
    seen = []

    def later(x, hook):
        seen.append(1)
        if len(seen) > 1:
            raise KeyboardInterrupt

    point.add_hook(later)
    yield
    point.remove_hooks()


@pytest.mark.parametrize("call", [lp.score, lp.forward])
def test_an_interrupt_returns_what_was_finished(model, interrupted_after_one, call):
    with pytest.raises(lp.Interrupted, match="1 of 3 texts") as caught:
        call(model, TEXTS, batch_tokens=1)
    model.hook_dict["blocks.0.hook_resid_post"].remove_hooks()
    partial = caught.value.partial
    # Texts are read from the shortest on.
    assert partial.tokens["text"].unique().tolist() == [1]
    facts = partial.provenance
    assert (facts["complete"], facts["finished"], facts["texts"]) == (False, 1, 3)
    whole = call(model, TEXTS[1])
    if call is lp.score:
        np.testing.assert_allclose(partial.loss, whole.loss, atol=1e-4)
    else:
        np.testing.assert_allclose(partial.logits, whole.logits, atol=1e-4)


def test_an_interrupted_generation_keeps_its_tokens(model, interrupted_after_one):
    with pytest.raises(lp.Interrupted) as caught:
        lp.generate(model, TEXTS[0], max_new_tokens=5)
    model.hook_dict["blocks.0.hook_resid_post"].remove_hooks()
    whole = lp.generate(model, TEXTS[0], max_new_tokens=5)
    partial = caught.value.partial
    assert partial.tokens["id"].tolist() == whole.tokens["id"].tolist()[:1]
    assert not partial.provenance["complete"]


def test_a_generation_that_runs_out_of_memory_goes_on_in_halves(model, vector):
    edit = lp.Add(vector, layers=1, scale=torch.tensor([0.0, 1.0, 2.0]))
    options = {"edits": edit, "max_new_tokens": 4, "temperature": 1.0, "seed": 5, "logprobs": True}
    whole = lp.generate(model, TEXTS, **options)
    point = model.hook_dict["blocks.0.hook_resid_post"]
    passes = []

    def full(x, hook):
        passes.append(1)
        if len(x) > 1 and len(passes) > 2:
            raise MemoryError

    point.add_hook(full)
    try:
        halves = lp.generate(model, TEXTS, **options)
    finally:
        point.remove_hooks()
    assert halves.tokens["id"].tolist() == whole.tokens["id"].tolist()
    np.testing.assert_allclose(halves.tokens["logprob"], whole.tokens["logprob"], atol=1e-4)
    assert any("halved" in note for note in halves.provenance["notes"])


def test_running_out_of_memory_halves_the_batch_and_says_so(model):
    plain = lp.score(model, TEXTS)
    point = model.hook_dict["blocks.0.hook_resid_post"]

    def full(x, hook):
        if len(x) > 1:
            raise MemoryError

    point.add_hook(full)
    try:
        got = lp.score(model, TEXTS)
    finally:
        point.remove_hooks()
    np.testing.assert_allclose(got.tokens["loss"], plain.tokens["loss"], atol=1e-4)
    assert any("halved" in note for note in got.provenance["notes"])


def test_masks_and_checks_see_all_texts_however_they_are_batched(model, vector):
    mask = np.zeros((3, 4), dtype=bool)
    mask[0, 1] = mask[2, 3] = True
    edit = lp.Add(vector, layers=0, positions=positions.where(mask))
    whole = lp.score(model, TEXTS, edits=edit).tokens["loss"]
    alone = lp.score(model, TEXTS, edits=edit, batch_tokens=1).tokens["loss"]
    np.testing.assert_allclose(whole, alone, atol=1e-4)


@pytest.mark.parametrize("call", [lp.score, lp.forward])
def test_a_bad_text_is_found_before_the_first_pass(model, vector, call):
    calls = []
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: calls.append(1))
    try:
        with pytest.raises(ArgumentError, match="context"):
            call(model, ["a b", "word " * 5000], batch_tokens=1)
        edit = lp.Add(vector, layers=0, positions=positions.at(40))
        with pytest.raises(ArgumentError, match="position 40"):
            call(model, [TEXTS[2] * 4, "a b"], batch_tokens=1, edits=edit)
    finally:
        model.reset_hooks()
    assert not calls


def test_the_users_hook_on_the_logits_is_active_when_no_logits_are_kept(model):
    calls = []
    model.add_hook("ln_final.hook_normalized", lambda x, hook: calls.append(1))
    try:
        lp.forward(model, TEXTS[0], logits=None, layers=0)
    finally:
        model.reset_hooks()
    assert calls


def test_a_table_of_values_makes_front_as_long_as_itself(model):
    width = adapter_for(model).d_model
    table = torch.arange(3.0)[:, None].expand(3, width)
    edit = lp.Set(value=table, layers=0, positions=positions.front())
    read = lp.forward(model, TEXTS[2], layers=0, edits=edit).activations[0]
    assert read[:3, 0].tolist() == [0.0, 1.0, 2.0]
    assert not np.isclose(read[3], read[3, 0]).all()


# ---- the context manager ----------------------------------------------------------------------


def test_the_users_own_calls_are_edited_inside_the_block(model, vector):
    edit = lp.Add(vector, layers=1, positions=positions.after_prompt())
    ids = model.to_tokens(TEXTS[2])
    with lp.editing(model, edit):
        inside = model(ids)[0].detach().numpy()
    np.testing.assert_allclose(inside, lp.forward(model, TEXTS[2], edits=edit).logits, atol=1e-5)
    assert hooks_of(model) == 0


def test_the_users_own_cached_generation_is_edited_like_ours(model, vector):
    edit = lp.Add(vector, layers=1, positions=positions.after_prompt())
    ids = model.to_tokens(TEXTS[0])
    with lp.editing(model, edit):
        theirs = model.generate(
            ids, max_new_tokens=5, do_sample=False, verbose=False, stop_at_eos=False
        )
    ours = lp.generate(model, TEXTS[0], edits=edit, max_new_tokens=5, stop_at_eos=False)
    assert theirs[0, -5:].tolist() == ours.tokens["id"].tolist()


def test_other_ways_into_the_model_are_edited_or_refused(model, vector):
    adapter = adapter_for(model)
    ids = model.to_tokens(TEXTS[0])
    edit = lp.Add(vector, layers=2)
    with torch.no_grad():
        residual = adapter.run(ids, stop=1)
        expected = lp.forward(model, TEXTS[0], edits=edit).logits
        with lp.editing(model, edit):
            late = adapter.run(residual, start=1)[0].numpy()
        np.testing.assert_allclose(late, expected, atol=1e-4)
        cache = adapter.new_cache(1)
        adapter.run(ids, cache=cache)
        with lp.editing(model, edit), pytest.raises(ArgumentError, match="filled outside"):
            adapter.run(ids[:, :1], cache=cache)
        three = lp.Scale(factor=torch.ones(3), layers=0)
        with lp.editing(model, three), pytest.raises(ArgumentError, match="3 texts"):
            model(ids)
    assert hooks_of(model) == 0


def test_our_calls_inside_the_block_are_edited_and_say_so(model, vector):
    edit = lp.Add(vector, layers=0, positions=positions.at(-1))
    plain = lp.score(model, TEXTS[2], edits=edit).tokens["loss"]
    with lp.editing(model, edit):
        inside = lp.score(model, TEXTS[2], chunk=3)
    np.testing.assert_allclose(inside.tokens["loss"], plain, atol=1e-4)
    assert inside.provenance["user_hooks"]


def test_gradients_flow_through_edits_and_match_differences(model, vector):
    ids = model.to_tokens(TEXTS[0])
    scale = torch.tensor(1.0, requires_grad=True)

    def loss(s):
        with lp.editing(model, lp.Add(vector, layers=1, scale=s, positions=positions.front(1))):
            logits = model(ids)[0]
        return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])

    (gradient,) = torch.autograd.grad(loss(scale), scale)
    step = 1e-2
    with torch.no_grad():
        slope = (loss(torch.tensor(1 + step)) - loss(torch.tensor(1 - step))) / (2 * step)
    assert float(gradient) == pytest.approx(float(slope), rel=2e-2, abs=1e-4)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: lp.forward(m, ""), "empty"),
        (lambda m: lp.forward(m, []), "no texts"),
        (lambda m: lp.forward(m, [[1, 2], []]), "non-empty"),
        (lambda m: lp.forward(m, [10**9, 1]), "vocabulary"),
        (lambda m: lp.score(m, "word " * 5000), "context"),
        (lambda m: lp.generate(m, "a", max_new_tokens=10**6), "context"),
        (lambda m: lp.generate(m, "a", max_new_tokens=0), "positive"),
        (lambda m: lp.generate(m, "a", temperature=-1.0), "temperature"),
        (lambda m: lp.generate(m, "a", temperature=1.0, top_p=0.0), "top_p"),
        (lambda m: lp.generate(m, "a", temperature=1.0, top_k=0), "top_k"),
        (lambda m: lp.generate(m, "a", seed=-1), "seed"),
        (lambda m: lp.forward(m, "a", layers=77), "layers=77"),
        (lambda m: lp.forward(m, "a", bos="yes"), "bos="),
        (lambda m: lp.score(m, ["a", "b", "c"], prompt=["x", "y"]), "2 prompts for 3 texts"),
        (lambda m: lp.score(m, "a", chunk=0), "chunk=0"),
        (lambda m: lp.score(m, "a", batch_tokens=0), "batch_tokens=0"),
        (lambda m: lp.forward(m, ["a", "b"], edits=lp.Scale(layers=0, factor=torch.ones(3))),
         "3 texts"),
        (lambda m: lp.forward(m, "a", edits=["add"]), "not an edit"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_the_forward_pass(model, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(model)
    assert hooks_of(model) == 0
