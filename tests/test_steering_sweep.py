"""A sweep equals independent runs, cell by cell, whatever it shares between them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_adapter import block_calls
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.running.fanning import Fan
from lensprobe.running.session import Session, prompt_step
from lensprobe.steering import Question, SteeringVector, SteeringVectors, sweep
from lensprobe.steering.subjects import subjects
from lensprobe.steering.sweep_result import _Cells

SCALES = (-2.0, 0.0, 1.5)
QUESTIONS = [
    Question("Do you like it here?\n (A) Yes\n (B) No", " (A)", " (B)"),
    Question("Is the house old?\n (A) No it is not\n (B) Yes it is", " (B)", " (A)"),
    Question("Is it so?", " Yes", " No"),
]
TEXTS = ["the small house stood by the river", "a dog", "one two three four five"]


def vector(model, layer=1, *, tokens=None, seed=0):
    adapter = adapter_for(model)
    shape = (adapter.d_model,) if tokens is None else (tokens, adapter.d_model)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, layer)


def cell(frame: pd.DataFrame, **where) -> pd.Series:
    """The one row that these values name."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def asked(model, item: Question, edits):
    """Log-odds, probability and logits of one question, in a pass of its own."""
    adapter = adapter_for(model)
    (subject,) = subjects(adapter, [item], bos="auto", limit=None, column=None)
    row = subject.rows[0]
    ids = torch.tensor([row.tokens.ids])
    session = Session(adapter, edits)
    batch = lp.TokenBatch.pad(adapter, [row.tokens])
    step = prompt_step(batch, prompts=np.array([row.prompt]))
    with session, torch.no_grad():
        logits = session.read(step, ids)[0, -1].double()
    return logits, (logits[row.answers[0]] - logits[row.answers[1]]).item()


@pytest.mark.parametrize("where", [None, lp.positions.all(), lp.positions.at(-1)])
def test_every_question_equals_a_run_of_its_own(decoder, where):
    v = vector(decoder)
    result = sweep(decoder, QUESTIONS, vector=v, scales=SCALES, positions=where)
    used = where or lp.positions.after_prompt()
    for layer in range(adapter_for(decoder).n_layers):
        for scale in SCALES:
            for text, item in enumerate(QUESTIONS):
                edit = v.add(scale, used, layers=layer)
                logits, odds = asked(decoder, item, [edit])
                plain, _ = asked(decoder, item, [])
                log_p, log_q = logits.log_softmax(-1), plain.log_softmax(-1)
                gap = (log_p.exp() * (log_p - log_q)).sum().item()
                wanted = {"log_odds": odds, "probability": 1 / (1 + np.exp(-odds)), "kl": gap}
                for measure, value in wanted.items():
                    got = cell(
                        result.documents, measure=measure, text=text, layer=layer, scale=scale
                    )
                    close(got["value"], value)


@pytest.mark.parametrize("where", [None, lp.positions.all(), lp.positions.at(-2)])
def test_every_text_equals_a_score_of_its_own(decoder, where):
    v = vector(decoder)
    result = sweep(decoder, TEXTS, vector=v, scales=SCALES, positions=where, layers=[0, 2, 3])
    used = where or lp.positions.all() - lp.positions.front(1)
    for layer in (0, 2, 3):
        for scale in SCALES:
            edit = v.add(scale, used, layers=layer)
            scored = lp.score(decoder, TEXTS, edits=[edit]).tokens
            for text in range(len(TEXTS)):
                losses = scored[scored["text"] == text]["loss"].to_numpy()
                # From the first edited token on; a loss stands with the token that is predicted.
                first = {"all()": 1, "at(-2)": len(losses) - 1}.get(used.describe(), 2)
                got = cell(result.documents, measure="loss", text=text, layer=layer, scale=scale)
                assert got["count"] == len(losses) - first
                if got["count"]:
                    close(got["value"], losses[first:].mean())


def test_scale_zero_is_the_plain_model_exactly(decoder):
    result = sweep(decoder, {"a": QUESTIONS, "b": TEXTS}, vector=vector(decoder), scales=SCALES)
    zero = result.effects.query("scale == 0")
    assert (zero["change"] == 0).all() and (zero["change_low"] == 0).all()
    merged = zero.merge(result.plain, on=["group", "measure"])
    close(merged["value_x"], merged["value_y"])
    assert (result.effects.query("measure == 'kl'")["value"] >= 0).all()
    assert (result.effects.query("measure == 'kl' and scale != 0")["value"] > 0).all()


def test_a_text_does_not_feel_its_batch(decoder):
    v = vector(decoder)
    together = sweep(decoder, TEXTS, vector=v, scales=[3.0], layers=2).documents
    for text, alone in enumerate(TEXTS):
        apart = sweep(decoder, [alone], vector=v, scales=[3.0], layers=2).documents
        close(together[together["text"] == text]["value"], apart["value"])


def test_a_mask_for_each_text_follows_its_text(decoder):
    v = vector(decoder)
    lengths = lp.score(decoder, TEXTS).tokens.groupby("text").size()
    mask = np.zeros((len(TEXTS), lengths.max()), dtype=bool)
    for text, place in enumerate((2, 1, 3)):
        mask[text, place] = True
    where = lp.positions.where(mask)
    # One text in a batch, so that a text's number is never its row.
    result = sweep(
        decoder, TEXTS, vector=v, layers=1, scales=[1.0, 2.0], positions=where, batch_tokens=1
    )
    for scale in (1.0, 2.0):
        scored = lp.score(decoder, TEXTS, edits=[v.add(scale, where, layers=1)]).tokens
        for text, place in enumerate((2, 1, 3)):
            losses = scored[scored["text"] == text]["loss"].to_numpy()[place + 1 :]
            got = cell(result.documents, measure="loss", text=text, scale=scale)
            assert got["count"] == len(losses)
            if len(losses):
                close(got["value"], losses.mean())


def test_each_layer_may_have_a_vector_of_its_own(decoder):
    vectors = SteeringVectors([vector(decoder, layer, seed=layer) for layer in (0, 2)])
    result = sweep(decoder, QUESTIONS, vector=vectors, scales=[1.0])
    assert result.provenance["vector"] == "each layer its own"
    assert sorted(result.effects["layer"].unique()) == [0, 2]
    for layer, one in vectors.items():
        alone = sweep(decoder, QUESTIONS, vector=one, layers=layer, scales=[1.0])
        assert alone.provenance["vector"] == "the same at every layer"
        close(result.effects.query("layer == @layer")["value"], alone.effects["value"])


def test_a_vector_for_each_token_goes_to_the_front(decoder):
    v = vector(decoder, tokens=2)
    result = sweep(decoder, TEXTS[:1], vector=v, layers=[1], scales=[2.0])
    assert result.provenance["positions"] == {"texts": "front()"}
    scored = lp.score(decoder, TEXTS[:1], edits=[v.add(2.0)]).tokens["loss"].to_numpy()
    close(result.effects.query("measure == 'loss'")["value"], [scored[1:].mean()])


def test_perplexity_and_ratio_belong_to_the_loss(decoder):
    result = sweep(decoder, TEXTS, vector=vector(decoder), scales=[1.0], layers=1)
    loss, ppl, ratio = (
        cell(result.effects, measure=name) for name in ("loss", "perplexity", "ratio")
    )
    plain = cell(result.plain, measure="perplexity")["value"]
    assert ppl["value"] == pytest.approx(np.exp(loss["value"]))
    assert ratio["value"] == pytest.approx(ppl["value"] / plain)
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert ppl["change"] == pytest.approx(ppl["value"] - plain)
    assert ppl["change_low"] < ppl["change"] < ppl["change_high"]
    counts = result.documents.query("measure == 'loss'")
    mean = (counts["value"] * counts["count"]).sum() / counts["count"].sum()
    assert loss["value"] == pytest.approx(mean)


def test_tokens_that_move_are_named(decoder):
    v = vector(decoder)
    result = sweep(
        decoder, QUESTIONS, vector=v, scales=[0.0, 5.0], layers=[3], measure=["kl", "tokens"]
    )
    assert set(result.effects["measure"]) == {"kl"}
    pairs = [
        (asked(decoder, q, [v.add(5.0, layers=3)])[0], asked(decoder, q, [])[0]) for q in QUESTIONS
    ]
    change = torch.stack([a.softmax(-1) - b.softmax(-1) for a, b in pairs]).mean(0)
    table = result.tokens
    assert set(table["scale"]) == {5.0}
    close(table["change"], change[table["id"].tolist()])
    assert table["id"].iloc[0] == int(change.argmax())
    assert table["change"].iloc[8] == pytest.approx(float(change.min()), abs=1e-6)


def test_lower_blocks_and_the_question_run_once(decoder):
    v = vector(decoder)
    calls, handles = block_calls(decoder)
    sweep(decoder, QUESTIONS[:1], vector=v, layers=[2], scales=[1.0, 2.0, 3.0])
    for handle in handles:
        handle.remove()
    # The question's beginning, its end, and one branch for all scales.
    assert calls == [0, 1, 2, 3] * 2 + [3]


def test_ctrl_c_keeps_the_documents_that_were_finished(decoder, monkeypatch):
    v = vector(decoder)
    whole = sweep(decoder, TEXTS, vector=v, scales=[1.0], layers=1, batch_tokens=1)
    runs = iter([False, True])
    real = Fan.run

    def run(self, *args, **kwargs):
        if next(runs):
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Fan, "run", run)
    with pytest.raises(Interrupted) as caught:
        sweep(decoder, TEXTS, vector=v, scales=[1.0], layers=1, batch_tokens=1)
    partial = caught.value.partial
    assert not partial.provenance["complete"]
    assert partial.provenance["finished"] == {"texts": 1}
    finished = whole.documents["text"].isin(partial.documents["text"])
    close(partial.documents["value"], whole.documents[finished]["value"])


def test_memory_that_runs_out_halves_a_batch_and_counts_nothing_twice(decoder, monkeypatch):
    v = vector(decoder)
    options = {"vector": v, "scales": [2.0], "layers": [1], "measure": ["kl", "tokens"]}
    whole = sweep(decoder, QUESTIONS, **options)
    real = Fan.run

    def run(self, *args, **kwargs):
        if self.rows > 1:
            raise torch.OutOfMemoryError("no")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Fan, "run", run)
    halved = sweep(decoder, QUESTIONS, **options)
    assert any("halved" in note for note in halved.provenance["notes"])
    close(halved.effects["value"], whole.effects["value"])
    close(halved.tokens.sort_values("id")["change"], whole.tokens.sort_values("id")["change"])


def test_a_sweep_is_saved_summed_up_and_asked_for_its_best(decoder, tmp_path):
    result = sweep(decoder, QUESTIONS, vector=vector(decoder), scales=SCALES, layers=[0, 3])
    again = lp.open(result.save(tmp_path / "sweep.zip"))
    pd.testing.assert_frame_equal(again.effects, result.effects)
    assert result.best("kl")["change"] == result.effects.query("measure == 'kl'")["change"].max()
    assert "questions: probability" in result.summary()
    assert "rimsky2023" in result.cite()
    with pytest.raises(ArgumentError, match="this sweep has"):
        result.best("loss")


def test_the_change_in_perplexity_is_resampled_as_a_whole():
    """Where every loss rises by 0.1, perplexity rises more for documents that are harder."""
    losses = np.linspace(2.0, 6.0, 40)
    run = SimpleNamespace(subject=SimpleNamespace(name="a"), vectors={0: None}, scales=(1.0,))
    cells = _Cells(run, "loss", losses[:, None, None] + 0.1, losses, np.ones(40), 0)
    _, ppl, ratio = cells.effects()
    assert ratio["change_low"].iloc[0] == pytest.approx(np.exp(0.1) - 1)
    assert ppl["change"].iloc[0] == pytest.approx(np.exp(4.1) - np.exp(4.0))
    assert ppl["change_high"].iloc[0] > 1.3 * ppl["change_low"].iloc[0]


def test_documents_that_are_not_finite_are_counted_and_left_out(decoder, monkeypatch):
    v = vector(decoder)
    options = {"vector": v, "layers": 1, "scales": [1.0], "batch_tokens": 1}
    whole = sweep(decoder, QUESTIONS, **options).documents.query("measure == 'kl'")
    broken = iter([True, False, False])
    real = Fan.run
    monkeypatch.setattr(
        Fan, "run", lambda self, *a, **k: real(self, *a, **k) * (np.nan if next(broken) else 1.0)
    )
    result = sweep(decoder, QUESTIONS, **options)
    kl = cell(result.effects, measure="kl")
    lost = result.documents.query("measure == 'kl'")["value"].isna().to_numpy()
    assert kl["count"] == 2 and lost.sum() == 1
    close(kl["value"], whole["value"].to_numpy()[~lost].mean())
    assert "questions: kl is not finite somewhere in 1 documents" in result.provenance["notes"]


def test_under_hooks_of_the_user_every_run_has_the_callers_rows(decoder):
    v = vector(decoder)
    adapter = adapter_for(decoder)
    point = adapter.point(adapter.hook_name("resid_post", 0))
    push = vector(decoder, seed=9).add(2.0).vector

    def first_row_only(x, hook):
        return torch.cat([x[:1] + push, x[1:]])

    seen: list[int] = []
    point.add_hook(first_row_only)
    point.add_hook(lambda x, hook: seen.append(len(x)))
    try:
        result = sweep(decoder, ["a dog", "a dog"], vector=v, layers=1, scales=[1e-9, 2e-9])
    finally:
        point.remove_hooks()
    assert set(seen) == {2}
    assert result.effects.query("measure == 'kl'")["value"].max() < 1e-6
    assert any("nothing was shared" in note for note in result.provenance["notes"])


def test_records_are_questions_too(decoder):
    records = [
        {
            "question": item.question,
            "answer_matching_behavior": item.matching,
            "answer_not_matching_behavior": item.not_matching,
        }
        for item in QUESTIONS
    ]
    v = vector(decoder)
    one = sweep(decoder, records, vector=v, layers=1, scales=[1.0])
    close(
        one.effects["value"],
        sweep(decoder, QUESTIONS, vector=v, layers=1, scales=[1.0]).effects["value"],
    )


@pytest.mark.parametrize("measure", ["all", "kl", ["kl", "tokens"]])
def test_a_sweep_is_a_page(decoder, tmp_path, measure):
    texts = {"asks": QUESTIONS, "prose": TEXTS} if measure == "all" else QUESTIONS
    result = sweep(
        decoder, texts, vector=vector(decoder), scales=SCALES, layers=[0, 3], measure=measure
    )
    page = result.to_html(tmp_path / "sweep.html", js="directory").read_text()
    assert "What a steering vector does" in page
    assert f"{adapter_for(decoder).n_layers} layers" in page


def test_a_plan_costs_no_sweep(decoder):
    plan = sweep(decoder, TEXTS, vector=vector(decoder), dry_run=True)
    assert plan.summary()["documents"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vector": None}, "vector=None"),
        ({"scales": []}, "scales"),
        ({"scales": [float("nan")]}, "scales"),
        ({"scales": [1, 1]}, "different"),
        ({"scales": "x"}, "scales"),
        ({"layers": [99]}, "layers"),
        ({"measure": "probability"}, "loss"),
        ({"measure": []}, "measure"),
        ({"measure": None}, "measure"),
        ({"positions": lp.positions.last()}, "compare_persistence"),
        ({"positions": "all"}, "selector"),
        ({"positions": lp.positions.at(-1)}, "nothing would be scored"),
        ({"positions": lp.positions.at(50)}, "position 50"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_bad_options(decoder, options, words):
    with pytest.raises(ArgumentError, match=words):
        sweep(decoder, TEXTS, **{"vector": vector(decoder), **options})


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({}, "empty mapping"),
        ([], "texts"),
        (["x" * 5000], "context"),
        ([Question("Is it?", " Yes", " Yes!")], "do not part"),
        ("nowhere.jsonl", "no such file"),
    ],
)
def test_bad_texts(decoder, texts, words):
    with pytest.raises(ArgumentError, match=words):
        sweep(decoder, texts, vector=vector(decoder))


def test_vectors_that_do_not_fit(decoder):
    with pytest.raises(ArgumentError, match="needs"):
        sweep(decoder, TEXTS, vector=SteeringVector(np.ones(7), 0))
    vectors = SteeringVectors([vector(decoder, 1)])
    with pytest.raises(ArgumentError, match="no vector for"):
        sweep(decoder, TEXTS, vector=vectors, layers=[0, 1])


def test_encoder_decoders_are_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        sweep(tiny_t5, TEXTS, vector=SteeringVector(np.ones(4), 0))
