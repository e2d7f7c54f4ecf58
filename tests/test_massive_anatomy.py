"""A coordinate taken apart: the parts sum to it, and are those of the raw transformers model."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tiny_models import write_tokenizer
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError
from lensprobe.massive import anatomy, decomposition
from lensprobe.massive.anatomy_tables import CARRIES
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.models.weights import weights_of
from lensprobe.plot.theme import THEMES

TEXTS = ["Hello world, this is", "The cat sat on the mat. And then", "one two three four"]
PLACES = [(3, 0, 3), (40, 2, 1)]


def take(model, texts=TEXTS, **options):
    return anatomy(model, texts, progress=False, **options)


def picked(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


class Caches:
    """Every activation of each text, read in a pass of its own."""

    def __init__(self, model, texts=TEXTS):
        with torch.no_grad():
            self.each = [model.run_with_cache(model.to_tokens(text))[1] for text in texts]

    def mean(self, name, *index):
        return torch.stack([cache[name][0][index] for cache in self.each]).double().mean(0)


@pytest.fixture(scope="module")
def parted(planted):
    """The planted activation, found by a scan of the texts, and the model without its weights."""
    return take(planted, ablate=True, seed=0)


# ---- the sum --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "position", "layer"), PLACES)
def test_the_parts_sum_to_the_residual(shaped, dim, position, layer):
    result = take(shaped, dim=dim, position=position, layer=layer)
    value = float(Caches(shaped).mean(f"blocks.{layer}.hook_resid_post", position, dim))
    close(result.values["value"], [value], "residual")
    parts = result.components
    assert parts["component"].iloc[-1] == "remainder"
    close(parts["value"].iloc[:-1].sum(), value, "residual")
    close(parts["value"].sum(), value, "residual")
    close(parts["share"].sum(), 1.0)
    assert not result.provenance["notes"] or "neurons carry" in result.provenance["notes"][0]


@pytest.mark.parametrize(("dim", "position", "layer"), PLACES)
def test_each_part_is_what_its_hook_point_shows(shaped, dim, position, layer):
    result = take(shaped, dim=dim, position=position, layer=layer, threshold=0)
    caches = Caches(shaped)
    for n in range(layer + 1):
        parts = picked(result.components, layer=n)
        for site, names in (("attn", ("head", "attn_bias")), ("mlp", ("mlp", "mlp_bias"))):
            total = parts[parts["component"].isin(names)]["value"].sum()
            seen = float(caches.mean(f"blocks.{n}.hook_{site}_out", position, dim))
            close([total, 1.0], [seen, 1.0], "residual")
            close(picked(result.layers, layer=n, component=site)["value"], [seen])
        heads = parts[parts["component"] == "head"].set_index("head")["value"]
        assert list(heads.index) == [0, 1, 2, 3]
        brought = picked(result.sources, layer=n).groupby("head")["value"].sum()
        close(brought, heads)
        inside = picked(result.neurons, layer=n)
        close([inside["value"].sum()], parts[parts["component"] == "mlp"]["value"])
    before = result.components[result.components["layer"] < 0]
    first = float(caches.mean("blocks.0.hook_resid_pre", position, dim))
    close(before[before["component"] != "remainder"]["value"].sum(), first)
    close(result.layers["total"].iloc[-1], result.values["value"].iloc[0], "residual")


@torch.no_grad()
def raw_parts(folder, ids, dim, position, layer):
    """The same parts from transformers alone: stored weights, module inputs, hidden states."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    if hasattr(model, "transformer"):
        blocks, embed = model.transformer.h, model.transformer.wte
        names = ("attn.c_proj", "mlp.c_proj")
    elif hasattr(model, "gpt_neox"):
        blocks, embed = model.gpt_neox.layers, model.gpt_neox.embed_in
        names = ("attention.dense", "mlp.dense_4h_to_h")
    else:
        blocks, embed = model.model.layers, model.model.embed_tokens
        names = ("self_attn.o_proj", "mlp.down_proj")
    linear = [block.get_submodule(name) for block in blocks for name in names]
    inputs, removers = {}, []
    for index, module in enumerate(linear):
        removers.append(
            module.register_forward_pre_hook(
                lambda m, args, index=index: inputs.__setitem__(index, args[0])
            )
        )
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    found = {"embed": float(embed.weight[ids[position], dim]), "hidden": hidden}
    gemma = type(model).__name__.startswith("Gemma")
    if gemma:
        found["embed"] *= float(torch.tensor(48**0.5))
    if hasattr(model, "transformer"):
        found["pos_embed"] = float(model.transformer.wpe.weight[position, dim])
    for n in range(layer + 1):
        for kind, index in (("head", 2 * n), ("mlp", 2 * n + 1)):
            module, given = linear[index], inputs[index][0, position].double()
            weight = module.weight.detach().double()
            weight = weight if type(module).__name__ == "Conv1D" else weight.T
            bias = 0.0 if module.bias is None else module.bias.detach().double()
            scale = 1.0
            if gemma:
                place = (
                    "post_attention_layernorm" if kind == "head" else "post_feedforward_layernorm"
                )
                norm = blocks[n].get_submodule(place)
                whole = given @ weight + bias
                scale = (1 + norm.weight[dim].double()) / (whole.square().mean() + norm.eps).sqrt()
                scale = float(scale)
            parts = given * weight[:, dim] * scale
            found[kind, n] = parts.reshape(4, -1).sum(1) if kind == "head" else parts
            found["activation", n] = given
            if module.bias is not None:
                found[f"{'attn' if kind == 'head' else 'mlp'}_bias", n] = float(bias[dim])
    for remove in removers:
        remove.remove()
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma"])
@pytest.mark.parametrize(("dim", "position", "layer"), [(3, 0, 2), (40, 3, 1)])
def test_the_parts_are_those_of_transformers(request, kind, dim, position, layer):
    folder = request.getfixturevalue(f"{kind}_folder")
    model = lp.load(folder)
    ids = model.to_tokens(TEXTS[1])[0].tolist()
    result = take(model, [ids], dim=dim, position=position, layer=layer, threshold=0)
    raw = raw_parts(folder, ids, dim, position, layer)
    close(result.values["value"], [float(raw["hidden"][layer + 1][0, position, dim])], "residual")
    parts = result.components
    close(picked(parts, component="embed")["value"], [raw["embed"]])
    assert (picked(parts, component="pos_embed").empty) == ("pos_embed" not in raw)
    if "pos_embed" in raw:
        close(picked(parts, component="pos_embed")["value"], [raw["pos_embed"]])
    for n in range(layer + 1):
        close(picked(parts, component="head", layer=n)["value"], raw["head", n])
        for name in ("attn_bias", "mlp_bias"):
            rows = picked(parts, component=name, layer=n)
            assert rows.empty == ((name, n) not in raw)
            if len(rows):
                close(rows["value"], [raw[name, n]])
        inside = picked(result.neurons, layer=n).sort_values("neuron")
        close(inside["value"], raw["mlp", n])
        close(inside["activation"], raw["activation", n])
        close(inside["activation"] * inside["weight"] * inside["scale"], raw["mlp", n])


# ---- the planted answers --------------------------------------------------------------------------


def test_the_planted_writers_and_erasers_are_found(parted):
    kinds = picked(parted.layers, dim=447)
    kinds = kinds[kinds["kind"] != ""]
    assert kinds[["component", "layer", "kind"]].to_numpy().tolist() == [
        ["mlp", PLANTED.writer_layer, "writer"],
        ["mlp", PLANTED.eraser_layer, "eraser"],
    ]
    for planted in (*PLANTED.writers, PLANTED.erasers[0]):
        row = picked(parted.neurons, layer=planted.layer, neuron=planted.neuron).iloc[0]
        close(row["activation"], planted.activation, "residual")
        close(row["weight"], planted.weights[0], "residual")
        close(row["value"], planted.contribution[0], "residual")
    others = parted.neurons[~parted.neurons["neuron"].isin([11, 42, 97, 23, 64, 101])]
    assert float(others["value"].abs().max()) < 1e-3
    assert parted.summary()["writer"] == "mlp 1"
    assert int(parted.values["layer"].iloc[0]) == PLANTED.writer_layer


def test_the_planted_set_is_the_two_largest_writers(parted):
    rows = parted.weights
    assert rows[["layer", "neuron"]].to_numpy().tolist() == [[1, 11], [1, 42]]
    close(rows["total"], [2000 / 3000, 2900 / 3000])


def test_the_planted_second_dimension_has_its_own_writers(planted):
    scan = lp.massive.scan(planted, TEXTS, ratio=500, progress=False)
    both = take(planted, at=[scan.at(0), scan.at(1)])
    rows = picked(both.weights, dim=138).sort_values("rank")
    expected = [w for w in PLANTED.writers if w.weights[1]]
    assert sorted(rows["neuron"]) == sorted(w.neuron for w in expected)
    alone = take(planted, dim=138)
    pd.testing.assert_frame_equal(
        picked(both.components, dim=138).reset_index(drop=True), alone.components
    )


def test_the_planted_ablations(parted):
    rows = parted.ablations.set_index("kind")
    plain, left = PLANTED.values[0], PLANTED.writers[2].contribution[0]
    close(rows.loc["plain", "value"], plain, "residual")
    close(rows.loc["neurons", "value"], left, "residual")
    close(rows.loc["weights", "value"], left, "residual")
    close(rows.loc["random neurons", "value"], plain, "residual")
    close(rows.loc["random neurons", "loss"], rows.loc["plain", "loss"])
    assert (rows.loc[["neurons", "weights", "random neurons"], "count"] == 2).all()
    one = picked(parted.ablations, kind="weight", neuron=11).iloc[0]
    close(one["value"], plain - PLANTED.writers[0].contribution[0], "residual")
    close(one["share"], one["value"] / plain)


# ---- the set --------------------------------------------------------------------------------------


def test_no_smaller_set_of_neurons_carries_as_much(shaped):
    result = take(shaped, dim=9, position=1, threshold=0)
    layer = int(result.values["layer"].iloc[0])
    shares = result.neurons[result.neurons["layer"] <= layer]["share"].to_numpy()
    if len(result.weights):
        count = len(result.weights)
        # The most that any count - 1 of them can carry.
        assert np.sort(shares)[::-1][: count - 1].sum() < CARRIES
        close(result.weights["share"].sum(), result.weights["total"].iloc[-1])
        assert result.weights["total"].iloc[-1] >= CARRIES
        assert result.weights["share"].is_monotonic_decreasing
    else:
        assert shares.clip(0).sum() < CARRIES
        assert any("no set of them carries 95%" in note for note in result.provenance["notes"])


def test_ablating_equals_editing_the_weights(shaped):
    dim, position, layer, text = 9, 1, 2, TEXTS[1]
    result = take(shaped, text, dim=dim, position=position, layer=layer, ablate=True, seed=3)
    rows = result.ablations
    assert rows["kind"].iloc[0] == "plain"
    entries = result.weights[["layer", "neuron"]].to_numpy().tolist()
    tried = {"plain": [], "neurons": entries, "weights": entries}
    for kind, chosen in tried.items():
        if kind not in set(rows["kind"]):
            continue
        other = copy.deepcopy(shaped)
        matrices = weights_of(adapter_for(other))
        with torch.no_grad():
            for n, neuron in chosen:
                row = matrices.mlp(n).matrix[neuron]
                row[dim if kind == "weights" else slice(None)] = 0.0
        value = Caches(other, [text]).mean(f"blocks.{layer}.hook_resid_post", position, dim)
        own = picked(rows, kind=kind)
        close(own["value"], [float(value)], "residual")
        close(own["loss"], [lp.score(other, text, progress=False).loss])


def test_the_control_is_seeded_and_stored(tiny_gpt2):
    options = {"texts": TEXTS[0], "dim": 9, "position": 1, "layer": 2, "ablate": True}
    one, two, three = (take(tiny_gpt2, **options, seed=seed) for seed in (5, 5, 6))
    pd.testing.assert_frame_equal(one.ablations, two.ablations)
    assert "random neurons" in set(one.ablations["kind"])
    assert not one.ablations.equals(three.ablations)
    assert one.provenance["seed"] == 5
    drawn = take(tiny_gpt2, **options).provenance["seed"]
    assert isinstance(drawn, int)


# ---- texts, layers, passes ------------------------------------------------------------------------


def test_many_texts_are_the_mean_of_each(decoder):
    many = take(decoder, dim=5, position=1, layer=2, batch_tokens=4096, threshold=0)
    each = [take(decoder, text, dim=5, position=1, layer=2, threshold=0) for text in TEXTS]
    for table in ("components", "layers"):
        expected = np.mean([one.to_frame(table)["value"] for one in each], axis=0)
        close(many.to_frame(table)["value"], expected, "residual")
    split = take(decoder, dim=5, position=1, layer=2, batch_tokens=1, threshold=0)
    close(split.components["value"], many.components["value"], "residual")
    close(many.values["std"], [np.std([one.values["value"].iloc[0] for one in each])])


def test_without_a_layer_it_is_taken_apart_where_it_is_largest(decoder):
    result = take(decoder, dim=5, position=1)
    path = lp.massive.trajectory(decoder, TEXTS, dim=5, position=1, progress=False).values
    path = path[path["site"] == "resid_post"].set_index("layer")["value"]
    layer = int(path.abs().idxmax())
    assert int(result.values["layer"].iloc[0]) == layer
    assert result.layers["layer"].max() == 3
    same = take(decoder, dim=5, position=1, layer=layer - 4)
    close(same.components["value"], result.components["value"], "residual")
    assert same.layers["layer"].max() == layer


def test_layers_above_the_one_asked_for_do_not_run(tiny_gpt2):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(tiny_gpt2.blocks)
    ]
    try:
        take(tiny_gpt2, TEXTS[0], dim=5, layer=1)
    finally:
        for handle in handles:
            handle.remove()
    # Layer 1 is left from within, at its output.
    assert ran == [0]


def test_one_text_takes_one_pass(tiny_gpt2):
    calls = []
    handle = tiny_gpt2.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        take(tiny_gpt2, TEXTS[0], dim=5)
    finally:
        handle.remove()
    assert len(calls) == 1


def test_what_a_users_hook_adds_is_the_remainder(tiny_gpt2):
    plain = take(tiny_gpt2, dim=5, layer=2)
    point = tiny_gpt2.hook_dict["blocks.1.hook_resid_post"]

    def push(value, hook):
        out = value.clone()
        out[:, 0, 5] += 100.0
        return out

    point.add_hook(push)
    try:
        result = take(tiny_gpt2, dim=5, layer=1)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    close(picked(result.components, component="remainder")["value"], [100.0], "residual")
    notes = " ".join(result.provenance["notes"])
    assert "is in no component" in notes and "hooks of the user's own" in notes
    assert abs(picked(plain.components, component="remainder")["value"].iloc[0]) < 1e-4


def test_sources_name_the_tokens_and_their_attention(tiny_llama):
    text = TEXTS[1]
    result = take(tiny_llama, text, dim=5, position=4, layer=1, threshold=0)
    tokens = [tiny_llama.tokenizer.decode([i]) for i in tiny_llama.to_tokens(text)[0][:5]]
    rows = picked(result.sources, layer=1, head=2)
    assert list(rows["token"]) == tokens
    pattern = Caches(tiny_llama, [text]).mean("blocks.1.attn.hook_pattern", 2, 4)
    close(rows["probability"], pattern[:5])
    close(rows["probability"].sum(), 1.0)


# ---- models that lack something -------------------------------------------------------------------


SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def load(tmp_path, config, kind, **options):
    torch.manual_seed(0)
    config = config(vocab_size=write_tokenizer(tmp_path), **options)
    kind(config).save_pretrained(tmp_path)
    return lp.load(tmp_path)


def test_an_mlp_of_experts_is_one_component(tmp_path):
    model = load(
        tmp_path,
        transformers.MixtralConfig,
        transformers.MixtralForCausalLM,
        **SHAPE,
        num_local_experts=2,
    )
    result = take(model, dim=5, position=2, threshold=0)
    value = result.values["value"].iloc[0]
    close(result.components["value"].iloc[:-1].sum(), value, "residual")
    assert result.neurons.empty and result.weights.empty
    assert any("no set of them" in note for note in result.provenance["notes"])


def test_half_precision_sums_within_its_own_precision(llama_folder):
    model = lp.load(llama_folder, dtype="bfloat16")
    result = take(model, dim=5, position=2)
    value = result.values["value"].iloc[0]
    assert abs(result.values["remainder"].iloc[0]) < 0.05 * result.layers["total"].abs().max()
    assert not any("in no component" in note for note in result.provenance["notes"])
    assert np.isfinite(value)


def test_without_patterns_sources_are_missing_and_said(tiny_llama, monkeypatch):
    result = take(tiny_llama, dim=5, position=2, threshold=0)
    sites = tuple(site for site in decomposition.SITES if site != "attn.pattern")
    monkeypatch.setattr(decomposition, "SITES", sites)
    without = take(tiny_llama, dim=5, position=2, threshold=0)
    assert len(result.sources) and without.sources.empty
    assert any("keeps no patterns" in note for note in without.provenance["notes"])
    close(without.components["value"], result.components["value"], "residual")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 768}, "dim=768"),
        ({"dim": 1, "layer": 6}, "layer=6: this model has 6 layers"),
        ({"dim": 1, "layer": 1.0}, "layer=1.0: a layer is a whole number"),
        ({"dim": 1, "position": 99}, "position=99: 3 of 3 texts"),
        ({"dim": 1, "threshold": -0.1}, "threshold=-0.1: a share"),
        ({"dim": 1, "threshold": "5%"}, "threshold='5%': a share"),
        ({"dim": 1, "ablate": True, "seed": -1}, "seed=-1: a whole number"),
        ({"at": 447}, "at=447: a finding"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        take(planted, **options)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        take(tiny_t5, dim=1)


# ---- interrupts, files, figures -------------------------------------------------------------------


def test_an_interrupt_keeps_the_finished_sequences(tiny_gpt2, monkeypatch):
    plain, calls = decomposition.Decomposition.read, []

    def read(self, rows, **options):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        plain(self, rows, **options)

    monkeypatch.setattr(decomposition.Decomposition, "read", read)
    with pytest.raises(Interrupted, match="after 1 of 3 sequences") as caught:
        take(tiny_gpt2, dim=5, batch_tokens=1)
    partial = caught.value.partial
    assert partial.summary()["complete"] is False
    assert int(partial.values["count"].iloc[0]) == 1


def test_an_interrupt_while_ablating_keeps_the_decomposition(planted, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["lensprobe.massive.anatomy"], "ablations", stop)
    with pytest.raises(Interrupted, match="while weights were being ablated") as caught:
        take(planted, TEXTS[0], dim=447, ablate=True)
    assert len(caught.value.partial.weights) == 2
    assert caught.value.partial.ablations.empty


def test_it_is_saved_and_opened(parted, tmp_path):
    parted.save(tmp_path / "a.zip")
    again = lp.open(tmp_path / "a.zip")
    for table in parted.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), parted.to_frame(table))
    assert again.summary() == parted.summary()
    assert "2411.07191" in parted.cite()


VIEWS = ("waterfall", "neurons", "sources", "ablations")


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("view", VIEWS)
def test_figures_say_what_they_show(parted, view, theme):
    figure = getattr(parted.plot, view)(theme=theme)
    figure.to_json()
    assert figure.layout.title.text and figure.layout.title.subtitle.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")
    assert all(trace.hovertemplate for trace in figure.data)


def test_the_waterfall_ends_at_the_value(parted):
    trace = parted.plot().data[0]
    relative = [y for y, kind in zip(trace.y, trace.measure, strict=True) if kind == "relative"]
    names = [data[0] for data in trace.customdata]
    until = list(trace.measure).index("total")
    close(sum(trace.y[:until]), PLANTED.values[0], "residual")
    assert names[until] == "after layer 1"
    close(sum(relative), parted.layers["total"].iloc[-1])
    assert {"MLP 1", "MLP 4", "after layer 5"} <= set(names)
    assert "written by MLP 1 (3,000)" in parted.plot().layout.meta["finding"]


def test_the_neurons_figure_has_them_all(parted):
    trace = parted.plot.neurons().data[0]
    close(sum(trace.x), parted.neurons["value"].sum())
    assert trace.text[1] == "80 × 25"
    assert "2 neurons carry 97% of the value" in parted.plot.neurons().layout.meta["finding"]


def test_the_sources_figure_shows_every_head_and_token(tiny_llama):
    result = take(tiny_llama, TEXTS[1], dim=5, position=4, layer=1, threshold=0)
    figure = result.plot.sources()
    z = np.array(figure.data[0].z, dtype=float)
    assert z.shape == (8, 5)
    close(z.sum(), result.sources["value"].sum())
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_the_ablation_figure_without_ablations_says_how(planted):
    figure = take(planted, TEXTS[0], dim=447).plot.ablations()
    assert any("ablate=True" in note.text for note in figure.layout.annotations)


# ---- real weights ---------------------------------------------------------------------------------


@pytest.mark.weights
def test_smollm2_is_written_by_two_neurons_of_one_layer(smollm2):
    result = take(smollm2, "The cat sat on the mat.", dim=507, ablate=True, seed=0)
    value = result.values.iloc[0]
    assert int(value["layer"]) == 11
    np.testing.assert_allclose(value["value"], 24_926, rtol=1e-4)
    assert abs(value["remainder"]) < 1e-5 * value["value"]
    assert result.weights[["layer", "neuron"]].to_numpy().tolist() == [[11, 1229], [11, 1487]]
    assert result.weights["total"].iloc[-1] > 0.99
    erasers = picked(result.layers, kind="eraser")
    assert erasers[["component", "layer"]].to_numpy().tolist() == [["mlp", 28], ["mlp", 29]]
    rows = result.ablations.set_index("kind")
    assert rows.loc["weights", "loss"] > rows.loc["plain", "loss"] + 3
    np.testing.assert_allclose(rows.loc["random neurons", "value"], value["value"], rtol=1e-4)
