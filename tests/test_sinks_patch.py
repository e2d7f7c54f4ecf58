"""Patching: everything gives the other run, nothing gives the same one, a cell is a pass of its own."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
import torch
from test_adapter import block_calls
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED

CLEAN = [0, 7, 9, 11, 2, 5, 30, 8, 61, 17, 4]
CORRUPT = [0, 7, 40, 40, 40, 40, 40, 40, 40, 40, 40]
SITES = ("resid_pre", "attn_out", "mlp_out")


def take(model, clean=CLEAN, corrupt=CORRUPT, **options):
    return lp.sinks.patch(model, clean, corrupt, progress=False, **{"layer": 2, **options})


@torch.no_grad()
def alone(model, result, site, layer, place, *, n=1, source=None):
    """The measures of one cell, by `run_with_hooks` over a whole pass."""
    adapter = adapter_for(model)
    point = adapter.hook_name(site, layer)
    _, cache = model.run_with_cache(torch.tensor([CLEAN]))
    held = cache[point]
    seen = {}

    def write(value, hook):
        out = value.clone()
        for at in range(place, min(place + n, len(CLEAN))):
            out[:, at] = held[:, at if source is None else source]
        return out

    def keep(value, hook):
        seen[hook.name] = value

    names = [adapter.hook_name("attn.pattern", m) for m in range(adapter.n_layers)]
    names.append(adapter.hook_name("resid_post", 2))
    # The names of the points themselves: a bridge calls some of them otherwise.
    hooks = [(name, lambda v, hook, name=name: seen.__setitem__(name, v)) for name in names]
    model.run_with_hooks(torch.tensor([CORRUPT]), fwd_hooks=[(point, write), *hooks])
    patterns = torch.stack([seen[name][0, :, :, 0] for name in names[:-1]]).mean(-1)
    value = seen[names[-1]][0, result.provenance["position"]].abs().max()
    return float(value), float(patterns.mean()), float((patterns > 0.3).float().mean())


@pytest.mark.parametrize("options", [{}, {"n": 3}, {"at": 1}])
def test_every_cell_is_a_whole_pass_of_its_own(shaped, options):
    result = take(shaped, sites=SITES, layers=[0, 2, 3], **options)
    rows = result.effects.set_index(["site", "layer", "position", "measure"])["value"]
    for site in SITES:
        for layer in (0, 2, 3):
            for place in (0, 9):
                expected = alone(
                    shaped, result, site, layer, place,
                    n=options.get("n", 1), source=options.get("at"),
                )  # fmt: skip
                got = [rows[site, layer, place, m] for m in ("value", "attention", "sink_rate")]
                close(got[:1], expected[:1], "residual")
                close(got[1:], expected[1:])


def test_patching_everything_gives_the_other_run(decoder):
    result = take(decoder, n=len(CLEAN), layers=0, position=4)
    first = result.effects[result.effects["position"] == 0].set_index("measure")
    for name in ("value", "attention", "sink_rate"):
        close([first.loc[name, "value"]], [result.end("clean", name)], "residual")
    assert first.loc["value", "share"] == pytest.approx(1.0, abs=1e-3)


def test_patching_nothing_gives_the_same_run(decoder):
    result = take(decoder, CORRUPT, CORRUPT, sites=SITES)
    assert (result.effects["change"] == 0).all()
    for name in ("value", "attention", "sink_rate"):
        assert result.end("clean", name) == result.end("corrupt", name)


def test_a_shared_beginning_is_not_run(tiny_gpt2):
    """Where both runs have the same activation, the cell is the corrupt run and costs nothing."""
    calls, handles = block_calls(tiny_gpt2)
    try:
        same = [*CLEAN[:-1], 99]
        result = take(tiny_gpt2, same, CLEAN, layers=[1])
    finally:
        for handle in handles:
            handle.remove()
    early = result.effects[result.effects["position"] < len(CLEAN) - 1]
    assert (early["change"] == 0).all()
    # Both ends, one plain pass a fan and its front; the one cell that differs starts at block 1.
    assert calls.count(0) < calls.count(1)


def test_nothing_behind_the_position_moves_its_value(decoder):
    result = take(decoder, position=4, sites=SITES)
    frame = result.effects
    later = frame[(frame["measure"] == "value") & (frame["position"] > 4)]
    assert (later["change"] == 0).all()
    above = frame[(frame["measure"] == "value") & (frame["layer"] > 2)]
    assert (above["change"] == 0).all()


def test_the_planted_value_moves_with_its_writers_output(planted):
    """From a run whose first token is another, only what the writer adds at position 0 matters."""
    clean = [PLANTED.bos_token, *range(60, 90)]
    result = lp.sinks.patch(
        planted, clean, clean, sites=["mlp_out"], layers=[0, 1, 2], at=1, position=0, progress=False
    )
    rows = result.effects[result.effects["measure"] == "value"]
    moved = rows[rows["change"].abs() > 1]
    assert set(zip(moved["layer"], moved["position"], strict=True)) == {(PLANTED.writer_layer, 0)}
    assert moved["value"].iloc[0] < 0.01 * PLANTED.values[0]
    sinks = result.effects[(result.effects["measure"] == "sink_rate")]
    lost = sinks[(sinks["layer"] == PLANTED.writer_layer) & (sinks["position"] == 0)]
    eighth = len(PLANTED.sink_heads) / (PLANTED.n_layers * PLANTED.n_heads)
    assert lost["change"].iloc[0] == pytest.approx(-eighth)


def test_the_users_hooks_stay_and_see_whole_passes(tiny_gpt2):
    plain = take(tiny_gpt2, layers=[0, 3])
    point = tiny_gpt2.hook_dict["blocks.0.hook_resid_pre"]
    seen = []
    point.add_hook(lambda value, hook: seen.append(tuple(value.shape[:2])))
    try:
        result = take(tiny_gpt2, layers=[0, 3])
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert set(seen[1:]) == {(1, len(CORRUPT))}
    assert any("hooks of your own" in note for note in result.provenance["notes"])
    close(result.effects["value"], plain.effects["value"], "residual")


def test_an_interrupt_keeps_the_finished_cells(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.sinks.patch"]
    whole, calls = home._Map._group, []

    def group(self, *args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return whole(self, *args)

    monkeypatch.setattr(home._Map, "_group", group)
    with pytest.raises(Interrupted, match="after 8 cells") as caught:
        take(tiny_gpt2, layers=[1])
    assert caught.value.partial.summary()["complete"] is False
    with pytest.raises(Interrupted, match="before the first cell"):
        take(tiny_gpt2, layers=[1])


def test_it_is_saved_and_opened(tiny_llama, tmp_path):
    result = take(tiny_llama, layers=[0, 1], sites=["attn_out"])
    assert result.grid("value", "attn_out").shape == (2, len(CLEAN))
    result.save(tmp_path / "p.zip")
    again = lp.open(tmp_path / "p.zip")
    for table in result.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), result.to_frame(table))
    assert again.summary() == result.summary()
    assert again.corrupt_tokens == result.corrupt_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corrupt": [1, 2]}, "clean has 11 tokens and corrupt 2; patching needs as many"),
        ({"clean": [1], "corrupt": [2]}, "have one token"),
        ({"clean": ["a b", "c d"]}, "clean: one sequence; got 2"),
        ({"sites": []}, r"sites=\[\]: different ones of resid_pre"),
        ({"sites": ["resid_mid"]}, "different ones of resid_pre"),
        ({"layers": 7}, "layers=7"),
        ({"position": 11}, "position=11: the sequences have 11 tokens"),
        ({"at": 1.5}, "at=1.5: a whole number"),
        ({"n": 0}, "n=0"),
        ({"epsilon": "high"}, "epsilon='high'"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, options, message):
    with pytest.raises(ArgumentError, match=message):
        take(tiny_gpt2, **options)


def test_a_grid_that_was_not_measured_is_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="the sites resid_pre"):
        take(tiny_gpt2, layers=0).grid("value", "mlp_out")


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5)
