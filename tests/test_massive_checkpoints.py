"""Checkpoints: kept on the way, read one by one, and a model that starts from nothing."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from test_massive_training import PLACE, SMALL, TEXTS

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import Recipe, over_checkpoints, train_and_watch, untrained
from lensprobe.models import turns
from lensprobe.models.adapter import adapter_for


@pytest.fixture(scope="module")
def kept(gpt2_folder, tmp_path_factory):
    """A short training of a bridge with its checkpoints, and the model it began with."""
    out = tmp_path_factory.mktemp("kept")
    model = lp.load(gpt2_folder)
    seen = train_and_watch(
        model,
        TEXTS,
        optimizer=Recipe("adamw", learning_rate=1e-2),
        out=out,
        checkpoints=2,
        every=2,
        **{**SMALL, **PLACE},
    )
    return out / "adamw" / "seed-0", seen, model


def test_checkpoints_are_the_model_at_their_step(kept):
    folder, seen, model = kept
    assert seen.checkpoints["step"].tolist() == [0, 2, 4]
    assert [path.name for path in sorted(folder.glob("step-*"))] == [
        "step-00000000", "step-00000002", "step-00000004",
    ]  # fmt: skip
    ids = torch.tensor([[1, 2, 3, 4]])
    first = lp.load(folder / "step-00000000")
    assert torch.equal(first(ids), model(ids))
    place = seen.provenance["watched_place"]
    for step in (0, 2, 4):
        loaded = lp.load(folder / f"step-{step:08d}")
        row = seen.steps.set_index("step").loc[step]
        batch = loaded.to_tokens(TEXTS[0])[:, :1]
        _, cache = loaded.run_with_cache(batch)
        value = cache[f"blocks.{place['layer']}.hook_resid_post"][0, 0, place["dim"]]
        assert float(value) == pytest.approx(row["value"], rel=1e-4)


def test_a_scan_of_every_checkpoint(kept):
    folder, seen, _ = kept
    series = over_checkpoints(folder, TEXTS)
    assert series.checkpoints["step"].tolist() == [0.0, 2.0, 4.0]
    assert (series.checkpoints["error"] == "").all()
    assert series.table == "layers"
    assert series.analysis == "massive.scan"
    last = lp.massive.scan(lp.load(folder / "step-00000004"), TEXTS, progress=False)
    own = series.values[series.values["step"] == 4.0]
    assert own["value"].tolist() == last.layers["value"].tolist()
    again = over_checkpoints(list(seen.checkpoints["path"]), (text for text in TEXTS))
    assert again.values.equals(series.values)


def test_any_analysis_and_any_table(kept, tmp_path):
    folder, *_ = kept
    series = over_checkpoints(
        folder, TEXTS, analysis=partial(lp.sinks.scan, length=8), table="profile"
    )
    assert series.checkpoints["length"].tolist() == [8, 8, 8]
    assert set(series.values.columns) >= {"source", "step", "layer", "head", "entropy"}
    again = lp.open(series.save(tmp_path / "series.zip"))
    assert again.values.equals(series.values)
    assert again.summary() == series.summary()
    assert "biderman2023pythia" in series.cite()


def test_a_failure_is_a_row(kept, tmp_path):
    folder, *_ = kept
    broken = tmp_path / "step-00000009"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    sources = [folder / "step-00000000", broken, "nobody/nothing@step512"]
    series = over_checkpoints(sources, TEXTS)
    rows = series.checkpoints
    assert rows["step"].tolist() == [0.0, 9.0, 512.0]
    assert rows["revision"].tolist() == ["", "", "step512"]
    assert rows["error"].iloc[0] == ""
    assert all(error.startswith("ModelError: ") for error in rows["error"].iloc[1:])
    assert series.summary()["failed"] == 2
    assert set(series.values["source"]) == {str(folder / "step-00000000")}
    nothing = over_checkpoints(["nobody/nothing"], TEXTS)
    assert len(nothing.values) == 0 and np.isnan(nothing.checkpoints["step"].iloc[0])


def test_revisions_are_handed_to_load(monkeypatch, tiny_gpt2, tmp_path):
    asked = []

    def load(name, **options):
        asked.append((name, options["revision"]))
        return tiny_gpt2

    monkeypatch.setattr(turns, "load", load)
    odd = tmp_path / "a@b"
    odd.mkdir()
    series = over_checkpoints(
        ["EleutherAI/pythia-70m@step1000", "EleutherAI/pythia-70m", str(odd)], TEXTS
    )
    assert asked == [
        ("EleutherAI/pythia-70m", "step1000"),
        ("EleutherAI/pythia-70m", None),
        (str(odd), None),
    ]
    assert series.checkpoints["step"].iloc[0] == 1000.0
    assert series.checkpoints["step"].isna().tolist() == [False, True, True]


def test_an_interrupt_inside_an_analysis_is_no_checkpoints_error(kept):
    folder, *_ = kept

    def analysis(model, texts):
        raise Interrupted("stopped")

    with pytest.raises(Interrupted, match="after 0 of 3 checkpoints") as caught:
        over_checkpoints(folder, TEXTS, analysis=analysis)
    assert caught.value.partial.provenance["complete"] is False


def test_one_model_at_a_time(kept):
    folder, *_ = kept
    alive = []

    def analysis(model, texts):
        assert not any(other() is not None for other in alive)
        alive.append(weakref.ref(model))
        return lp.massive.scan(model, texts, progress=False)

    over_checkpoints(folder, TEXTS, analysis=analysis)
    gc.collect()
    assert len(alive) == 3
    assert all(other() is None for other in alive)


def test_an_interrupt_hands_over_what_there_is(kept):
    folder, *_ = kept
    count = []

    def analysis(model, texts):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return lp.massive.scan(model, texts, progress=False)

    with pytest.raises(Interrupted, match="after 2 of 3 checkpoints") as caught:
        over_checkpoints(folder, TEXTS, analysis=analysis)
    assert caught.value.partial.checkpoints["step"].tolist() == [0.0, 2.0]
    assert not caught.value.partial.provenance["complete"]


def test_bad_input(kept):
    folder, *_ = kept
    for sources in ([], 3, [3], None):
        with pytest.raises(ArgumentError, match="sources: "):
            over_checkpoints(sources, TEXTS)
    with pytest.raises(ArgumentError, match="a function of a model and texts"):
        over_checkpoints(folder, TEXTS, analysis="scan")
    with pytest.raises(ArgumentError, match="returned int, not a result"):
        over_checkpoints(folder, TEXTS, analysis=lambda model, texts: 3)
    with pytest.raises(ArgumentError, match="Did you mean 'layers'"):
        over_checkpoints(folder, TEXTS, table="layer")


def test_a_hooked_transformer_keeps_no_checkpoints(tiny_gpt2, tmp_path):
    if adapter_for(tiny_gpt2).line == "bridge":
        pytest.skip("this line has no HookedTransformer")
    options = {**SMALL, **PLACE, "out": tmp_path, "checkpoints": 2}
    with pytest.raises(ModelError, match="HookedTransformer cannot be written"):
        train_and_watch(tiny_gpt2, TEXTS, **options)


def test_a_model_that_knows_nothing():
    random = torch.get_rng_state()
    model = untrained(seed=3)
    assert torch.equal(torch.get_rng_state(), random)
    adapter = adapter_for(model)
    assert (adapter.n_layers, adapter.d_model, adapter.n_heads, adapter.context) == (4, 128, 4, 256)
    assert adapter.d_vocab == len(adapter.tokenizer) == 258
    loss = lp.score(model, "The reader asked a question.").loss
    assert loss == pytest.approx(np.log(258), abs=0.2)
    same, other = untrained(seed=3), untrained(seed=4)
    assert torch.equal(same.W_E, model.W_E)
    assert not torch.equal(other.W_E, model.W_E)


def test_from_scratch_the_loss_falls():
    text = lp.massive.__doc__ * 60
    seen = train_and_watch(
        untrained(transformers.GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=2)),
        text,
        optimizer=Recipe("adamw", learning_rate=1e-2, warmup=5, betas=(0.9, 0.95), clip=1.0),
        watch="largest",
        steps=30,
        every=10,
        length=32,
        batch_size=4,
        progress=False,
    )
    assert seen.steps["loss"].iloc[0] == pytest.approx(np.log(258), abs=0.2)
    assert seen.steps["loss"].iloc[-1] < 0.7 * seen.steps["loss"].iloc[0]
    assert seen.peaks["step"].tolist() == [0, 10, 20, 30]


def test_configurations_that_cannot_be():
    with pytest.raises(ArgumentError, match=r"a vocabulary of at least 258.*got 100"):
        untrained(transformers.GPT2Config(vocab_size=100))
    with pytest.raises(ArgumentError, match="got int"):
        untrained(3)
    with pytest.raises(ArgumentError, match="config: "):
        untrained(transformers.ViTConfig(vocab_size=300))
    with pytest.raises(ArgumentError, match="seed=-1"):
        untrained(seed=-1)
