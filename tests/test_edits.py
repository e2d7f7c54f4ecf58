"""Edits as arithmetic on a stream, without a model where one is not needed."""

from __future__ import annotations

import pytest
import torch

import lensprobe as lp
from lensprobe.edits import Selection
from lensprobe.errors import ArgumentError, HookPointError
from lensprobe.models.adapter import adapter_for

WIDTH = 6


def everywhere(batch: int, pos: int) -> Selection:
    turn = torch.arange(pos).expand(batch, -1)
    return Selection(None, torch.arange(batch), turn)


def some(mask: list[list[int]]) -> Selection:
    chosen = torch.tensor(mask).bool()
    return Selection(chosen, torch.arange(len(mask)), chosen.cumsum(1) - chosen.long())


@pytest.fixture
def stream() -> torch.Tensor:
    return torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0))


def test_formulas(stream):
    v = torch.arange(1.0, WIDTH + 1)
    pick = everywhere(2, 4)
    torch.testing.assert_close(lp.Add(v, layers=0, scale=2.0).apply(stream, pick), stream + 2 * v)
    torch.testing.assert_close(
        lp.Mix(v, weight=0.25, layers=0).apply(stream, pick), 0.75 * stream + 0.25 * v
    )
    torch.testing.assert_close(lp.Scale(factor=3.0, layers=0).apply(stream, pick), 3 * stream)
    torch.testing.assert_close(lp.Set(value=v, layers=0).apply(stream, pick), v.expand(2, 4, -1))


def test_dim_limits_scale_and_set_to_coordinates(stream):
    pick = everywhere(2, 4)
    scaled = lp.Scale(factor=0.0, dim=(1, 3), layers=0).apply(stream, pick)
    assert scaled[..., [1, 3]].abs().max() == 0
    others = [0, 2, 4, 5]
    assert torch.equal(scaled[..., others], stream[..., others])
    put = lp.Set(value=torch.tensor([7.0, 8.0]), dim=(1, 3), layers=0).apply(stream, pick)
    assert torch.equal(put[..., [1, 3]], torch.tensor([7.0, 8.0]).expand(2, 4, 2))
    assert torch.equal(put[..., others], stream[..., others])


def test_only_selected_tokens_change_and_a_table_ends_with_its_rows(stream):
    pick = some([[0, 1, 1, 1], [1, 0, 0, 1]])
    table = torch.stack([torch.full((WIDTH,), 10.0), torch.full((WIDTH,), 20.0)])
    out = lp.Add(table, layers=0).apply(stream, pick) - stream
    expected = torch.tensor([[0.0, 10, 20, 0], [10, 0, 0, 20]])[..., None].expand(-1, -1, WIDTH)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_each_text_has_its_own_scale(stream):
    pick = Selection(None, torch.tensor([1, 0]), torch.zeros(2, 4).long())
    out = lp.Add(torch.ones(WIDTH), scale=torch.tensor([5.0, 7.0]), layers=0).apply(stream, pick)
    torch.testing.assert_close(out[0], stream[0] + 7)
    torch.testing.assert_close(out[1], stream[1] + 5)


def test_a_projection_is_one_for_vectors_of_any_length(stream, tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    v = torch.randn(adapter.d_model) * 17
    bound = lp.ProjectOut(v, layers=0).bind(adapter)
    x = torch.randn(2, 3, adapter.d_model)
    once = bound.apply(x, everywhere(2, 3))
    assert (once @ (v / v.norm())).abs().max() < 1e-5
    torch.testing.assert_close(bound.apply(once, everywhere(2, 3)), once, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_float32_vector_meets_any_stream(stream, dtype):
    out = lp.Add(torch.ones(WIDTH), layers=0).apply(stream.to(dtype), everywhere(2, 4))
    assert out.dtype == dtype
    expected = (stream.to(dtype).float() + 1).to(dtype)
    torch.testing.assert_close(out, expected)


def test_gradients_reach_the_stream_and_the_edit(stream):
    x = stream.double().requires_grad_()
    v = torch.randn(WIDTH, dtype=torch.float64).requires_grad_()
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    pick = some([[0, 1, 1, 0], [1, 0, 0, 1]])
    edits = [
        lp.Add(v, layers=0, scale=2.0),
        lp.Scale(factor=factor, dim=(2,), layers=0),
        lp.Mix(v, weight=factor, layers=0),
        lp.ProjectOut(v.detach() / v.detach().norm(), layers=0),
        lp.Set(value=v, layers=0),
    ]
    for edit in edits:
        assert torch.autograd.gradcheck(lambda s, *_, e=edit: e.apply(s, pick), (x, v, factor))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: lp.Add(torch.ones(d + 1), layers=0), ArgumentError, "vector has shape"),
        (lambda d: lp.Add(torch.full((d,), float("nan")), layers=0), ArgumentError, "NaN"),
        (lambda d: lp.Add(torch.ones(d), layers=99), ArgumentError, "layers=99: this model has"),
        (lambda d: lp.Add(torch.ones(d), layers=1.5), ArgumentError, "whole number|not iterable"),
        (lambda d: lp.Add(torch.ones(d), layers=0, scale=float("inf")), ArgumentError, "scale="),
        (lambda d: lp.Add(torch.ones(d), layers=0, site="resid"), ArgumentError, "edits write to"),
        (lambda d: lp.Add(torch.ones(2, d), layers=0, positions=lp.positions.last()),
         ArgumentError, "one vector"),
        (lambda d: lp.Mix(torch.ones(2, d), weight=0.5, layers=0, positions=lp.positions.last()),
         ArgumentError, "one vector"),
        (lambda d: lp.Set(value=torch.ones(2, d), layers=0, positions=lp.positions.last()),
         ArgumentError, "one vector"),
        (lambda d: lp.Add("abc", layers=0), ArgumentError, "numbers or a tensor"),
        (lambda d: lp.Scale(factor=1.0, layers=0, dim=d), ArgumentError, "dim="),
        (lambda d: lp.Scale(factor=1.0, layers=0, dim=True), ArgumentError, "dim="),
        (lambda d: lp.Scale(factor=1.0, layers=0, dim=2.5), ArgumentError, "dim="),
        (lambda d: lp.Scale(factor=1.0, layers=0, dim=(1, 1)), ArgumentError, "dim="),
        (lambda d: lp.Scale(factor=1.0, layers=0, dim="3"), ArgumentError, "dim="),
        (lambda d: lp.Mix(torch.ones(d), weight=1.5, layers=0), ArgumentError, "between 0 and 1"),
        (lambda d: lp.ProjectOut(torch.zeros(d), layers=0), ArgumentError, "not zero"),
        (lambda d: lp.Add(torch.ones(d), layers=0, positions="all"), ArgumentError, "selector"),
    ],
)  # fmt: skip
def test_edits_that_do_not_fit_are_refused(tiny_gpt2, make, error, message):
    adapter = adapter_for(tiny_gpt2)
    with pytest.raises(error, match=message):
        make(adapter.d_model).bind(adapter).names(adapter)


def test_unknown_and_silent_hook_points_are_refused(tiny_gpt2):
    adapter = adapter_for(tiny_gpt2)
    with pytest.raises(HookPointError, match="Did you mean 'resid_post'"):
        adapter.hook_name("resid_pst", 0)
    with pytest.raises(HookPointError, match="does not exist"):
        adapter.point("blocks.0.hook_nothing")
    with pytest.raises(HookPointError, match="switched off"):
        adapter.point("blocks.0.attn.hook_result")
