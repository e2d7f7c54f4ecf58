"""Scores under late layers that see the next token: equal to the loop, and to the plain model at 0."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.interpolation import InterpolatedScore, loss, score
from lensprobe.interpolation import texts as texts_module
from lensprobe.interpolation.blend import resolve_blend
from lensprobe.interpolation.content import Content
from lensprobe.models.adapter import adapter_for
from lensprobe.models.copying import copied, named_weights
from lensprobe.running.session import Session, part, prompt_step
from lensprobe.tokens import TokenBatch

HOME = sys.modules["lensprobe.interpolation.score"]
ROWS = [[0, 40, 41, 300, 7, 90, 12, 12], [5, 9], [0, 8, 200, 13, 99]]
SOME = {"layer": [0, 2], "weight": [0.6, 0.3]}


@torch.no_grad()
def loop(model, ids, **options) -> torch.Tensor:
    """Logits `[pos d_vocab]`: a pass of its own for every token."""
    adapter = adapter_for(model)
    batch = TokenBatch.pad(adapter, [ids])
    content, step, out = Content(resolve_blend(adapter, **options)), prompt_step(batch), []
    with Session(adapter, (), content.hooks()) as session:
        for end in range(1, len(ids) + 1):
            now = part(step, 0, end)
            content.announce(now, batch.ids[:, :end])
            found = session.read(now, batch.ids[:, :end])
            assert found is not None
            out.append(found[0, -1])
    return torch.stack(out)


def scored(model, texts=ROWS, **options) -> InterpolatedScore:
    found = score(model, texts, **{"progress": False, **options})
    assert isinstance(found, InterpolatedScore)
    return found


def test_losses_and_ranks_equal_the_loop(decoder):
    tokens = scored(decoder, **SOME).tokens
    for text, ids in enumerate(ROWS):
        logs = loop(decoder, ids, **SOME).log_softmax(-1)[:-1]
        target = torch.tensor(ids[1:])
        own = logs.gather(-1, target[:, None])
        mine = tokens[tokens["text"] == text]
        close(mine["loss"], -own[:, 0])
        close(mine["probability"], own[:, 0].exp())
        # A rank may hang on a difference in the last digit; the one of a clear order may not.
        assert np.asarray(mine["rank"]) == pytest.approx((logs > own).sum(-1).numpy() + 1, abs=1)
        assert mine["position"].tolist() == list(range(1, len(ids)))
        assert mine["id"].tolist() == ids[1:]


def test_weight_zero_is_the_plain_model(decoder):
    found = scored(decoder, layer=1, weight=0)
    unedited = lp.score(decoder, ROWS)
    assert not isinstance(unedited, Plan)
    plain = unedited.tokens["loss"].dropna()
    close(found.tokens["loss"], plain)
    close(found.tokens["plain_loss"], plain)
    assert (found.texts["change"] == 0).all() and found.loss == found.plain_loss


def test_almost_nothing_through_two_streams_is_almost_the_plain_model(decoder):
    found = scored(decoder, layer=1, weight=1e-9).tokens
    close(found["loss"], found["plain_loss"])


def test_the_target_moves_its_own_loss_and_no_earlier_one(decoder):
    """The loss at j is that of the same distribution read at another token; all before is as it was."""
    ids, at = ROWS[0], 4
    other = [*ids[:at], 250, *ids[at + 1 :]]
    before, after = (scored(decoder, [row], **SOME).tokens for row in (ids, other))
    logs = loop(decoder, ids, **SOME).log_softmax(-1)[at - 1]
    close(before["loss"][: at - 1], after["loss"][: at - 1])
    close(before["loss"][at - 1], -logs[ids[at]])
    close(after["loss"][at - 1], -logs[250])
    assert abs(before["loss"][at] - after["loss"][at]) > 1e-4


def test_batches_do_not_matter(decoder):
    together = scored(decoder, **SOME)
    one_by_one = scored(decoder, batch_tokens=1, **SOME)
    close(together.tokens["loss"], one_by_one.tokens["loss"])


def test_texts_are_means_of_their_tokens(tiny_llama):
    found = scored(tiny_llama, **SOME)
    mean = found.tokens.groupby("text")["loss"].mean()
    close(found.texts["loss"], mean)
    close(found.texts["change"], found.texts["loss"] - found.texts["plain_loss"])
    assert found.texts["count"].tolist() == [7, 1, 4]
    assert found.loss == pytest.approx(found.tokens["loss"].mean(), abs=1e-6)
    value, low, high = found.change()
    assert value == pytest.approx(found.loss - found.plain_loss, abs=1e-6)
    assert low <= value <= high


def test_without_a_reference_nothing_plain_is_said(tiny_llama):
    found = scored(tiny_llama, reference=False, **SOME)
    close(found.tokens["loss"], scored(tiny_llama, **SOME).tokens["loss"])
    assert found.tokens["plain_loss"].isna().all() and np.isnan(found.plain_loss)


def test_only_surprising_tokens_are_shown(decoder):
    plain = scored(decoder, layer=1, weight=0.8).tokens["plain_probability"]
    everywhere = scored(decoder, layer=1, weight=0.8, below=1.0).tokens["loss"]
    close(everywhere, scored(decoder, layer=1, weight=0.8).tokens["loss"])
    nowhere = scored(decoder, layer=1, weight=0.8, below=0.999 * float(plain.min())).tokens
    close(nowhere["loss"], nowhere["plain_loss"])


# ---- corpora --------------------------------------------------------------------------------------


def test_long_texts_overlap_and_every_token_counts_once(tiny_llama):
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 300, (45,), generator=random).tolist()
    found = scored(tiny_llama, [ids, ids[:9]], layer=1, weight=0.4, length=16)
    mine = found.tokens[found.tokens["text"] == 0]
    assert mine["position"].tolist() == list(range(1, 45))
    assert mine["id"].tolist() == ids[1:]
    assert found.texts["count"].tolist() == [44, 8]
    assert any("4 tokens of the one before read again" in n for n in found.provenance["notes"])
    # The second window begins 4 tokens before the first one ends.
    window = scored(tiny_llama, [ids[12:28]], layer=1, weight=0.4).tokens
    close(np.asarray(mine["loss"])[15:27], np.asarray(window["loss"])[3:])


def test_scores_of_shards_merge(tiny_llama):
    whole = scored(tiny_llama, **SOME)
    parts = [scored(tiny_llama, ROWS[:1], **SOME), scored(tiny_llama, ROWS[1:], **SOME)]
    merged = parts[0].merge(parts[1])
    for name in ("text", "position", "id"):
        assert merged.tokens[name].tolist() == whole.tokens[name].tolist()
    close(merged.tokens["loss"], whole.tokens["loss"])
    close(merged.texts["loss"], whole.texts["loss"])
    assert merged.provenance["documents"] == 3
    assert merged.loss == pytest.approx(whole.loss, abs=1e-6)
    with pytest.raises(ArgumentError, match="blend differs"):
        whole.merge(scored(tiny_llama, layer=1, weight=0.5))


def test_memory_that_runs_out_halves_the_batch(tiny_llama, monkeypatch):
    real, sizes = HOME.scored, []

    def tight(blend, batch, *, reference):
        sizes.append(len(batch.windows))
        if len(batch.windows) > 1:
            raise MemoryError
        return real(blend, batch, reference=reference)

    expected = scored(tiny_llama, **SOME)
    monkeypatch.setattr(HOME, "scored", tight)
    found = scored(tiny_llama, **SOME)
    close(found.tokens["loss"], expected.tokens["loss"])
    assert max(sizes) == 3 and any("halved" in note for note in found.provenance["notes"])


def test_an_interrupt_keeps_what_was_finished(tiny_llama, monkeypatch):
    real, calls = HOME.scored, []

    def stops(blend, batch, *, reference):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(blend, batch, reference=reference)

    monkeypatch.setattr(HOME, "scored", stops)
    with pytest.raises(lp.Interrupted) as caught:
        scored(tiny_llama, batch_tokens=1, **SOME)
    partial = caught.value.partial
    assert len(partial.texts) == 1 and not partial.provenance["complete"]
    calls[:] = [1]
    with pytest.raises(lp.Interrupted, match="before the first"):
        scored(tiny_llama, **SOME)


def test_a_saved_score_comes_back(tiny_llama, tmp_path):
    found = scored(tiny_llama, **SOME)
    found.save(tmp_path / "score.lp")
    again = lp.open(tmp_path / "score.lp")
    assert again.summary() == found.summary()
    assert again.tokens.equals(found.tokens)


def test_a_plan_costs_no_whole_run(tiny_llama):
    plan = score(tiny_llama, ROWS, dry_run=True, **SOME)
    assert isinstance(plan, Plan)
    assert plan.costs["tokens"].iloc[0] == sum(map(len, ROWS))


def test_hooks_of_the_users_are_named_and_nothing_is_shared(tiny_llama):
    point = tiny_llama.hook_dict["blocks.3.hook_resid_post"]
    expected = scored(tiny_llama, **SOME)
    point.add_hook(lambda stream, hook: stream)
    try:
        found = scored(tiny_llama, **SOME)
    finally:
        point.fwd_hooks.pop().hook.remove()
    close(found.tokens["loss"], expected.tokens["loss"])
    assert found.provenance["user_hooks"]
    assert any("hooks of your own" in note for note in found.provenance["notes"])


def test_what_nobody_sees_is_said(tiny_llama):
    found = scored(tiny_llama, layer=3, weight=1.0)
    assert (found.texts["change"] == 0).all()
    assert any("layer 3 is the last" in note for note in found.provenance["notes"])


# ---- gradients ------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_score(decoder):
    found = loss(decoder, ROWS, **SOME)
    assert found.ndim == 0 and found.requires_grad
    assert float(found.detach()) == pytest.approx(scored(decoder, **SOME).loss, abs=1e-5)


@pytest.mark.parametrize("target", ["embedding", "early"])
def test_gradients_in_the_weights_match_finite_differences(decoder, target):
    layers = [0, 1, 2]
    at = torch.tensor([0.3, 0.5, 0.2], requires_grad=True)
    value = loss(decoder, ROWS, layer=layers, weight=at, target=target)
    (gradient,) = torch.autograd.grad(value, at)
    step = 0.02
    for which in range(3):
        shift = torch.zeros(3)
        shift[which] = step
        up, down = (
            float(loss(decoder, ROWS, layer=layers, weight=at.detach() + s, target=target).detach())
            for s in (shift, -shift)
        )
        assert (up - down) / (2 * step) == pytest.approx(float(gradient[which]), abs=2e-3)
    assert gradient.abs().max() > 5e-3


def test_gradients_in_the_model_match_finite_differences(decoder):
    model = copied(decoder)
    parameter = next(p for n, p in named_weights(model).items() if "embed" in n and p.ndim == 2)
    value = loss(model, ROWS, **SOME)
    (gradient,) = torch.autograd.grad(value, parameter)
    direction = gradient / gradient.norm()
    step = 0.02
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * step * direction)
        values.append(float(loss(model, ROWS, **SOME).detach()))
        with torch.no_grad():
            parameter.sub_(sign * step * direction)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


# ---- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "layer=None"),
        ({"layer": 1}, "weight=None"),
        ({"layer": 4, "weight": 0.5}, "layer=4"),
        ({"layer": 1, "weight": 1.5}, "extrapolate=True"),
        ({"layer": 1, "weight": 0.5, "length": 1}, "length=1"),
        ({"layer": 1, "weight": 0.5, "length": 999}, "context is 256"),
        ({"layer": 1, "weight": 0.5, "reference": 2}, "reference=2"),
        ({"layer": 1, "weight": 0.5, "seed": -1}, "seed=-1"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_pass(tiny_gpt2, options, words, monkeypatch):
    adapter = adapter_for(tiny_gpt2)
    monkeypatch.setattr(type(adapter), "run", lambda *a, **k: pytest.fail("a pass was run"))
    with pytest.raises(ArgumentError, match=words):
        score(tiny_gpt2, ROWS, **options)


@pytest.mark.parametrize(
    ("texts", "words"),
    [([[7]], "shorter than 2 tokens"), ([""], "empty"), ([], "no text"), ([[1, 999]], "999")],
)
def test_texts_that_cannot_be_scored_are_refused(tiny_gpt2, texts, words):
    with pytest.raises(ArgumentError, match=words):
        score(tiny_gpt2, texts, layer=1, weight=0.5)


def test_a_tokenizer_of_another_model_is_noticed(tiny_gpt2, monkeypatch):
    window = texts_module.Window(0, 0, (1, 5000))
    monkeypatch.setattr(texts_module.Corpus, "windows", lambda self: iter([window]), raising=True)
    with pytest.raises(ArgumentError, match="is the tokenizer the model's own"):
        score(tiny_gpt2, ["hello"], layer=1, weight=0.5)


def test_one_token_has_no_loss(tiny_gpt2):
    with pytest.raises(ArgumentError, match="one token"):
        loss(tiny_gpt2, [[3]], layer=1, weight=0.5)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="encoder-decoder"):
        score(tiny_t5, ["hello"], layer=0, weight=0.5)


@pytest.mark.weights
def test_a_real_model_equals_the_loop(smollm2):
    ids = adapter_for(smollm2).tokenizer.encode("Once upon a time there lived a cat in a red hat")
    found = scored(smollm2, [ids], layer=15, weight=0.5, reference=False).tokens["loss"]
    logs = loop(smollm2, ids, layer=15, weight=0.5).log_softmax(-1)[:-1]
    close(found, -logs.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0])
