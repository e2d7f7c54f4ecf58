"""Training while watching: the same training, bit for bit, with true numbers beside it."""

from __future__ import annotations

import copy
import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError, OutputError
from lensprobe.massive import Recipe, TrainingWatch, WarmStart, train_and_watch
from lensprobe.massive.training.material import gather
from lensprobe.models.adapter import adapter_for
from lensprobe.models.copying import copied, named_weights

TEXTS = [
    "Hello world, this is the cat that sat on the mat and then it went away.",
    "The quick brown fox jumps over the lazy dog. I think that she was there before.",
    "Once upon a time there was a little house, and in the house there was a little cat.",
    "one two three four five six seven eight nine ten",
] * 2
SMALL = {"steps": 4, "batch_size": 2, "length": 12, "held_out": 3, "progress": False}
PLACE = {"dim": 7, "position": 0}


def watched(model, **options) -> TrainingWatch:
    return train_and_watch(model, TEXTS, **{**SMALL, **PLACE, "every": 1, **options})


class Kept:
    """An optimizer as a callable that remembers the weights it was given."""

    def __init__(self, make=lambda p: torch.optim.AdamW(p, 1e-3)):
        self.make = make
        self.weights = []

    def __call__(self, parameters):
        # The last call is the run that trains; earlier ones only look.
        self.weights = parameters
        return self.make(parameters)


def material_of(model):
    """What `watched` trains on."""
    return gather(
        adapter_for(model),
        TEXTS,
        batch_size=2,
        held_out=3,
        position=0,
        bos="auto",
        length=12,
        limit=None,
        column=None,
        batch_tokens=None,
    )


@pytest.fixture(scope="module")
def material(tiny_gpt2):
    return material_of(tiny_gpt2)


@pytest.mark.parametrize("every", [1, 3])
def test_watching_changes_nothing_about_training(decoder, every):
    alone, beside = Kept(), Kept()
    plain = watched(decoder, every=None, optimizer=alone)
    seen = watched(decoder, every=every, optimizer=beside)
    assert plain.losses["loss"].tolist() == seen.losses["loss"].tolist()
    assert len(plain.steps) == 0 and len(plain.account) == 0
    for one, other in zip(alone.weights, beside.weights, strict=True):
        assert torch.equal(one, other)


def test_it_is_the_training_that_one_would_write(decoder):
    """Ten lines of plain torch give the same losses."""
    seen = watched(decoder, optimizer=Recipe("adamw", learning_rate=1e-3, warmup=3, clip=0.5))
    model = copied(decoder)
    material = material_of(decoder)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    for step in range(1, 5):
        rows = [material.windows[index].ids for index in material.batch(0, step)]
        assert len({len(row) for row in rows}) <= 2
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, step / 3)
        total, count = 0.0, 0
        for row in rows:
            ids = torch.tensor([row])
            logp = model(ids)[0, :-1].log_softmax(-1)
            total = total - logp.gather(-1, ids[0, 1:, None]).sum()
            count += len(row) - 1
        model.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        row = seen.losses.set_index("step").loc[step]
        assert row["loss"] == pytest.approx(float(total.detach()) / count, abs=1e-5)
        assert row["learning_rate"] == pytest.approx(1e-3 * min(1.0, step / 3))


def test_the_given_model_is_untouched(decoder):
    weights = [parameter.detach().clone() for parameter in decoder.parameters()]
    random, training = torch.get_rng_state(), decoder.training
    heard = []
    point = decoder.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: heard.append(value.requires_grad))
    try:
        seen = watched(decoder, runs={"a": "adamw", "b": "sgd"})
        assert heard == []
        assert len(point.fwd_hooks) == 1
        assert any("were not copied" in note for note in seen.provenance["notes"])
    finally:
        point.fwd_hooks[0].hook.remove()
        point.fwd_hooks.clear()
    assert all(torch.equal(*pair) for pair in zip(weights, decoder.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert decoder.training == training
    assert adapter_for(decoder).user_hooks() == ()


def test_a_model_in_training_mode_is_trained_without_dropout(gpt2_folder):
    model = lp.load(gpt2_folder)
    calm = watched(model)
    model.train()
    try:
        assert watched(model).losses["loss"].tolist() == calm.losses["loss"].tolist()
        assert model.training
    finally:
        model.eval()


def test_the_numbers_are_those_of_the_other_analyses(decoder):
    """Before the first step, what is watched is what a trajectory, a score and a scan find."""
    seen = watched(decoder, layer=2, steps=1)
    first = seen.steps.iloc[0]
    ids = [list(row.ids) for row in material_of(decoder).rows]
    path = lp.massive.trajectory(decoder, ids, dim=7, position=0, layers=[2]).values
    own = path[path["site"] == "resid_post"].iloc[0]
    close(first["value"], own["value"], "residual")
    close(first["median"], own["median"], "residual")
    close(first["ratio"], abs(own["value"]) / own["median"])
    close(first["loss"], lp.score(decoder, ids).loss)
    sinks = lp.sinks.scan(decoder, ids, keys=1, epsilon=0.3, length=12, progress=False)
    close(first["sink_rate"], sinks.heads["sink_rate"].mean())
    scan = lp.massive.scan(decoder, ids, progress=False)
    close(abs(seen.peaks.iloc[0]["value"]), scan.layers["value"].max(), "residual")


def test_steps_and_changes_agree(decoder):
    seen = watched(decoder, steps=3)
    assert seen.steps["step"].tolist() == [0, 1, 2, 3]
    assert seen.changes["step"].tolist() == [1, 2, 3]
    values = seen.steps["value"].to_numpy()
    close(seen.changes["value"], values[:-1])
    close(seen.changes["measured"], np.diff(values))
    total = seen.contributions().groupby("step")["value"].sum()
    close(seen.changes["predicted"], total)
    close(seen.changes["remainder"], seen.changes["measured"] - seen.changes["predicted"])
    writers = seen.account[seen.account["kind"] == "writer"].groupby("step")["value"].sum()
    close(seen.writers["value"], writers)


def test_only_every_so_many_steps_and_the_end(tiny_gpt2):
    seen = watched(tiny_gpt2, steps=7, every=3)
    assert seen.steps["step"].tolist() == [0, 3, 6, 7]
    assert seen.changes["step"].tolist() == [1, 4, 7]
    assert seen.losses["step"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    bare = watched(tiny_gpt2, steps=7, every=3, account=False)
    assert bare.steps.equals(seen.steps)
    assert len(bare.account) == len(bare.changes) == 0
    assert bare.writers["update"].tolist() == seen.writers["update"].tolist()


def test_a_larger_batch_than_fits_is_added_up(tiny_gpt2):
    whole = watched(tiny_gpt2, batch_size=5, batch_tokens=4096)
    parts = watched(tiny_gpt2, batch_size=5, batch_tokens=24)
    close(whole.losses["loss"], parts.losses["loss"])
    close(whole.steps["value"], parts.steps["value"])


def test_runs_of_one_seed_meet_the_same_batches(tiny_gpt2):
    seen = watched(
        tiny_gpt2,
        runs={"a": "adamw", "b": {"optimizer": "sgd", "learning_rate": 0.1}},
        seeds=[0, 5],
        steps=3,
    )
    first = seen.losses[seen.losses["step"] == 1].pivot(index="seed", columns="run", values="loss")
    assert (first["a"] == first["b"]).all()
    assert first["a"][0] != first["a"][5]
    order = seen.order.groupby("seed")[["document", "index"]].apply(lambda f: f.to_numpy().tolist())
    assert order[0] != order[5]
    assert len(seen.order) == 2 * 3 * 2
    held = set(seen.provenance["watched"])
    assert len(held) == 3
    again = watched(tiny_gpt2, seeds=5, steps=3)
    alone = seen.losses[(seen.losses["run"] == "a") & (seen.losses["seed"] == 5)]
    assert again.losses["loss"].tolist() == alone["loss"].tolist()


def test_the_spread_over_seeds(tiny_gpt2):
    seen = watched(tiny_gpt2, runs={"a": "adamw", "b": "sgd"}, seeds=[0, 1, 2], steps=2)
    rows = seen.spread.set_index(["run", "step", "kind"])
    own = seen.steps[(seen.steps["run"] == "b") & (seen.steps["step"] == 2)]["value"]
    row = rows.loc[("b", 2, "value")]
    assert row["mean"] == pytest.approx(own.mean())
    assert row["std"] == pytest.approx(own.std(ddof=1))
    assert (row["low"], row["high"], row["count"]) == (own.min(), own.max(), 3)
    other = seen.steps[(seen.steps["run"] == "a") & (seen.steps["step"] == 2)]["value"]
    gap = own.to_numpy() - other.to_numpy()
    pair = seen.paired.set_index(["run", "step", "kind"]).loc[("b", 2, "value")]
    assert pair["reference"] == "a"
    assert pair["mean"] == pytest.approx(gap.mean())
    assert pair["std"] == pytest.approx(gap.std(ddof=1))


def test_each_pass_over_the_sequences_is_a_permutation(material):
    count = len(material.trained)
    seen = [index for step in range(1, count + 1) for index in material.batch(3, step)]
    for turn in range(2):
        assert sorted(seen[turn * count : (turn + 1) * count]) == list(material.trained)
    assert seen[:count] != seen[count : 2 * count]
    assert not set(material.watched) & set(seen)
    warm = [
        index for step in range(1, count + 1) for index in material.batch(3, step, warming=True)
    ]
    assert warm != seen and sorted(warm) == sorted(seen)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "momentum", "nesterov", "muon"])
def test_every_optimizer_by_name(tiny_gpt2, name):
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    seen = watched(tiny_gpt2, optimizer=name, learning_rate=1e-4)
    components = set(seen.account["component"])
    if name == "muon":
        assert components >= {"gradient", "momentum", "decay", "update"}
        assert seen.runs["optimizer"].iloc[0] == "Muon + AdamW"
        inside = seen.account[seen.account["component"] == "update"]["tensor"]
        assert inside.str.startswith("blocks.").all()
        assert any("update" in note for note in seen.provenance["notes"])
    else:
        assert "update" not in components
        assert ("momentum" in components) == (name != "sgd")
    np.testing.assert_allclose(seen.changes["predicted"], seen.changes["measured"], 0.05, 1e-4)


def test_every_shape_of_block_on_every_class(shaped):
    seen = watched(shaped, learning_rate=1e-5, steps=2, layer=3, position=1)
    np.testing.assert_allclose(seen.changes["predicted"], seen.changes["measured"], 0.05, 1e-5)
    plain = watched(shaped, learning_rate=1e-5, steps=2, every=None)
    assert plain.losses["loss"].tolist() == seen.losses["loss"].tolist()


def test_adam_decay_is_off_by_default_and_on_when_asked(tiny_gpt2):
    runs = {
        "plain": Recipe("adamw", weight_decay=0.0),
        "decay": Recipe("adamw", weight_decay=0.5),
        "default": "adamw",
    }
    seen = watched(tiny_gpt2, runs=runs, steps=1)
    shown = seen.account.groupby("run")["component"].unique()
    assert "decay" not in shown["plain"]
    assert "decay" in shown["decay"] and "decay" in shown["default"]
    assert seen.runs["weight_decay"].tolist() == [0.0, 0.5, 0.01]


def test_a_warm_start_is_the_moment_of_gradients_that_moved_nothing(tiny_gpt2, material):
    kept = Kept(lambda p: torch.optim.AdamW(p, 1e-3, betas=(0.9, 0.95)))
    states = []

    def make(parameters):
        optimizer = kept(parameters)
        step = optimizer.step

        def watching(*args):
            states.append(
                [
                    (
                        optimizer.state[p]["exp_avg"].clone(),
                        optimizer.state[p]["exp_avg_sq"].clone(),
                    )
                    if p in optimizer.state
                    else None
                    for p in parameters
                ]
            )
            return step(*args)

        optimizer.step = watching
        return optimizer

    watched(tiny_gpt2, optimizer=make, interventions=WarmStart("second", batches=3), steps=1)
    assert len(states) == 4
    model = copied(tiny_gpt2)
    adapter = adapter_for(model)
    weights = list(named_weights(model).values())
    expected = [torch.zeros_like(weight) for weight in weights]
    for turn in range(1, 4):
        total, count = 0.0, 0
        for index in material.batch(0, turn, warming=True):
            ids = torch.tensor([material.windows[index].ids])
            logp = adapter.run(ids)[0, :-1].log_softmax(-1)
            total = total - logp.gather(-1, ids[0, 1:, None]).sum()
            count += ids.shape[1] - 1
        model.zero_grad()
        (total / count).backward()
        for held, weight in zip(expected, weights, strict=True):
            if weight.grad is not None:
                held.mul_(0.95).add_(0.05 * weight.grad.square())
    trained = [w for w in weights if w.requires_grad]
    held = [e for e, w in zip(expected, weights, strict=True) if w.requires_grad]
    for state, second, weight in zip(states[-1], held, trained, strict=True):
        if weight.grad is None:
            assert state is None
            continue
        assert not state[0].any()
        torch.testing.assert_close(state[1], second, rtol=1e-3, atol=1e-9)


def test_frozen_weights_stay(gpt2_folder):
    model = lp.load(gpt2_folder)
    for name, weight in named_weights(model).items():
        weight.requires_grad_(name.startswith("blocks.1."))
    seen = watched(model, layer=3)
    assert seen.account["tensor"].str.startswith("blocks.1.").all()
    for weight in model.parameters():
        weight.requires_grad_(False)
    with pytest.raises(ArgumentError, match="frozen; there is nothing to train"):
        watched(model)


def test_a_loss_that_explodes_ends_its_run_alone(tiny_gpt2):
    runs = {"wild": Recipe("sgd", learning_rate=1e30), "calm": "adamw"}
    seen = watched(tiny_gpt2, runs=runs)
    status = seen.runs.set_index("run")["status"]
    assert status.to_dict() == {"wild": "diverged", "calm": "finished"}
    assert any("is not finite; training ended there" in note for note in seen.provenance["notes"])
    assert seen.losses[seen.losses["run"] == "calm"]["step"].max() == 4


def test_the_planted_value_is_found_and_followed(planted):
    seen = train_and_watch(
        planted,
        lp.massive.__doc__ * 30,
        steps=2,
        every=1,
        batch_size=2,
        length=24,
        optimizer=Recipe("adamw", learning_rate=1e-5),
        progress=False,
    )
    first = seen.steps.iloc[0]
    assert (first["layer"], first["dim"], first["position"]) == (1, 447, 0)
    assert first["value"] == pytest.approx(3000, rel=1e-4)
    assert first["sink_rate"] == pytest.approx(9 / 72)
    assert seen.provenance["writer"]["neurons"] == [11, 42, 97]
    top = seen.neurons[seen.neurons["step"] == 1].set_index("neuron")
    assert top["weight"].to_dict() == {11: 25.0, 42: 15.0, 97: 5.0}
    assert seen.peaks["massive"].all()
    assert "3000 →" in seen.summary()["adamw: value"]


def test_the_largest_value_wherever_it_is(tiny_gpt2):
    seen = train_and_watch(tiny_gpt2, TEXTS, watch="largest", every=1, learning_rate=1e-5, **SMALL)
    place = ["layer", "dim", "position"]
    assert (seen.steps[place].to_numpy() == seen.peaks[place].to_numpy()).all()
    close(seen.changes["remainder"], np.zeros(4))
    assert seen.provenance["watched_place"] == "largest"
    assert not seen.peaks["massive"].any()


def test_ways_to_name_the_coordinate(tiny_gpt2):
    named = watched(tiny_gpt2, dim=7, position=2, layer=-1)
    pair = train_and_watch(tiny_gpt2, TEXTS, watch=[7, 2], layer=3, every=1, **SMALL)
    assert named.steps.equals(pair.steps)
    scan = lp.massive.scan(tiny_gpt2, TEXTS, threshold=0.1, ratio=1.0, progress=False)
    index = int(np.flatnonzero(scan.findings["position"].to_numpy() == 0)[0])
    found = train_and_watch(tiny_gpt2, TEXTS, at=scan.at(index), every=1, **SMALL)
    assert found.steps["dim"].iloc[0] == scan.at(index).dim


def test_it_survives_a_file(tiny_gpt2, tmp_path):
    seen = watched(tiny_gpt2, runs={"a": "adamw", "b": "sgd"})
    again = lp.open(seen.save(tmp_path / "watch.zip"))
    for table in seen.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), seen.to_frame(table))
    assert again.provenance["recipes"]["a"]["torch"][0]["class"] == "AdamW"
    assert again.summary() == seen.summary()
    assert "sun2024massive" in seen.cite() and "kingma2015adam" in seen.cite()


def test_a_folder_for_a_repository(tiny_gpt2, tmp_path):
    seen = watched(tiny_gpt2, runs={"a": "adamw", "b": "sgd"})
    folder = seen.to_folder(tmp_path / "results")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".parquet"}
    again = TrainingWatch.from_folder(folder)
    for table in seen.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), seen.to_frame(table))
    assert again.provenance["recipes"] == seen.provenance["recipes"]
    with pytest.raises(OutputError, match="pass overwrite=True"):
        seen.to_folder(folder)
    long = pd.concat([seen.account] * 40, ignore_index=True)
    dataclasses.replace(seen, account=long).to_folder(folder, overwrite=True)
    assert TrainingWatch.from_folder(folder).account["value"].dtype == "float32"
    (folder / "steps.parquet").unlink()
    with pytest.raises(OutputError, match="holds no result that can be read"):
        TrainingWatch.from_folder(folder)


def test_an_interrupt_hands_over_what_there_is(tiny_gpt2):
    calls = []

    def make(parameters):
        optimizer = torch.optim.AdamW(parameters, 1e-3)
        step = optimizer.step

        def sometimes(*args):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return step(*args)

        optimizer.step = sometimes
        return optimizer

    with pytest.raises(Interrupted, match="step 4 of run") as caught:
        watched(tiny_gpt2, optimizer=make, steps=9)
    partial = caught.value.partial
    assert partial.losses["step"].tolist() == [1, 2, 3]
    assert partial.steps["step"].tolist() == [0, 1, 2]
    assert not partial.provenance["complete"]
    calls[:] = [1, 1, 1]
    with pytest.raises(Interrupted) as caught:
        watched(tiny_gpt2, optimizer=make)
    assert len(caught.value.partial.steps) == 0


BAD = [
    ({"optimizer": "nestrov"}, "Did you mean 'nesterov'"),
    ({"optimizer": 3}, "a name .* or a callable"),
    ({"optimizer": lambda p: 3}, "returned int, not a torch.optim.Optimizer"),
    ({"optimizer": lambda p: torch.optim.LBFGS(p)}, "LBFGS takes several passes"),
    ({"optimizer": "sgd", "runs": {"a": "sgd"}}, "optimizer= and runs=: give one"),
    ({"optimizer": lambda p: None, "learning_rate": 0.1}, "callable .* sets its own"),
    ({"runs": {}}, "a mapping from the name of a run"),
    ({"runs": {"a": {"rate": 1}}}, r"runs\['a'\]: 'rate' is none of the settings"),
    ({"runs": {" ": "sgd"}}, "give each run a name"),
    ({"learning_rate": -1.0}, "learning_rate=-1.0: a finite number"),
    ({"weight_decay": float("nan")}, "weight_decay=nan"),
    ({"warmup": -1}, "warmup=-1: a number of steps"),
    ({"interventions": "zero"}, "interventions: 'zero' is none of"),
    ({"interventions": [3]}, "interventions: 3 is none of"),
    ({"steps": 0}, "steps=0: a positive whole number"),
    ({"every": 0}, "every=0: a positive whole number"),
    ({"batch_size": True}, "batch_size=True"),
    ({"held_out": 0}, "held_out=0"),
    ({"held_out": 99}, "99 are watched and at least one more is trained on"),
    ({"seeds": []}, "seeds is empty"),
    ({"seeds": -1}, "seeds=-1: whole numbers"),
    ({"epsilon": 1.5}, "epsilon=1.5"),
    ({"checkpoints": 2}, "checkpoints= needs out="),
    ({"checkpoints": [9], "out": "there"}, "steps from 0 to 4"),
    ({"dim": 48}, "dimensions 0 to 47"),
    ({"position": 12}, "position=12: of the 3 longest sequences"),
    ({"layer": 4}, "this model has 4 layers"),
    ({"watch": [1, 2]}, "watch= and at=, dim= or position=: give one"),
    ({"length": 1}, "length=1"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input(tiny_gpt2, options, message):
    with pytest.raises(ArgumentError, match=message):
        watched(tiny_gpt2, **options)


def test_bad_recipes():
    for options, message in (
        ({"betas": (0.9,)}, "two numbers"),
        ({"betas": (0.9, 1.0)}, "at least 0 and below 1"),
        ({"clip": 0}, "clip=0: a positive norm"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"eps": None}, "eps=None"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Recipe("adamw", **options)


def test_where_nothing_is_massive_it_says_what_to_do(tiny_gpt2, tiny_t5):
    with pytest.raises(ArgumentError, match='Or pass watch="largest"'):
        train_and_watch(tiny_gpt2, TEXTS, **SMALL)
    for watch, message in (("biggest", "largest"), ([1, 2, 3], "dim, position"), (5, "dim, pos")):
        with pytest.raises(ArgumentError, match=message):
            train_and_watch(tiny_gpt2, TEXTS, watch=watch, **SMALL)
    with pytest.raises(ArgumentError, match="looks at all layers"):
        train_and_watch(tiny_gpt2, TEXTS, watch="largest", layer=1, **SMALL)
    with pytest.raises(ModelError, match="encoder-decoder"):
        train_and_watch(tiny_t5, TEXTS, **SMALL)


def test_an_optimizer_that_moves_at_rate_zero_has_no_warm_start(tiny_gpt2):
    class Restless(torch.optim.SGD):
        def step(self, closure=None):
            with torch.no_grad():
                for group in self.param_groups:
                    for weight in group["params"]:
                        weight.add_(0.1)

    with pytest.raises(ArgumentError, match="moves weights at learning rate 0"):
        watched(tiny_gpt2, optimizer=lambda p: Restless(p, 0.1), interventions=WarmStart())


def test_half_precision_is_trained_and_said(llama_folder, tmp_path):
    model = lp.load(llama_folder, dtype="bfloat16")
    seen = watched(model, runs={"a": "adamw", "b": "momentum"}, out=tmp_path)
    assert seen.changes["measured"].notna().all()
    assert any("small updates are lost" in note for note in seen.provenance["notes"])
    wide = watched(lp.load(llama_folder, dtype="float32"))
    assert seen.losses["loss"].iloc[0] == pytest.approx(wide.losses["loss"].iloc[0], rel=0.02)


def test_recipes_are_values():
    assert Recipe("sgd", learning_rate=0.1) == Recipe("sgd", learning_rate=0.1)
    assert copy.deepcopy(Recipe()) == Recipe()


def test_every_recipe_of_the_grid_runs(tiny_gpt2):
    path = Path(__file__).parent.parent / "scripts" / "training_grid.py"
    script = runpy.run_path(str(path))
    recipes = script["grid"](4)
    if not hasattr(torch.optim, "Muon"):
        recipes.pop("Muon")
    seen = watched(tiny_gpt2, runs=recipes, steps=4, every=2)
    assert (seen.runs["status"] == "finished").all()
    assert len(seen.runs) == len(recipes) > 12
    assert set(script["SHORT"]) <= set(recipes)
    first = seen.losses[seen.losses["step"] == 1]["loss"]
    assert first.nunique() == 1
