"""Two streams in one pass against the definition: a whole pass of its own for every token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import write_tokenizer
from tolerance import close
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

import lensprobe as lp
from lensprobe.interpolation.blend import resolve_blend, steady_norm
from lensprobe.interpolation.blended import Blended, plain_path
from lensprobe.models.adapter import adapter_for
from lensprobe.models.streams import unfit
from lensprobe.models.weights import weights_of
from lensprobe.running.streams import Streams
from lensprobe.tokens import TokenBatch

LENGTHS = (11, 2, 7)
CHOICES = [
    {"layer": 1, "weight": 0.5},
    {"layer": [0, 2], "weight": [0.7, 0.3], "norm": "raw"},
    {"layer": [1, 2, 3], "weight": 1.0, "target": "unembedding", "norm": 3.0},
    {"layer": [1, 2], "weight": 0.6, "target": "early"},
    {"layer": 1, "weight": 0.6, "target": 1, "keep_first": False},
    {"layer": 1, "weight": 1.5, "below": 0.003, "extrapolate": True},
]


def sequences(seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return [[0, *torch.randint(1, 300, (n - 1,), generator=random).tolist()] for n in LENGTHS]


def padded(model, rows) -> TokenBatch:
    return TokenBatch.pad(adapter_for(model), rows)


@torch.no_grad()
def logits(model, rows, **options) -> torch.Tensor:
    adapter = adapter_for(model)
    blend = resolve_blend(adapter, **options)
    read = Blended(adapter, padded(model, rows), blend.layers, early=blend.early)
    assert read.streams is not None
    return read.logits(blend)


@torch.no_grad()
def unedited(model, batch) -> torch.Tensor:
    out = adapter_for(model).run(batch.ids, mask=batch.mask)
    assert out is not None
    return out


@torch.no_grad()
def by_hand(model, ids, *, layer, weight, target="embedding", norm="match", keep_first=True,
            below=None, extrapolate=False):  # fmt: skip
    """Logits `[pos d_vocab]` by TransformerLens's own hooks and the formula written out."""
    layers = [layer] if isinstance(layer, int) else layer
    weights = [weight] * len(layers) if isinstance(weight, float) else weight
    ids = torch.tensor([ids])
    chance = model(ids, return_type="logits")[0].softmax(-1)
    norm_weights = weights_of(adapter_for(model)).norm("ln_final")
    assert norm_weights is not None
    gain = norm_weights.gain
    out = []
    for end in range(1, ids.shape[1] + 1):
        held = {}

        def write(stream, hook, w, end=end, held=held):
            changed = stream.clone()
            for t in range(1 if keep_first else 0, end - 1):
                token = int(ids[0, t + 1])
                if below is not None and not chance[t, token] < below:
                    continue
                if target == "embedding":
                    e = model.W_E[token]
                elif target == "unembedding":
                    e = model.W_U[:, token] * gain
                else:
                    e = held["early"][0, t + 1]
                h = stream[0, t]
                if norm == "match":
                    e = e * steady_norm(h) / steady_norm(e)
                elif norm != "raw":
                    e = e * norm / e.norm()
                changed[0, t] = (1 - w) * h + w * e
            return changed

        def keep(stream, hook, held=held):
            held["early"] = stream.clone()

        early = 0 if target == "early" else target
        hooks: list[tuple[str, Any]] = [(f"blocks.{early}.hook_resid_post", keep)]
        hooks = hooks if isinstance(early, int) else []
        for at, w in zip(layers, weights, strict=True):
            hooks.append(
                (f"blocks.{at}.hook_resid_post", lambda s, hook, w=w, f=write: f(s, hook, w))
            )
        got = model.run_with_hooks(ids[:, :end], return_type="logits", fwd_hooks=hooks)
        out.append(got[0, -1])
    return torch.stack(out)


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_one_pass_equals_the_definition(shaped, options):
    rows = sequences()
    together = logits(shaped, rows, **options)
    for row, ids in enumerate(rows):
        close(together[row, : len(ids)], by_hand(shaped, ids, **options))


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_the_loop_that_stands_in_for_it_equals_the_definition(decoder, options):
    adapter = adapter_for(decoder)
    blend = resolve_blend(adapter, **options)
    batch = padded(decoder, sequences())
    with torch.no_grad():
        read = Blended(adapter, batch, blend.layers, early=blend.early)
        read.streams = None
        loop = read.logits(blend)
    close(loop[batch.mask], logits(decoder, sequences(), **options)[batch.mask])


# ---- no leak of the future ------------------------------------------------------------------------


@pytest.mark.parametrize("options", CHOICES, ids=str)
@settings(max_examples=3, deadline=None)
@given(at=st.integers(1, 10), token=st.integers(1, 300), seed=st.integers(0, 3))
def test_no_prediction_knows_a_token_that_has_not_come(decoder, options, at, token, seed):
    ids = sequences(seed)[0]
    other = [*ids[:at], token if token != ids[at] else token + 1, *ids[at + 1 :]]
    mine, theirs = (logits(decoder, [row], **options)[0] for row in (ids, other))
    # Column at - 1 predicts the token that was changed: not a single number of it may move.
    close(mine[:at], theirs[:at])
    assert (mine[at:] - theirs[at:]).abs().amax(-1).min() > 1e-4


def test_the_future_has_no_gradient_either(decoder):
    """What is blended in at t reaches no prediction up to t, by one number."""
    adapter = adapter_for(decoder)
    ids = sequences()[0]
    blend = resolve_blend(adapter, layer=1, weight=0.5)
    read = Blended(adapter, padded(decoder, [ids]), (1,))
    moved = torch.zeros(1, len(ids), adapter.d_model, requires_grad=True)
    places = blend.places(read.batch.positions, read.known)
    target = blend.rows(read.following) + moved
    assert read.streams is not None
    out = read.streams.edited({1: lambda h: blend.apply(h, target, 1, places)})
    for column in (0, 4, len(ids) - 1):
        (gradient,) = torch.autograd.grad(out[0, column].square().sum(), moved, retain_graph=True)
        reached = gradient[0].abs().amax(-1) > 0
        assert reached.tolist() == [0 < t < column for t in range(len(ids))]


def test_the_newest_position_predicts_from_its_own_plain_residual(decoder):
    """The token after j changes what j looks like to others, and nothing j says itself."""
    ids = sequences()[0]
    plain = logits(decoder, [ids], layer=1, weight=0.0)[0]
    blended = logits(decoder, [ids], layer=1, weight=1.0)[0]
    # Columns 0 and 1 see no blended position: 0 is kept, and 1 is itself the newest.
    close(blended[:2], plain[:2])
    assert (blended[2:] - plain[2:]).abs().amax(-1).min() > 1e-3


# ---- identities -----------------------------------------------------------------------------------


def test_weight_zero_is_the_plain_pass_and_almost_zero_almost(shaped):
    batch = padded(shaped, sequences())
    plain = unedited(shaped, batch)
    assert torch.equal(logits(shaped, sequences(), layer=1, weight=0.0), plain)
    close(logits(shaped, sequences(), layer=1, weight=1e-9)[batch.mask], plain[batch.mask])


def test_after_the_last_block_nobody_looks_back(decoder):
    batch = padded(decoder, sequences())
    plain = unedited(decoder, batch)
    assert torch.equal(logits(decoder, sequences(), layer=3, weight=1.0), plain)
    mixed = logits(decoder, sequences(), layer=[2, 3], weight=0.4)
    close(mixed, logits(decoder, sequences(), layer=2, weight=0.4))


@torch.no_grad()
def test_weight_one_before_the_last_block_is_that_block_over_embeddings(llama_folder, tiny_bridge):
    """Closed form with the raw transformers model: its last block, norm and unembedding."""
    raw = AutoModelForCausalLM.from_pretrained(llama_folder, attn_implementation="eager").eval()
    ids = torch.tensor([sequences()[0]])
    states = raw.model(ids, output_hidden_states=True).hidden_states[3]
    rows = raw.model.embed_tokens.weight[ids]
    got = logits(tiny_bridge, ids.tolist(), layer=2, weight=1.0, norm="raw")[0]
    for j in range(ids.shape[1]):
        # Position 0 as it is, then embeddings of tokens 2 to j at positions 1 to j - 1, then j.
        stream = torch.cat([states[:, :1], rows[:, 2 : j + 1], states[:, max(j, 1) : j + 1]], dim=1)
        place = torch.arange(stream.shape[1])[None]
        turns = raw.model.rotary_emb(stream, place)
        causal = torch.full((stream.shape[1],) * 2, torch.finfo(torch.float32).min).triu(1)
        out = raw.model.layers[3](
            stream, attention_mask=causal[None, None], position_embeddings=turns
        )
        out = out[0] if isinstance(out, tuple) else out
        close(got[j], raw.lm_head(raw.model.norm(out))[0, -1])


@settings(max_examples=3, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.sampled_from([0.2, 1.0]))
def test_a_batch_equals_its_texts_alone(decoder, lengths, weight):
    random = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(1, 300, (n,), generator=random).tolist() for n in lengths]
    together = logits(decoder, rows, layer=[0, 1], weight=weight)
    for row, ids in enumerate(rows):
        alone = logits(decoder, [ids], layer=[0, 1], weight=weight)[0]
        close(together[row, : len(ids)], alone)


# ---- what is not done, and what is not left -------------------------------------------------------


def test_lower_blocks_run_once_and_upper_ones_twice(decoder):
    calls = [0] * 4
    handles = [
        block.attn.register_forward_pre_hook(
            lambda module, args, n=n: calls.__setitem__(n, calls[n] + 1)
        )
        for n, block in enumerate(decoder.blocks)
    ]
    adapter = adapter_for(decoder)
    batch = padded(decoder, sequences())
    unfit(adapter, 11)
    calls[:] = [0] * 4
    try:
        with torch.no_grad():
            streams = Streams(adapter, batch, [1], logits=False)
            streams.edited({1: lambda h: h * 1.5})
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [1, 1, 2, 2]


def test_nothing_stays_on_the_model(decoder):
    before = [len(point.fwd_hooks) for point in decoder.hook_dict.values()]
    logits(decoder, sequences(), layer=[0, 1], weight=0.5)
    assert [len(point.fwd_hooks) for point in decoder.hook_dict.values()] == before
    assert all("forward" not in block.__dict__ for block in decoder.blocks)


def test_hooks_of_the_users_see_whole_passes(decoder):
    seen = []
    point = decoder.hook_dict["blocks.0.hook_resid_post"]
    expected = logits(decoder, sequences()[:1], layer=1, weight=0.5)
    point.add_hook(lambda stream, hook: seen.append(stream.shape[1]))
    try:
        adapter = adapter_for(decoder)
        assert "hooks of your own" in plain_path(adapter, 11)
        blend = resolve_blend(adapter, layer=1, weight=0.5)
        with torch.no_grad():
            read = Blended(adapter, padded(decoder, sequences()[:1]), (1,), logits=False)
            got = read.logits(blend)
    finally:
        point.fwd_hooks.pop().hook.remove()
    assert read.streams is None
    assert seen == list(range(1, 12))
    close(got, expected)


def test_windows_narrower_than_the_text_take_the_loop(tmp_path):
    config = MistralConfig(
        vocab_size=write_tokenizer(tmp_path), hidden_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, intermediate_size=64,
        sliding_window=6,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path)
    model = lp.load(tmp_path)
    adapter = adapter_for(model)
    assert unfit(adapter, 6) == ""
    assert unfit(adapter, 7) == "attention slides over 6 tokens"
    rows = sequences()
    blend = resolve_blend(adapter, layer=0, weight=0.5)
    with torch.no_grad():
        read = Blended(adapter, padded(model, rows), (0,))
        got = read.logits(blend)
    assert read.streams is None
    close(got[0], by_hand(model, rows[0], layer=0, weight=0.5))


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_columns_some_at_a_time_change_nothing(decoder, columns, monkeypatch):
    from lensprobe.models import streams

    rows = sequences(5)
    for choice in CHOICES[:2]:
        whole = logits(decoder, rows, **choice)
        monkeypatch.setattr(streams, "COLUMNS", columns)
        got = logits(decoder, rows, **choice)
        monkeypatch.undo()
        for row, length in enumerate(LENGTHS):
            close(got[row, :length], whole[row, :length])


def test_a_gradient_goes_through_columns_read_apart(tiny_llama, monkeypatch):
    from lensprobe.models import streams

    adapter, rows = adapter_for(tiny_llama), sequences(6)
    found = []
    for columns in (128, 3):
        monkeypatch.setattr(streams, "COLUMNS", columns)
        weight = torch.tensor(0.4, requires_grad=True)
        read = Streams(adapter, padded(tiny_llama, rows[:1]), (1,), logits=False)
        out = read.edited({1: lambda residual, w=weight: residual * (1 + w)})
        found.append(torch.autograd.grad(out.square().mean(), weight)[0])
    close(found[0], found[1])


def test_a_model_that_reads_a_second_stream_differently_is_found_out(tiny_gpt2, monkeypatch):
    from lensprobe.models import streams

    adapter = adapter_for(tiny_gpt2)
    real = streams.beside
    monkeypatch.setattr(streams, "_TRIED", type(streams._TRIED)())
    monkeypatch.setattr(streams, "beside", lambda *a, **k: real(*a, **k) * 1.1)
    assert "reads a second stream differently" in unfit(adapter, 8)

    def refuses(*args, **kwargs):
        raise TypeError("no such mask")

    monkeypatch.setattr(streams, "_TRIED", type(streams._TRIED)())
    monkeypatch.setattr(streams, "beside", refuses)
    assert "takes no masks of one's own (TypeError)" in unfit(adapter, 8)
