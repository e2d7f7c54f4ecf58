"""A coordinate through the layers: against a loop over single prompts, and the planted answers."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import trajectory as call
from lensprobe.massive.stages import STANDS, stages_table
from lensprobe.models.planted import PLANTED
from lensprobe.plot.theme import THEMES

TEXTS = [
    "Hello world, this is",
    "I am",
    "The cat sat on the mat. And then, it went away.\nOnce more: hello, world!",
]
SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
}


@pytest.fixture(scope="module")
def life(planted):
    """The planted activation, found by a scan of the texts."""
    return call(planted, TEXTS, progress=False)


def of(result, *, layer=None, **where):
    frame = result if isinstance(result, pd.DataFrame) else result.values
    for name, value in {**where, **({} if layer is None else {"layer": layer})}.items():
        frame = frame[frame[name] == value]
    return frame


@torch.no_grad()
def loop(model, texts, dim, position):
    """Value, lower median and largest of the rest, `[text, place]` by layer and site."""
    found = {}
    for text in texts:
        _, cache = model.run_with_cache(model.to_tokens(text))
        for layer in range(model.cfg.n_layers):
            for site, hook in SITES.items():
                name = f"blocks.{layer}.{hook}"
                if name not in cache:
                    continue
                stream = cache[name][0].double().numpy()
                flat = np.sort(np.abs(stream).reshape(-1))
                others = np.abs(stream).reshape(-1)
                others = np.delete(others, position * stream.shape[1] + dim)
                found.setdefault((layer, site), []).append(
                    (stream[position, dim], flat[(len(flat) - 1) // 2], others.max())
                )
    return {place: np.array(rows) for place, rows in found.items()}


@pytest.mark.parametrize(("dim", "position"), [(3, 0), (40, 1)])
def test_every_number_is_its_definition(shaped, dim, position):
    got = call(shaped, TEXTS, dim=dim, position=position, progress=False)
    expected = loop(shaped, TEXTS, dim, position)
    assert list(zip(got.values["layer"], got.values["site"], strict=True)) == [
        (layer, site) for layer in range(4) for site in SITES if (layer, site) in expected
    ]
    for row in got.values.itertuples():
        values = expected[row.layer, row.site]
        mean = values.mean(0)
        close([row.value, row.median, row.rest], mean, "residual")
        spread = [row.std, np.abs(values[:, 0]).max()]
        close(spread, [values[:, 0].std(), spread[1]], "residual")
        np.testing.assert_allclose(row.ratio, abs(mean[0]) / mean[1], rtol=1e-3)
        assert row.count == 3


def test_a_parallel_block_has_no_middle(request):
    model = lp.load(request.getfixturevalue("neox_folder"))
    sites = set(call(model, TEXTS, dim=1, progress=False).values["site"])
    assert sites == set(SITES) - {"resid_mid"}


def test_the_parts_of_each_layer_explain_the_change(shaped):
    frame = call(shaped, TEXTS, dim=7, progress=False).values
    wide = frame.pivot(index="layer", columns="site", values="value")
    total = wide["resid_pre"] + wide["attn_out"] + wide["mlp_out"]
    close(total, wide["resid_post"], "residual")


def test_the_planted_life(life):
    result = life
    writer, eraser = PLANTED.writer_layer, PLANTED.eraser_layer
    stages = result.stages.set_index("kind")
    assert stages.loc["birth", ["first", "component"]].tolist() == [writer, "mlp"]
    assert stages.loc["death", ["first", "component"]].tolist() == [eraser, "mlp"]
    assert stages.loc["plateau", ["first", "last"]].tolist() == [writer, eraser - 1]
    post = of(result, site="resid_post").set_index("layer")
    for layer in range(writer, eraser):
        close(post.loc[layer, "value"], PLANTED.values[0], "residual")
        close(post.loc[layer, "rest"], PLANTED.values[1], "residual")
    close(post["median"], np.full(6, PLANTED.median))
    close(of(result, layer=writer, site="mlp_out")["value"], [PLANTED.values[0]], "residual")
    assert result.summary() | {"writer": "mlp", "eraser": "mlp", "birth": 1, "death": 4} == (
        result.summary()
    )
    assert "strongest massive activation" in result.provenance["notes"][0]


def test_several_coordinates_are_read_at_once(planted):
    text = TEXTS[0]
    scan = lp.massive.scan(planted, text, ratio=500, progress=False)
    both = call(planted, text, at=[scan.at(0), scan.at(1)], progress=False)
    for dim, value in zip(PLANTED.dims, PLANTED.values, strict=True):
        one = call(planted, text, dim=dim, progress=False)
        pd.testing.assert_frame_equal(
            of(both, dim=dim).reset_index(drop=True), one.values, check_exact=True
        )
        close(of(one, layer=1, site="resid_post")["value"], [value], "residual")
    # The larger value is the largest of the smaller one's rest, and the other way round.
    rest = of(both, layer=2, site="resid_post").set_index("dim")["rest"]
    close(rest[list(PLANTED.dims)], PLANTED.values[::-1], "residual")


def test_batching_changes_nothing(decoder):
    one = call(decoder, TEXTS, dim=5, batch_tokens=1, progress=False).values
    many = call(decoder, TEXTS, dim=5, batch_tokens=4096, progress=False).values
    columns = ["value", "std", "median", "rest"]
    close(one[columns], many[columns], "residual")


def test_only_chosen_layers_are_read_and_none_above_run(tiny_gpt2):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(tiny_gpt2.blocks)
    ]
    try:
        result = call(tiny_gpt2, "Hello world", dim=5, layers=[1, 2], progress=False)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(set(result.values["layer"])) == [1, 2]
    assert 3 not in ran
    whole = call(tiny_gpt2, "Hello world", dim=5, progress=False)
    close(of(whole, layer=2)["value"], of(result, layer=2)["value"], "residual")


def test_the_users_hooks_stay_and_see_whole_passes(tiny_gpt2):
    seen = []
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    point.add_hook(lambda value, hook: seen.append(1))
    try:
        result = call(tiny_gpt2, "Hello world", dim=5, layers=[0], progress=False)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert seen
    assert any("hooks of the user's own" in note for note in result.provenance["notes"])


def test_values_that_are_not_finite_enter_nothing(tiny_gpt2):
    def spoil(value, hook):
        out = value.clone()
        out[0, 0, 5] = float("inf")
        return out

    point = tiny_gpt2.hook_dict["blocks.2.hook_resid_post"]
    point.add_hook(spoil)
    try:
        result = call(tiny_gpt2, TEXTS, dim=5, batch_tokens=4096, progress=False)
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    row = of(result, layer=2, site="resid_post").iloc[0]
    assert row["count"] == 2
    assert np.isfinite(row["value"])


def frame_of(after, sites=("attn_out", "mlp_out")):
    """A table of one coordinate whose layers end at `after`, all of it written by the MLP."""
    before = [0.0, *after[:-1]]
    rows = []
    for layer, (start, end) in enumerate(zip(before, after, strict=True)):
        parts = {"resid_pre": start, "resid_post": end, "attn_out": 0.0, "mlp_out": end - start}
        for site, value in parts.items():
            rows.append((4, 0, layer, site, value, abs(value)))
    return pd.DataFrame(rows, columns=["dim", "position", "layer", "site", "value", "ratio"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=12))
def test_stages_follow_their_rule(after):
    stages = stages_table(frame_of(after)).set_index("kind")
    values = np.array(after)
    peak = int(np.argmax(np.abs(values)))
    assert stages.loc["peak", "first"] == peak
    sign = -1 if values[peak] < 0 else 1
    first, last = stages.loc["plateau", ["first", "last"]]
    assert stages.loc["birth", "first"] == first
    assert first <= peak <= last
    stands = sign * values >= STANDS * abs(values[peak])
    assert stands[first : last + 1].all()
    assert first == 0 or not stands[first - 1]
    assert ("death" in stages.index) == (last + 1 < len(values))
    if last + 1 < len(values):
        assert stages.loc["death", "first"] == last + 1
        assert not stands[last + 1]
        assert stages.loc["death", "component"] == "mlp"


def test_what_stands_before_the_first_layer_is_the_embeddings():
    frame = frame_of([10.0, 10.0])
    frame.loc[(frame["layer"] == 0) & (frame["site"] == "resid_pre"), "value"] = 10.0
    assert stages_table(frame).set_index("kind").loc["birth", "component"] == "embed"


def test_an_interrupt_keeps_what_was_read(tiny_gpt2, monkeypatch):
    # The function has its module's name; the module is in the table of modules.
    home = sys.modules["lensprobe.massive.trajectory"]
    plain, calls = home._read, []

    def read(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(home, "_read", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        call(tiny_gpt2, TEXTS, dim=5, batch_tokens=1, progress=False)
    assert not caught.value.partial.provenance["complete"]
    assert caught.value.partial.values["count"].max() == 1


def test_it_is_saved_and_opened(life, tmp_path):
    life.save(tmp_path / "t.zip")
    again = lp.open(tmp_path / "t.zip")
    pd.testing.assert_frame_equal(again.values, life.values)
    pd.testing.assert_frame_equal(again.stages, life.stages)
    assert again.summary() == life.summary()


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("view", ["trajectory", "contributions"])
def test_figures_show_the_numbers(life, view, theme):
    figure = getattr(life.plot, view)(theme=theme)
    figure.to_json()
    meta = figure.layout.meta
    assert meta["caption"].endswith(".")
    assert "born at layer 1 (the MLP)" in meta["finding"]
    assert "below half of it at layer 4" in meta["finding"]
    traces = {trace.name: trace for trace in figure.data}
    if view == "trajectory":
        line = traces["dim 447 at position 0"]
        close(line.y[line.x.index(2.0)], PLANTED.values[0], "residual")
        assert traces["birth, peak, death"].x == (1, 1, 4)
    else:
        close(traces["MLP"].y[1], PLANTED.values[0], "residual")
        close(traces["MLP"].y[4], -PLANTED.values[0], "residual")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 768}, "dim=768: .* 0 to 767"),
        ({"dim": 1, "position": 100}, "position=100: 3 of 3 texts are too short"),
        ({"dim": 1, "layers": [6]}, "layers=6: this model has 6 layers"),
        ({"dim": 1, "layers": []}, "layers is empty"),
        ({"at": "first"}, "at='first': a finding"),
        ({"dim": 1, "length": 5000}, "length=5000"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    from lensprobe.models.adapter import adapter_for

    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        call(planted, TEXTS, progress=False, **options)


def test_a_long_document_is_split_and_its_short_rest_is_left_out(tiny_gpt2):
    ids = list(range(1, 23))
    result = call(tiny_gpt2, [ids], dim=5, position=3, length=10, bos=False, progress=False)
    assert result.provenance["sequences"] == 2
    assert any("1 last pieces were too short" in note for note in result.provenance["notes"])


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        call(tiny_t5, TEXTS, dim=1)
