"""Numbers read off distributions and token ids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensprobe.steering.measures import carry, kl, losses, mass, parting, perplexity, repetition

ROWS = st.integers(0, 10_000).map(
    lambda seed: torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(seed)) * 4
)


@given(ROWS, ROWS)
def test_kl_is_the_sum_written_out(steered, plain):
    p, q = steered.double().softmax(-1), plain.double().softmax(-1)
    wanted = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(kl(steered, plain).double(), wanted, atol=1e-5, rtol=1e-4)
    assert (kl(steered, plain) >= 0).all()


@given(ROWS)
def test_kl_of_equal_or_shifted_logits_is_nothing(logits):
    assert (kl(logits, logits) == 0).all()
    assert kl(logits + 3.0, logits).max() < 1e-6


def test_kl_has_a_direction_and_is_wide_in_half_precision():
    one, two = torch.tensor([[8.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = math.exp(8) / (math.exp(8) + 1)
    assert kl(one, two).item() == pytest.approx(
        math.log(2 * p) * p + (1 - p) * math.log(2 * (1 - p)), rel=1e-4
    )
    assert kl(two, one).item() > 3 * kl(one, two).item()
    assert kl(one.half(), two.half()).dtype == torch.float32


@given(ROWS)
def test_losses_are_cross_entropy(logits):
    targets = torch.randint(0, 50, (3, 4), generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    torch.testing.assert_close(losses(logits, targets).flatten(), wanted)
    assert perplexity(1000.0) == np.inf


@given(ROWS)
def test_mass_is_a_probability_of_tokens_counted_once(logits):
    assert torch.allclose(mass(logits, range(50)), torch.ones(3, 4))
    assert torch.equal(mass(logits, [3, 3, 7]), mass(logits, [7, 3]))
    assert (mass(logits, []) == 0).all()


def test_repetition_counts_what_occurred_before():
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([9] * 23) == pytest.approx(19 / 20)
    assert repetition([1, 2, 1, 2], n=1) == 0.5
    assert math.isnan(repetition([1, 2, 3]))


def test_carry_counts_what_only_the_mixing_input_has():
    assert carry([5, 6, 7], mixing=[1, 5, 8], base=[1]) == 0.5
    assert carry([1], mixing=[1, 5], base=[1]) == 0.0
    assert math.isnan(carry([1, 2], mixing=[1], base=[1, 2]))


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_parting_is_the_first_difference(one, other):
    place = parting(one, other)
    assert place == parting(other, one)
    if place is None:
        assert one == other
    else:
        assert one[:place] == other[:place]
        assert one[place : place + 1] != other[place : place + 1]
