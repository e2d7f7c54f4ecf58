"""Interventions on moments: each does exactly what it says, compared with steps written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lensprobe.errors import ArgumentError
from lensprobe.massive.training import FreezeMoment, ScaleMoment, WarmStart, ZeroMoment
from lensprobe.massive.training.moments import Bound, moment_of
from lensprobe.massive.training.writer import View, Writer

RATE, BETA1, BETA2, EPS = 0.01, 0.9, 0.99, 1e-8
SHAPE = (4, 3)


def gradients(count=6):
    random = torch.Generator().manual_seed(3)
    return [torch.randn(*SHAPE, generator=random, dtype=torch.float64) for _ in range(count)]


def trained(*changes, make=None, names=("w",), writer=None, count=6):
    """Real optimizer steps under the interventions; the weights after each of them."""
    weights = {name: nn.Parameter(torch.ones(*SHAPE, dtype=torch.float64)) for name in names}
    make = make or (lambda p: torch.optim.AdamW(p, RATE, (BETA1, BETA2), EPS, 0.0))
    optimizer = make(list(weights.values()))
    bound = [Bound(change, weights, [optimizer], writer) for change in changes]
    seen = []
    for step, gradient in enumerate(gradients(count), 1):
        for weight in weights.values():
            weight.grad = gradient.clone()
        for one in bound:
            one.before(step)
        optimizer.step()
        for one in bound:
            one.after(step)
        seen.append(weights[names[0]].detach().clone())
    return seen, weights, optimizer


def by_hand(before=lambda step, m, v: (m, v), after=lambda step, old, new: new, count=6):
    """Adam, one line an equation; `before` and `after` are what is done to (m, v) around a step."""
    weight = torch.ones(*SHAPE, dtype=torch.float64)
    m = v = torch.zeros(*SHAPE, dtype=torch.float64)
    seen = []
    for t, g in enumerate(gradients(count), 1):
        old = (m, v)
        m, v = before(t, m, v)
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g * g
        weight = weight - RATE * (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)).sqrt() + EPS)
        m, v = after(t, old, (m, v))
        seen.append(weight)
    return seen


def same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_without_interventions_it_is_adam():
    same(trained()[0], by_hand())


def test_scaling_the_first_moment():
    change = ScaleMoment("first", steps=[3, 5], factor=-0.5)
    hand = by_hand(before=lambda t, m, v: (m * (-0.5 if t in (3, 5) else 1), v))
    same(trained(change)[0], hand)


def test_scaling_the_second_moment_at_every_step():
    change = ScaleMoment("second", factor=4.0)
    same(trained(change)[0], by_hand(before=lambda t, m, v: (m, 4.0 * v)))


def test_zeroing_forgets_what_was_carried_over():
    change = ZeroMoment("first", steps=4)
    same(trained(change)[0], by_hand(before=lambda t, m, v: (m * (t != 4), v)))


def test_zeroing_the_first_moment_always_is_no_momentum():
    plain = by_hand(before=lambda t, m, v: (torch.zeros_like(m), v))
    same(trained(ZeroMoment("first"))[0], plain)


def test_freezing_puts_the_memory_back():
    change = FreezeMoment("second", steps=range(3, 6))
    hand = by_hand(after=lambda t, old, new: (new[0], old[1] if 3 <= t < 6 else new[1]))
    same(trained(change)[0], hand)


def test_freezing_from_the_start_keeps_zero():
    hand = by_hand(after=lambda t, old, new: (old[0], new[1]))
    same(trained(FreezeMoment("first"))[0], hand)


def test_two_at_once():
    changes = ScaleMoment("first", steps=2, factor=3.0), FreezeMoment("second", steps=4)
    hand = by_hand(
        before=lambda t, m, v: (m * (3.0 if t == 2 else 1), v),
        after=lambda t, old, new: (new[0], old[1] if t == 4 else new[1]),
    )
    same(trained(*changes)[0], hand)


@pytest.mark.parametrize(
    ("rows", "columns"), [([1, 3], None), (None, [0]), ([2], [1]), ([0, 2], [1, 2]), (2, 0)]
)
def test_rows_columns_and_single_weights(rows, columns):
    chosen = torch.zeros(*SHAPE, dtype=torch.bool)
    along = slice(None) if rows is None else rows
    across = slice(None) if columns is None else columns
    for row in range(4) if rows is None else ([rows] if isinstance(rows, int) else rows):
        chosen[row, across] = True
    assert chosen.any() and along is not None
    change = ZeroMoment("first", rows=rows, columns=columns, steps=3)
    hand = by_hand(before=lambda t, m, v: (torch.where(chosen & (t == 3), 0.0, m), v))
    same(trained(change)[0], hand)


def test_only_the_named_tensors():
    names = ("blocks.0.mlp.W_out", "blocks.0.mlp.W_in", "embed.W_E")
    _, weights, _ = trained(ZeroMoment("first", "*.mlp.W_*"), names=names)
    _, plain, _ = trained(names=names)
    same([weights["embed.W_E"]], [plain["embed.W_E"]])
    for name in names[:2]:
        assert not torch.equal(weights[name], plain[name])


def test_the_writer_is_one_column():
    writer = Writer("mlp", 0, 1.0, View("w", 4, 3, 1), (0,))
    hand = by_hand(
        before=lambda t, m, v: (m * torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), v)
    )
    same(trained(ZeroMoment("first", "writer"), writer=writer)[0], hand)
    one = torch.zeros(*SHAPE, dtype=torch.bool)
    one[2, 1] = True
    hand = by_hand(before=lambda t, m, v: (torch.where(one, 0.0, m), v))
    same(trained(ZeroMoment("first", "writer", rows=2), writer=writer)[0], hand)


def test_momentum_of_sgd():
    def make(parameters):
        return torch.optim.SGD(parameters, RATE, momentum=0.9)

    weight, held, hand = torch.ones(*SHAPE, dtype=torch.float64), None, []
    for t, g in enumerate(gradients(), 1):
        if t == 4:
            held = held * 0.25
        held = g if held is None else 0.9 * held + g
        weight = weight - RATE * held
        hand.append(weight)
    same(trained(ScaleMoment("first", steps=4, factor=0.25), make=make)[0], hand)


@pytest.mark.parametrize("kept", ["first", "second", "both"])
def test_a_warm_start_forgets_what_was_not_asked_for(kept):
    _, weights, optimizer = trained()
    WarmStart(kept).finish([optimizer])
    for moment in ("first", "second"):
        held = moment_of(optimizer, weights["w"], moment)
        assert held is not None
        assert bool(held.any()) == (kept in (moment, "both"))


def wrong(call, match):
    with pytest.raises(ArgumentError, match=match):
        call()


def test_bad_input():
    wrong(lambda: ZeroMoment("third"), 'moment=\'third\': "first" or "second"')
    wrong(lambda: WarmStart("none"), '"first", "second" or "both"')
    wrong(lambda: WarmStart(batches=0), "batches=0: a positive whole number")
    wrong(lambda: ScaleMoment("first", factor=float("nan")), "factor=nan: a finite number")
    wrong(lambda: ScaleMoment("second", factor=-1.0), "a second moment is not negative")
    wrong(lambda: ZeroMoment("first", steps=0), "steps=0: whole numbers, at least 1")
    wrong(lambda: ZeroMoment("first", rows=[]), "rows is empty")
    wrong(lambda: ZeroMoment("first", rows=[-1]), "whole numbers, at least 0")
    wrong(lambda: ZeroMoment("first", rows=[1.5]), "whole numbers")
    wrong(lambda: ZeroMoment("first", tensors=[]), "names of weights")


def test_what_does_not_fit_the_weights():
    names = ("blocks.0.mlp.W_out",)
    wrong(
        lambda: trained(ZeroMoment("first", "blocks.0.mlp.W_oud"), names=names),
        "fits no weight of this model.*Did you mean 'blocks.0.mlp.W_out'",
    )
    wrong(lambda: trained(ZeroMoment("first", rows=4)), "rows=4: w has 4, 0 to 3")
    wrong(lambda: trained(ZeroMoment("first", columns=3)), "columns=3: w has 3, 0 to 2")
    wrong(lambda: trained(ZeroMoment("first", "writer")), "are not known here")
    flat = {"b": nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW(flat.values())
    change = ZeroMoment("first", "b", columns=0)
    wrong(lambda: Bound(change, flat, [optimizer], None), "columns: b has 1 axes")


def test_moments_an_optimizer_does_not_keep():
    plain = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    rolling = lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)  # noqa: E731
    wrong(lambda: trained(ZeroMoment("first"), make=plain), "SGD as given here keeps no first")
    wrong(lambda: trained(ZeroMoment("second"), make=rolling), "keeps no second moment")
    other = lambda p: torch.optim.Adamax(p, 0.1)  # noqa: E731
    wrong(lambda: trained(ZeroMoment("second"), make=other), "Adamax as given here keeps no second")
    *_, optimizer = trained(make=rolling)
    for moment in ("second", "both"):
        wrong(
            lambda m=moment: WarmStart(m).finish([optimizer]), "SGD as given here keeps no second"
        )
