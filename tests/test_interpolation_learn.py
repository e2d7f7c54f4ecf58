"""Weights learned by gradient descent: the gradient is right, and they go where it leads."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError
from lensprobe.interpolation import LearnedWeights, learn, loss, score

HOME = sys.modules["lensprobe.interpolation.learn"]
ROWS = [[0, 40, 41, 300, 7, 90, 12, 12], [5, 9], [0, 8, 200, 13, 99]]
FEW = {"steps": 3, "batch_size": 3, "progress": False}


def test_the_first_gradient_is_that_of_the_loss(decoder):
    found = learn(decoder, ROWS, weight=0.3, **FEW)
    at = torch.full((3,), 0.3, requires_grad=True)
    value = loss(decoder, ROWS, layer=[0, 1, 2], weight=at)
    (gradient,) = torch.autograd.grad(value, at)
    close(found.weights["gradient"], gradient)
    assert found.steps["loss"].iloc[0] == pytest.approx(float(value.detach()), abs=1e-5)
    # Adam's first step has the learning rate's size, against the gradient's sign.
    second = found.path[found.path["step"] == 1]["weight"]
    close(second, 0.3 - 0.02 * np.sign(found.weights["gradient"]))


def test_the_loss_falls(tiny_llama):
    found = learn(
        tiny_llama, ROWS, steps=25, learning_rate=0.05, batch_size=3, held_out=ROWS, progress=False
    )
    assert found.steps["loss"].iloc[-1] < found.steps["loss"].iloc[0] - 1e-3
    assert found.weights["weight"].between(0, 1).all()
    assert found.held_out["change"].iloc[0] < 0
    alone = score(
        tiny_llama, ROWS, layer=list(found.schedule), weight=list(found.schedule.values())
    )
    assert not isinstance(alone, Plan)
    assert found.held_out["loss"].iloc[0] == pytest.approx(alone.loss, abs=1e-5)


def test_weights_may_leave_zero_to_one_when_said(tiny_llama):
    options = {**FEW, "weight": 0.5, "learning_rate": 5.0, "steps": 1}
    inside = learn(tiny_llama, ROWS, **options).weights["weight"]
    beyond = learn(tiny_llama, ROWS, extrapolate=True, **options).weights["weight"]
    assert inside.isin([0.0, 1.0]).all()
    assert (beyond - 0.5).abs().min() > 4.9


def test_nothing_is_left_on_the_model(decoder):
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    hooks = [len(point.fwd_hooks) for point in decoder.hook_dict.values()]
    learn(decoder, ROWS, **FEW)
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    assert [len(point.fwd_hooks) for point in decoder.hook_dict.values()] == hooks


def test_a_seed_gives_the_same_weights(tiny_gpt2):
    options = {**FEW, "batch_size": 1, "steps": 5}
    first, again = (learn(tiny_gpt2, ROWS, seed=3, **options).path for _ in range(2))
    other = learn(tiny_gpt2, ROWS, seed=5, **options).path
    assert first.equals(again) and not first.equals(other)


def test_the_last_layer_has_no_gradient(tiny_gpt2):
    found = learn(tiny_gpt2, ROWS, layers=[2, 3], weight=0.3, **FEW)
    rows = found.weights.set_index("layer")
    assert rows.loc[3, "gradient"] == 0 and rows.loc[3, "weight"] == pytest.approx(0.3)
    assert any("layer 3 is the last" in note for note in found.provenance["notes"])
    alone = learn(tiny_gpt2, ROWS, layers=3, **FEW)
    assert (alone.steps["loss"] == alone.steps["plain_loss"]).all()


def test_it_is_saved(tiny_gpt2, tmp_path):
    found = learn(tiny_gpt2, ROWS, held_out=ROWS, **FEW)
    found.save(tmp_path / "learned.lp")
    assert lp.open(tmp_path / "learned.lp").weights.equals(found.weights)
    assert "held-out change" in found.summary()


def test_an_interrupt_keeps_the_weights_so_far(tiny_gpt2, monkeypatch):
    real, calls = HOME._Fit._step, []

    def stops(self, batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, batch)

    monkeypatch.setattr(HOME._Fit, "_step", stops)
    with pytest.raises(lp.Interrupted, match="after 2 of 3") as caught:
        learn(tiny_gpt2, ROWS, **FEW)
    partial = caught.value.partial
    assert isinstance(partial, LearnedWeights) and len(partial.steps) == 2
    calls[:] = [1, 1]
    with pytest.raises(lp.Interrupted, match="before the first"):
        learn(tiny_gpt2, ROWS, **FEW)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": "fast"}, "positive number"),
        ({"weight": 2}, "extrapolate=True"),
        ({"layers": 9}, "layer=9"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        learn(tiny_gpt2, ROWS, **{**FEW, **options})
