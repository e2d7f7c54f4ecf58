"""Edits and scores against the closed forms of the planted model, on both model classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lensprobe as lp
from lensprobe.models.planted import PLANTED

TEXT = "The river had risen in the night, and by morning the lower field was grey water."


def at_factor(factor):
    return lp.Scale(dim=PLANTED.dims[0], factor=factor, layers=1, positions=lp.positions.front(1))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.5, 3.0])
def test_the_loss_follows_its_closed_form_in_the_factor(planted, factor):
    got = lp.score(planted, TEXT, bos=True, edits=at_factor(factor))
    tokens = planted.to_tokens(TEXT, prepend_bos=True)[0].cpu().numpy()
    expected = PLANTED.losses(tokens, factor)
    np.testing.assert_allclose(got.tokens["loss"].to_numpy()[1:], expected, atol=2e-4)


def test_factors_on_the_batch_axis_equal_separate_runs(planted):
    factors = torch.tensor([0.0, 0.5, 1.0, 2.0])
    together = lp.score(planted, [TEXT] * 4, edits=at_factor(factors)).texts["loss"]
    alone = [lp.score(planted, TEXT, edits=at_factor(float(f))).loss for f in factors]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together[0] - together[2] == pytest.approx(np.log(2), abs=0.05)


def test_the_gradient_in_the_factor_follows_its_closed_form(planted):
    ids = planted.to_tokens(TEXT, prepend_bos=True)
    factor = torch.tensor(0.5, requires_grad=True)
    with lp.editing(planted, at_factor(factor)):
        logits = planted(ids)[0]
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
    (slope,) = torch.autograd.grad(loss, factor)
    expected = PLANTED.loss_slope(ids[0].cpu().numpy(), 0.5)
    assert float(slope) * 0.5 == pytest.approx(expected, rel=1e-2, abs=1e-5)


def test_the_value_is_read_where_it_was_planted(planted):
    read = lp.forward(planted, [TEXT, "x"], layers="all", logits=None)
    for text in (0, 1):
        for layer, value in ((0, 0.0), (1, 3000.0), (3, 3000.0), (4, 0.0), (5, 0.0)):
            found = read.activation(layer, text=text)[0, PLANTED.dims[0]]
            assert found == pytest.approx(value, rel=1e-4, abs=1.0)
