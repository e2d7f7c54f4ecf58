"""The account of a step: its parts sum to what torch's optimizers do, and to the value's change."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import close
from torch import nn

import lensprobe as lp
from lensprobe.massive.training.account import (
    Account,
    exact_dot,
    in_memory_order,
    laid_out,
    splits,
    step_parts,
)
from lensprobe.massive.training.place import Place, Prefix
from lensprobe.massive.training.writer import View, Writer, find_writer
from lensprobe.models.adapter import adapter_for
from lensprobe.models.copying import copied, named_weights
from lensprobe.tokens import Encoded

ROWS = [Encoded((1, 5, 9, 2, 7)), Encoded((1, 5, 3, 8)), Encoded((2, 4, 6, 8, 3))]

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.03),
    "sgd decay": lambda p: torch.optim.SGD(p, 0.03, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.03, momentum=0.9),
    "momentum decay": lambda p: torch.optim.SGD(p, 0.03, momentum=0.8, weight_decay=0.2),
    "dampened": lambda p: torch.optim.SGD(p, 0.03, momentum=0.9, dampening=0.4, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.03, 0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adam decay": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.3),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    "adamw without": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.0, 0.9), weight_decay=0.0),
    "amsgrad": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.5), amsgrad=True),
    "maximize": lambda p: torch.optim.AdamW(p, 0.01, maximize=True),
    "single": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
}


def weight(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    random = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(5, 7, generator=random, dtype=dtype))


def steps(make, count=5, dtype=torch.float64):
    """Each step of an optimizer on random gradients: its parts, and what it did."""
    parameter = weight(dtype=dtype)
    optimizer = make([parameter])
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        parameter.grad = torch.randn(5, 7, generator=random, dtype=dtype)
        before = parameter.detach().clone()
        parts = step_parts(optimizer, optimizer.param_groups[0], parameter)
        assert torch.equal(parameter, before)
        optimizer.step()
        yield parts, parameter.detach() - before, before, parameter.grad.clone(), optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_parts_sum_to_the_step(name):
    for parts, moved, *_ in steps(OPTIMIZERS[name]):
        assert parts.whole
        assert torch.allclose(sum(parts.terms.values()), moved, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_float32_the_rest_is_rounding(name):
    for parts, moved, before, *_ in steps(OPTIMIZERS[name], dtype=torch.float32):
        unit = torch.finfo(torch.float32).eps * before.abs().max()
        assert (sum(parts.terms.values()) - moved).abs().max() < 2 * unit


def test_adamw_by_hand():
    rate, beta1, beta2, eps, decay = 0.01, 0.9, 0.999, 1e-8, 0.3
    m = v = torch.zeros(5, 7, dtype=torch.float64)
    for t, (parts, _, before, g, _) in enumerate(steps(OPTIMIZERS["adamw"]), 1):
        v = beta2 * v + (1 - beta2) * g * g
        bottom = (v / (1 - beta2**t)).sqrt() + eps
        scale = -rate / (1 - beta1**t)
        close(parts.terms["gradient"], scale * (1 - beta1) * g / bottom)
        close(parts.terms.get("momentum", torch.zeros(5, 7)), scale * beta1 * m / bottom)
        close(parts.terms["decay"], -rate * decay * before)
        m = beta1 * m + (1 - beta1) * g


def test_nesterov_by_hand():
    rate, mu, decay = 0.03, 0.9, 0.1
    held = None
    for parts, _, before, g, _ in steps(OPTIMIZERS["nesterov"]):
        step = g + decay * before
        close(parts.terms["gradient"], -rate * (1 + mu) * g)
        close(parts.terms["decay"], -rate * (1 + mu) * decay * before)
        if held is None:
            assert "momentum" not in parts.terms
        else:
            close(parts.terms["momentum"], -rate * mu * mu * held)
        held = step if held is None else mu * held + step


def test_without_a_first_moment_there_is_no_momentum():
    for parts, *_ in steps(OPTIMIZERS["adamw without"]):
        assert set(parts.terms) == {"gradient"}


@given(
    rate=st.floats(1e-5, 1.0),
    mu=st.floats(0.0, 0.99),
    dampening=st.floats(0.0, 0.9),
    decay=st.floats(0.0, 1.0),
)
@settings(max_examples=25, deadline=None)
def test_any_sgd(rate, mu, dampening, decay):
    def make(parameters):
        return torch.optim.SGD(
            parameters, rate, momentum=mu, dampening=dampening, weight_decay=decay
        )

    for parts, moved, *_ in steps(make, count=3):
        assert torch.allclose(sum(parts.terms.values()), moved, rtol=1e-10, atol=1e-13)


@given(
    rate=st.floats(1e-6, 0.5),
    beta1=st.floats(0.0, 0.999),
    beta2=st.floats(0.0, 0.9999),
    eps=st.floats(1e-10, 1e-2),
    decay=st.floats(0.0, 1.0),
    kind=st.sampled_from([torch.optim.Adam, torch.optim.AdamW]),
)
@settings(max_examples=25, deadline=None)
def test_any_adam(rate, beta1, beta2, eps, decay, kind):
    def make(parameters):
        return kind(parameters, rate, betas=(beta1, beta2), eps=eps, weight_decay=decay)

    for parts, moved, *_ in steps(make, count=3):
        assert torch.allclose(sum(parts.terms.values()), moved, rtol=1e-8, atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_refuses_what_is_no_sum_and_gives_the_decay():
    rate, decay = 0.01, 0.2
    for parts, _, before, _, optimizer in steps(lambda p: torch.optim.Muon(p, rate, decay)):
        assert not parts.whole
        assert set(parts.terms) == {"decay"}
        close(parts.terms["decay"], -rate * decay * before)
        assert not splits([optimizer])
    assert next(steps(lambda p: torch.optim.Muon(p, rate, 0.0)))[0].terms == {}


def test_an_unknown_optimizer_is_not_guessed_at():
    class Mine(torch.optim.SGD):
        pass

    for make in (lambda p: Mine(p, 0.1), lambda p: torch.optim.Adamax(p, 0.1)):
        parts, *_, optimizer = next(steps(make))
        assert not parts.whole and not parts.terms
        assert not splits([optimizer])
    assert splits([torch.optim.SGD([weight()], 0.1), torch.optim.AdamW([weight()])])


def dot(left, right):
    return exact_dot(left.flatten(), right.flatten())


def test_a_dot_product_is_exact_enough_to_be_differenced():
    large = 1e4 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    unit = torch.ones_like(large)
    moved = large.clone()
    moved[7] += 0.5
    assert abs(dot(unit, moved) - dot(unit, large) - float(moved[7] - large[7])) < 1e-6


def test_memory_order_is_shared_and_whole():
    turned = torch.arange(12.0).view(3, 4).T
    flat = in_memory_order(turned)
    assert flat.tolist() == list(range(12))
    part = torch.arange(24.0).view(2, 3, 4)[1]
    assert in_memory_order(part).tolist() == list(range(12, 24))
    flat[5] = -1.0
    assert turned[1, 1] == -1.0


def test_a_view_finds_its_numbers_in_any_layout():
    parameter = nn.Parameter(torch.arange(12.0).view(3, 4).T)
    view = View("w", 4, 1, 4)
    assert view.index(torch.device("cpu")).tolist() == [4, 5, 6, 7]
    assert view.of(parameter.detach()).tolist() == [4.0, 5.0, 6.0, 7.0]
    elsewhere = parameter.detach().contiguous()
    assert view.of(laid_out(elsewhere, parameter)).tolist() == [4.0, 5.0, 6.0, 7.0]


@pytest.fixture(scope="module")
def exact(gpt2_folder):
    """A bridge in float64, on both lines; the norms of a Llama compute in float32 whatever is asked."""
    return lp.load(gpt2_folder, dtype="float64")


PLACE = Place(layer=2, dim=7, position=2)


def test_the_gradient_of_a_value_is_that_of_finite_differences(exact):
    model = copied(exact)
    weights = named_weights(model)
    prefix = Prefix(adapter_for(model), ROWS, PLACE.position)
    value, slope = prefix.gradient(PLACE, weights)
    assert value == prefix.value(PLACE)
    assert all(weight.grad is None for weight in weights.values())
    _, cache = exact.run_with_cache(torch.tensor([row.ids[:3] for row in ROWS]))
    close(value, cache["blocks.2.hook_resid_post"][:, 2, 7].mean())
    assert not any(name.startswith("blocks.3.") for name in slope)
    random = torch.Generator().manual_seed(0)
    for name in ("embed.weight", "blocks.0.mlp.in.weight", "blocks.2.attn.k.weight"):
        weight = weights[name]
        way = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        before = weight.detach().clone()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(before + sign * 1e-5 * way)
            ends.append(prefix.value(PLACE))
        with torch.no_grad():
            weight.copy_(before)
        close((ends[0] - ends[1]) / 2e-5, dot(slope[name], way), "residual")


def test_equal_beginnings_are_read_once():
    class Nothing:
        device = torch.device("cpu")

    prefix = Prefix(Nothing(), ROWS, 1)
    assert prefix.ids.tolist() == [[1, 5], [2, 4]]
    assert prefix.mean(torch.tensor([3.0, 9.0])) == pytest.approx(5.0)


def accounted(model, make, turns=3):
    """An account of the last of some steps on a made-up loss, with the change it should explain."""
    model = copied(model)
    weights = named_weights(model)
    adapter = adapter_for(model)
    prefix = Prefix(adapter, ROWS, PLACE.position)
    writer = find_writer(adapter, PLACE, prefix, weights)
    optimizers = make([w for w in weights.values() if w.requires_grad])
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    for _ in range(turns):
        for parameter in weights.values():
            parameter.grad = None
        ids = torch.tensor([[1, 5, 9, 2, 7]])
        model(ids).log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).mean().neg().backward()
        value, slope = prefix.gradient(PLACE, weights)
        before = {name: parameter.detach().clone() for name, parameter in weights.items()}
        account = Account(slope, weights, optimizers, writer)
        for optimizer in optimizers:
            optimizer.step()
        shares = account.close()
    moved = {name: parameter.detach() - before[name] for name, parameter in weights.items()}
    return shares, slope, moved, prefix.value(PLACE) - value, writer


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam decay", "adamw", "amsgrad"])
def test_the_account_sums_to_the_predicted_change(exact, name):
    shares, slope, moved, _, writer = accounted(exact, OPTIMIZERS[name])
    for tensor, gradient in slope.items():
        own = [share.value for share in shares if share.tensor == tensor]
        close(sum(own), float((gradient * moved[tensor]).sum()), "residual")
    total = sum(share.value for share in shares)
    assert total == pytest.approx(sum(float((slope[t] * moved[t]).sum()) for t in slope), rel=1e-9)
    rounding = sum(abs(share.value) for share in shares if share.component == "rounding")
    assert rounding < 1e-9 * sum(abs(share.value) for share in shares)
    assert not any(share.component == "update" for share in shares)
    column = writer.view
    inside = [s.value for s in shares if s.kind == "writer"]
    expected = dot(
        column.of(laid_out(slope[column.tensor], moved[column.tensor])),
        column.of(moved[column.tensor]),
    )
    close(sum(inside), expected, "residual")
    assert {s.tensor for s in shares if s.kind == "writer"} == {column.tensor}


def test_small_pieces_and_few_entries_change_nothing(exact, monkeypatch):
    whole = accounted(exact, OPTIMIZERS["adamw"])[0]
    monkeypatch.setattr("lensprobe.massive.training.account.CHUNK", 7)
    monkeypatch.setattr("lensprobe.massive.training.account.SPARSE", 2.0)
    pieces = accounted(exact, OPTIMIZERS["adamw"])[0]
    assert [(s.tensor, s.kind, s.component) for s in pieces] == [
        (s.tensor, s.kind, s.component) for s in whole
    ]
    close([s.value for s in pieces], [s.value for s in whole], "residual")


def test_what_is_not_a_sum_is_listed_as_one_update(exact):
    shares, slope, moved, *_ = accounted(exact, lambda p: torch.optim.Adamax(p, 0.01))
    assert {share.component for share in shares} == {"update"}
    total = sum(share.value for share in shares)
    assert total == pytest.approx(sum(float((slope[t] * moved[t]).sum()) for t in slope), rel=1e-9)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_prediction_is_first_order(exact, kind):
    """Halving the step quarters what is left between prediction and measurement."""

    def make(rate):
        def optimizer(parameters):
            if kind == "sgd":
                return torch.optim.SGD(parameters, rate)
            return torch.optim.AdamW(parameters, rate, eps=1e-3, weight_decay=0.1)

        return optimizer

    left, sizes = [], []
    for rate in (4e-4, 2e-4, 1e-4, 5e-5):
        shares, *_, measured, _ = accounted(exact, make(rate), turns=1)
        predicted = sum(share.value for share in shares)
        left.append(abs(measured - predicted))
        sizes.append(abs(measured))
    for larger, smaller in pairwise(left):
        assert 3.5 < larger / smaller < 4.5
    assert left[-1] < 0.03 * sizes[-1]


def test_the_writer_of_the_planted_value_is_found(planted):
    model = copied(planted)
    rows = [Encoded((256, 84, 104)), Encoded((256, 65, 66))]
    adapter = adapter_for(model)
    weights = named_weights(model)
    writer = find_writer(adapter, Place(3, 447, 0), Prefix(adapter, rows, 0), weights)
    assert isinstance(writer, Writer)
    assert (writer.component, writer.layer, writer.strongest) == ("mlp", 1, (11, 42, 97))
    assert writer.share == pytest.approx(1.0, abs=1e-5)
    column = writer.view.of(weights[writer.view.tensor].detach())
    assert column[[11, 42, 97]].tolist() == [25.0, 15.0, 5.0]
    assert torch.equal(column, model.blocks[1].mlp.W_out[:, 447])


def test_the_writer_column_is_that_of_the_class(shaped):
    model = copied(shaped)
    adapter = adapter_for(model)
    prefix = Prefix(adapter, ROWS, 1)
    found = 0
    for dim in range(8):
        writer = find_writer(adapter, Place(3, dim, 1), prefix, named_weights(model))
        if writer is None:
            continue
        found += 1
        block = model.blocks[writer.layer]
        matrix = block.mlp.W_out if writer.component == "mlp" else block.attn.W_O.flatten(0, 1)
        column = writer.view.of(named_weights(model)[writer.view.tensor].detach())
        assert torch.equal(column, matrix[:, dim])
    assert found


def test_a_value_of_the_embedding_has_no_writer(exact):
    model = copied(exact)
    with torch.no_grad():
        for name, parameter in named_weights(model).items():
            if name.endswith(("mlp.out.weight", "attn.o.weight")):
                parameter.zero_()
    adapter = adapter_for(model)
    prefix = Prefix(adapter, ROWS, 0)
    assert find_writer(adapter, Place(1, 3, 0), prefix, named_weights(model)) is None


def test_layouts_survive_a_copy():
    parameter = nn.Parameter(torch.randn(4, 6).T)
    assert copy.deepcopy(parameter).stride() == parameter.stride()
