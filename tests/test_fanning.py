"""Branches of a fan equal whole passes of their own, whatever they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_adapter import block_calls
from tolerance import close

import lensprobe as lp
from lensprobe.edits import EDITABLE
from lensprobe.errors import ArgumentError
from lensprobe.models.adapter import adapter_for
from lensprobe.positions import Positions
from lensprobe.running.fanning import Fan, times_that_fit
from lensprobe.running.session import Session, prompt_step
from lensprobe.tokens import TokenBatch

SCALES = [-2.0, 0.0, 0.5, 3.0]
SELECTORS = {
    "all": lp.positions.all(),
    "front": lp.positions.front(2),
    "after": lp.positions.after_prompt(),
    "late": lp.positions.at(-2),
    "none before": lp.positions.generated(),
}


@pytest.fixture
def batch(decoder):
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, 300, (n,), generator=generator) for n in (9, 5, 7)]
    return TokenBatch.pad(adapter_for(decoder), rows, side="left")


PROMPTS = np.array([7, 4, 7])


def whole(adapter, batch, edits, prompts=PROMPTS):
    """The same rows in a pass of their own."""
    session = Session(adapter, edits)
    with session, torch.no_grad():
        return session.read(prompt_step(batch, prompts=prompts), batch.ids)


def direction(adapter, site):
    return torch.randn(adapter.width(site), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("site", EDITABLE)
def test_every_branch_equals_its_own_whole_pass(decoder, batch, site, name):
    adapter = adapter_for(decoder)
    vector, where = direction(adapter, site), SELECTORS[name]
    template = lp.Add(vector, layers="all", site=site, positions=where)
    fan = Fan(adapter, batch, [template], prompts=PROMPTS)
    tail = batch.mask[:, fan.first :]
    close(fan.logits[tail], whole(adapter, batch, [])[:, fan.first :][tail])
    for layer in range(adapter.n_layers):
        scales = torch.tensor(SCALES).repeat(3)
        edit = lp.Add(vector, scale=scales, layers=layer, site=site, positions=where)
        out = fan.run([edit], times=4).unflatten(0, (3, 4))
        for k, scale in enumerate(SCALES):
            alone = lp.Add(vector, scale=scale, layers=layer, site=site, positions=where)
            wanted = whole(adapter, batch, [alone])[:, fan.first :]
            close(out[:, k][tail], wanted[tail])


def test_edits_in_many_blocks_branch_at_the_lowest(decoder, batch):
    adapter = adapter_for(decoder)
    vector = direction(adapter, "resid_post")
    edits = [
        lp.Add(vector, layers=range(1, adapter.n_layers), positions=lp.positions.after_prompt()),
        lp.Scale(factor=0.5, dim=3, layers=2, site="resid_pre"),
        lp.Clamp(vector, value=2.0, layers=1),
    ]
    fan = Fan(adapter, batch, edits, prompts=PROMPTS)
    assert fan.start(edits) == 2 and fan.first == 0
    close(fan.run(edits)[batch.mask], whole(adapter, batch, edits)[batch.mask])


def test_tables_of_vectors_go_to_the_same_tokens(decoder, batch):
    adapter = adapter_for(decoder)
    table = torch.randn(3, adapter.d_model, generator=torch.Generator().manual_seed(1))
    edit = lp.Add(table, layers=1, positions=lp.positions.between(2, 9))
    fan = Fan(adapter, batch, [edit], prompts=PROMPTS)
    # Position 2 stands in column 2 of the longest row, the only one without pads.
    assert fan.first == 2
    tail = batch.mask[:, 2:]
    close(fan.run([edit])[tail], whole(adapter, batch, [edit])[:, 2:][tail])


def test_only_blocks_and_columns_that_differ_are_computed(decoder, batch):
    adapter = adapter_for(decoder)
    vector = direction(adapter, "resid_post")
    edit = lp.Add(vector, layers=1, positions=lp.positions.after_prompt())
    fan = Fan(adapter, batch, [edit], prompts=PROMPTS, logits="last")
    # The prompts end in column 6 (9 - 7 + ...): rows are padded on the left to 9 columns.
    assert (fan.first, fan.columns) == (6, 3)
    assert fan.logits.shape == (3, 1, adapter.d_vocab)
    calls, handles = block_calls(decoder)
    seen: list[torch.Size] = []
    fan.run(
        [edit], times=2, probes={adapter.hook_name("resid_post", 3): lambda x: seen.append(x.shape)}
    )
    for handle in handles:
        handle.remove()
    assert calls == [2, 3] and seen == [(6, 3, adapter.d_model)]


def test_hooks_of_the_user_see_whole_passes(decoder, batch):
    adapter = adapter_for(decoder)
    vector = direction(adapter, "resid_post")
    edit = lp.Add(vector, layers=2, positions=lp.positions.after_prompt())
    seen: list[torch.Size] = []
    point = adapter.point(adapter.hook_name("resid_post", 0))
    point.add_hook(lambda x, hook: seen.append(x.shape))
    try:
        fan = Fan(adapter, batch, [edit], prompts=PROMPTS)
        assert not fan.shared and fan.first == 0
        out = fan.run([edit])
        assert seen == [(3, 9, adapter.d_model)] * 2
        close(out[batch.mask], whole(adapter, batch, [edit])[batch.mask])
    finally:
        point.remove_hooks()


def test_the_fan_leaves_no_hooks_behind(decoder, batch):
    adapter = adapter_for(decoder)
    vector = direction(adapter, "resid_post")
    edit = lp.Add(vector, layers=2)
    fan = Fan(adapter, batch, [edit], prompts=PROMPTS)
    boom = {adapter.hook_name("resid_post", 3): lambda x: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        fan.run([edit], probes=boom)
    assert not any(point.fwd_hooks for point in decoder.hook_dict.values())
    close(whole(adapter, batch, [])[batch.mask], fan.logits[batch.mask])


def test_moving_selectors_are_refused(decoder, batch):
    adapter = adapter_for(decoder)
    edit = lp.Add(direction(adapter, "resid_post"), layers=0, positions=lp.positions.last())
    with pytest.raises(ArgumentError, match="moves"):
        Fan(adapter, batch, [edit])


def test_strengths_for_another_number_of_rows_are_refused(decoder, batch):
    adapter = adapter_for(decoder)
    vector = direction(adapter, "resid_post")
    fan = Fan(adapter, batch, [lp.Add(vector, layers=0)])
    with pytest.raises(ArgumentError, match="values for 4 texts"):
        fan.run([lp.Add(vector, scale=torch.ones(4), layers=0)], times=2)


def test_the_number_of_riders_is_bounded_by_memory(decoder, batch):
    fan = Fan(adapter_for(decoder), batch, [lp.Scale(factor=1.0, layers=0)])
    assert times_that_fit(fan, 7) == 7
    assert 1 <= times_that_fit(fan, 10**9) < 10**9


def test_a_selector_is_a_value():
    assert all(isinstance(where, Positions) for where in SELECTORS.values())
