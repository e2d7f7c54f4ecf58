"""Steering vectors as values, the edits they give, and those made of one pair or one input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from plain_residuals import plain_residuals
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.models import adapter_for
from lensprobe.steering import SteeringVector, SteeringVectors
from lensprobe.tokens import encode

WIDTH = 48
PROMPTS = ["Hello world, this is the cat", "one two three four five six seven"]


def vector(layer=2, seed=0, width=WIDTH, **options):
    return SteeringVector(np.random.default_rng(seed).normal(size=width), layer, **options)


# ---- the value -------------------------------------------------------------------------------

NUMBERS = st.floats(-100, 100, width=32)
FACTORS = st.floats(-8, 8, width=16)


@given(st.data())
def test_vectors_form_a_vector_space(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=5))
    a, b = (
        SteeringVector(data.draw(hnp.arrays(np.float32, shape, elements=NUMBERS)), 3) for _ in "ab"
    )
    k = data.draw(FACTORS)

    def same(one, two):
        assert (one.layer, one.site, one.stack) == (3, "resid_post", None)
        np.testing.assert_allclose(one.values, two.values, rtol=1e-5, atol=1e-4)

    same(a + b, b + a)
    same(a + b - b, a)
    same(-a, 0 * a - a)
    same(k * (a + b), a * k + b * k)
    same(a - b, a + (-b))
    if k:
        same(a * k / k, a)
    assert (k * a).norm == pytest.approx(abs(k) * a.norm, rel=1e-5, abs=1e-5)
    assert (a + b).norm <= a.norm + b.norm + 1e-3


def test_numbers_of_numpy_and_torch_multiply_from_both_sides():
    v = vector()
    for two in (2, 2.0, np.float32(2), np.array(2.0), torch.tensor(2.0)):
        for product in (two * v, v * two, v / (1 / two)):
            assert type(product) is SteeringVector
            np.testing.assert_allclose(product.values, 2 * v.values, rtol=1e-6)


def test_directions():
    v, table = vector(), vector(width=(3, WIDTH))
    for each in (v, table):
        assert each.unit().norm == pytest.approx(1)
        assert each.match_norm(7).norm == pytest.approx(7)
        assert each.match_norm(2 * each).norm == pytest.approx(2 * each.norm)
        assert each.cosine(-3 * each) == pytest.approx(-1)
    expected = v.values @ vector(seed=1).values / (v.norm * vector(seed=1).norm)
    assert v.cosine(vector(layer=0, seed=1)) == pytest.approx(expected, rel=1e-5)


def test_it_takes_lists_and_tensors_and_changes_neither():
    half = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    assert SteeringVector(half, 0).values.dtype == np.float32
    given_ = np.zeros(3, np.float32)
    v = SteeringVector(given_, 0)
    given_[0] = 1
    assert v.values[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        v.values[0] = 1
    with pytest.raises(AttributeError):
        v.layer = 3


def test_provenance_tells_what_was_done():
    a = vector(provenance={"model": "m", "method": "mean"})
    done = ((a * 2).unit() - a).provenance
    assert done["model"] == "m" and done["method"] == "a - b"
    assert done["of"] == [{"model": "m", "method": "mean", "steps": ["* 2", "unit"]}, a.provenance]
    assert a.provenance == {"model": "m", "method": "mean"}


def test_it_prints_itself():
    v = vector(provenance={"model": "<gpt2>", "method": "mean"})
    assert repr(v) == (
        f"SteeringVector(layer=2, site=resid_post, width=48, norm={v.norm:.4g}, method=mean, "
        "model=<gpt2>)"
    )
    assert "&lt;gpt2&gt;" in v._repr_html_() and "<gpt2>" not in v._repr_html_()
    frame = vector(width=(2, 3)).to_frame()
    assert list(frame.columns) == ["layer", "site", "position", "dim", "value"]
    np.testing.assert_array_equal(frame["value"], vector(width=(2, 3)).values.reshape(-1))
    assert list(v.to_frame().columns) == ["layer", "site", "dim", "value"]
    assert "2308.10248" in v.cite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SteeringVector([1.0, np.nan], 0), "NaN"),
        (lambda: SteeringVector([1e300], 0), "too large"),
        (lambda: SteeringVector([], 0), "shape"),
        (lambda: SteeringVector(np.ones((2, 2, 2)), 0), "shape"),
        (lambda: SteeringVector("abc", 0), "numbers"),
        (lambda: SteeringVector([[1.0], [1.0, 2.0]], 0), "numbers"),
        (lambda: vector(layer=-1), "layer=-1"),
        (lambda: vector(layer=0.5), "layer=0.5"),
        (lambda: vector(layer=True), "layer=True"),
        (lambda: vector(site="resid_pots"), "Did you mean 'resid_post'"),
        (lambda: vector(stack="both"), "stack='both'"),
        (lambda: vector() + vector(width=7), "no sum"),
        (lambda: vector() - vector(width=(1, WIDTH)), "no difference"),
        (lambda: vector() + vector(layer=1), "layer 2 . one at layer 1"),
        (lambda: vector() + vector(site="resid_pre"), "site"),
        (lambda: vector(stack="encoder") + vector(stack="decoder"), "stack"),
        (lambda: vector() * float("nan"), "finite"),
        (lambda: vector() / 0, "divided by zero"),
        (lambda: (0 * vector()).unit(), "no direction"),
        (lambda: vector().match_norm(-1), "positive number"),
        (lambda: vector().match_norm(0 * vector()), "positive number"),
        (lambda: vector().cosine(vector(width=7)), "no vector of shape"),
        (lambda: vector().cosine("x"), "no vector of shape"),
        (lambda: vector(width=(2, WIDTH)).project_out(), "no one direction"),
        (lambda: vector(width=(2, WIDTH)).clamp(1), "no one direction"),
        (lambda: vector().to_frame("layers"), "the table values"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    "wrong", [lambda v: v + 1, lambda v: v * "2", lambda v: v * v, lambda v: 1 / v]
)
def test_other_operands_are_a_type_error(wrong):
    with pytest.raises(TypeError):
        wrong(vector())


def test_vectors_of_two_models_warn_and_add():
    one, two = (vector(provenance={"model": name}) for name in ("a", "b"))
    with pytest.warns(UserWarning, match="two models meet: 'a' and 'b'"):
        both = one + two
    np.testing.assert_allclose(both.values, 2 * one.values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (one + one).provenance["model"] == "a"
        assert (one + vector()).norm > 0  # of an unknown model: nothing to warn about


# ---- a mapping of them -----------------------------------------------------------------------


def test_a_mapping_goes_layer_by_layer():
    some = SteeringVectors([vector(n, seed=n) for n in (3, 0, 1)])
    assert (list(some), some.layers, len(some), some.width) == ([0, 1, 3], (0, 1, 3), 3, WIDTH)
    assert 3 in some and 2 not in some and some.get(2) is None
    other = SteeringVectors({n: vector(n, seed=9) for n in (0, 1, 3)})
    for n in some:
        np.testing.assert_array_equal((some + other)[n].values, (some[n] + other[n]).values)
        np.testing.assert_array_equal((2 * some - other)[n].values, (2 * some[n] - other[n]).values)
        assert some.unit()[n].norm == pytest.approx(1)
        assert some.match_norm(other)[n].norm == pytest.approx(other[n].norm)
        assert some.match_norm(3)[n].norm == pytest.approx(3)
        assert (-some / 2).cosine(some)[n] == pytest.approx(-1)
    assert some.select([3, 1]).layers == (1, 3)


def test_a_mappings_tables():
    some = SteeringVectors([vector(n, seed=n) for n in (0, 1)])
    frame = some.to_frame()
    assert list(frame.columns) == ["layer", "site", "norm", "cosine"]
    assert np.isnan(frame["cosine"][0])
    assert frame["cosine"][1] == pytest.approx(some[0].cosine(some[1]))
    assert len(some.to_frame("values")) == 2 * WIDTH
    zeros = SteeringVectors([0 * vector(0), vector(1)])
    assert zeros.to_frame()["cosine"].isna().all()
    assert repr(some).startswith("SteeringVectors(layers=2, first=0, last=1, site=resid_post")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SteeringVectors([]), "one or more"),
        (lambda: SteeringVectors([1]), "one or more"),
        (lambda: SteeringVectors([vector(1), vector(1)]), "one layer"),
        (lambda: SteeringVectors({2: vector(1)}), "under the keys"),
        (lambda: SteeringVectors([vector(1), vector(2, site="resid_pre")]), "one site"),
        (lambda: SteeringVectors([vector(1), vector(2, width=3)]), "one shape"),
        (lambda: SteeringVectors([vector(1)]) + SteeringVectors([vector(2)]), "layers"),
        (lambda: SteeringVectors([vector(1)]) + vector(1), "layers"),
        (lambda: SteeringVectors([vector(1)]).select([0]), r"layers=\[0\]"),
        (lambda: SteeringVectors([vector(1)]).to_frame("x"), "layers, values"),
    ],
)
def test_a_mapping_refuses(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# ---- edits -----------------------------------------------------------------------------------


def test_what_add_writes(decoder):
    """One vector after the prompt, a table at the front, each at its own layer unless told."""
    v = vector(width=adapter_for(decoder).d_model)
    table = vector(width=(3, v.width))
    plain = lp.forward(decoder, PROMPTS, layers="all", logits=None)
    for edit, layer, touched in (
        (v.add(2), 2, [-1]),
        (table.add(2), 2, [0, 1, 2]),
        (v.add(2, lp.positions.at(1), layers=1), 1, [1]),
    ):
        found = lp.forward(decoder, PROMPTS, layers="all", logits=None, edits=edit)
        values = v.values if touched != [0, 1, 2] else table.values
        for text in range(2):
            expected = plain.activation(layer, text=text).copy()
            expected[touched] += 2 * values
            close(found.activation(layer, text=text), expected, "residual")
            close(found.activation(0, text=text), plain.activation(0, text=text), "residual")


def test_clamping_and_projecting_out(decoder):
    v = vector(width=adapter_for(decoder).d_model)
    unit = v.unit().values
    gone = lp.forward(decoder, PROMPTS, layers=2, logits=None, edits=v.project_out())
    assert np.abs(gone.activations[0] @ unit).max() < 1e-4
    held = lp.forward(decoder, PROMPTS, layers=2, logits=None, edits=v.clamp(5.0))
    np.testing.assert_allclose(held.activations[0] @ unit, 5.0, atol=1e-4)


def test_a_mapping_adds_each_at_its_own_layer(decoder):
    width = adapter_for(decoder).d_model
    some = SteeringVectors([vector(n, seed=n, width=width) for n in (1, 3)])
    edits = some.add(3, lp.positions.all())
    found = lp.forward(decoder, PROMPTS, edits=edits)
    by_hand = [
        lp.Add(torch.tensor(some[n].values), scale=3, layers=n, positions=lp.positions.all())
        for n in some
    ]
    close(found.logits, lp.forward(decoder, PROMPTS, edits=by_hand).logits)
    assert len(some.project_out()) == len(some.clamp(1.0)) == 2
    # One selector for all layers, asked once a step.
    assert edits[0].positions is edits[1].positions


def test_each_text_its_own_scale(decoder):
    v = vector(width=adapter_for(decoder).d_model)
    scales = torch.tensor([0.0, 4.0])
    both = lp.forward(decoder, PROMPTS, edits=v.add(scales), logits="last")
    for row, scale in enumerate(scales.tolist()):
        alone = lp.forward(decoder, PROMPTS[row], edits=v.add(scale), logits="last")
        close(both.logits[row], alone.logits[0])


def test_another_width_names_both_models_and_another_name_warns(tiny_gpt2):
    wide = vector(width=20, provenance={"model": "elsewhere"})
    name = adapter_for(tiny_gpt2).name
    for edit in (wide.add(), wide.project_out(), wide.clamp(1.0)):
        with pytest.raises(ArgumentError, match="20 numbers, made on 'elsewhere'") as error:
            lp.forward(tiny_gpt2, PROMPTS, edits=edit)
        assert name in str(error.value)
    fits = vector(provenance={"model": "elsewhere"})
    with pytest.warns(UserWarning, match="made on 'elsewhere' is used on"):
        lp.forward(tiny_gpt2, PROMPTS, edits=fits.add())
    own = lp.steering.from_tensor(tiny_gpt2, torch.ones(WIDTH), layer=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lp.forward(tiny_gpt2, PROMPTS, edits=own.add())
    with pytest.raises(ArgumentError, match="4 layers"):
        lp.forward(tiny_gpt2, PROMPTS, edits=own.add(layers=9))
    with pytest.raises(ArgumentError, match="scale=nan"):
        lp.forward(tiny_gpt2, PROMPTS, edits=own.add(float("nan")))


# ---- of any tensor ---------------------------------------------------------------------------


def test_any_tensor_becomes_a_vector(decoder):
    row = torch.randn(adapter_for(decoder).d_model, dtype=torch.float64)
    v = lp.steering.from_tensor(decoder, row, layer=-1, site="resid_pre")
    assert (v.layer, v.site) == (3, "resid_pre")
    np.testing.assert_allclose(v.values, row.numpy(), rtol=1e-6)
    assert v.provenance["model"] == adapter_for(decoder).name
    table = lp.steering.from_tensor(decoder, row.repeat(2, 1).tolist(), layer=0)
    assert table.tokens == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name the block"),
        ({"layer": 4}, "4 layers"),
        ({"layer": 1, "site": "attn.pattern"}, "site='attn.pattern'"),
        ({"layer": 1, "site": "attn.v", "values": np.ones(7)}, "7 numbers do not fit"),
        ({"layer": 1, "values": [np.inf] * WIDTH}, "infinity"),
    ],
)
def test_a_tensor_that_does_not_fit(tiny_llama, options, message):
    values = options.pop("values", np.ones(WIDTH))
    with pytest.raises(ArgumentError, match=message):
        lp.steering.from_tensor(tiny_llama, values, **options)


# ---- of one pair of prompts ------------------------------------------------------------------


def tokens(model, text):
    return model.tokenizer.encode(text, add_special_tokens=False)


def padded(model, *texts):
    """BOS, the text, and spaces up to the longer one's length: written out."""
    rows = [[model.tokenizer.bos_token_id, *tokens(model, text)] for text in texts]
    (space,) = tokens(model, " ")
    longest = max(map(len, rows))
    return [row + [space] * (longest - len(row)) for row in rows]


def test_a_contrast_is_the_difference_of_the_padded_prompts(tiny_gpt2, gpt2_folder):
    residuals = plain_residuals(tiny_gpt2, gpt2_folder)
    found = lp.steering.contrast(tiny_gpt2, " the cat was there", " dogs", layer=2)
    plus, minus = (residuals(row)[2] for row in padded(tiny_gpt2, " the cat was there", " dogs"))
    close(found.values, plus - minus, "residual")
    assert not found.values[0].any()  # both begin with BOS
    assert found.values[1:].any(axis=1).all()
    # The output of block 2 is what the paper calls the input of block 3.
    before = lp.steering.contrast(
        tiny_gpt2, " the cat was there", " dogs", layer=3, site="resid_pre"
    )
    close(before.values, found.values, "residual")


def test_activation_addition_is_the_formula(tiny_gpt2, gpt2_folder, legacy):
    """h_i + c (h⁺_i − h⁻_i) at the front of the input of block l, and the blocks above run on."""
    coefficient, layer, prompt = 3.0, 2, "one two three four five six seven"
    ids = torch.tensor([encode(adapter_for(tiny_gpt2), prompt)])
    plus, minus = (
        torch.tensor(plain_residuals(tiny_gpt2, gpt2_folder)(row)[layer - 1], dtype=torch.float32)
        for row in padded(tiny_gpt2, " Hello", " the cat sat")
    )

    def steer(stream):
        added = coefficient * (plus - minus)
        return torch.cat([stream[:, : len(added)] + added, stream[:, len(added) :]], dim=1)

    with torch.no_grad():
        if legacy:
            hook = (f"blocks.{layer}.hook_resid_pre", lambda stream, hook: steer(stream))
            expected = tiny_gpt2.run_with_hooks(ids, fwd_hooks=[hook])[0]
        else:
            plain = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder).eval()
            plain.transformer.h[layer].register_forward_pre_hook(
                lambda module, args: (steer(args[0]), *args[1:])
            )
            expected = plain(ids).logits[0]
    found = lp.steering.contrast(tiny_gpt2, " Hello", " the cat sat", layer=layer, site="resid_pre")
    close(lp.forward(tiny_gpt2, prompt, edits=found.add(coefficient)).logits, expected)


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_the_difference_turns_one_prompt_into_the_other(decoder, site):
    """At scale 1 the minus prompt's residual becomes the plus prompt's, and so do its logits."""
    one, two = (row for row in padded(decoder, " the cat was there", " one two"))
    v = lp.steering.contrast(decoder, one, two, layer=1, site=site)
    steered = lp.forward(decoder, [two], edits=v.add(1), layers=[1, 3], site=site)
    goal = lp.forward(decoder, [one], layers=[1, 3], site=site)
    for layer in (1, 3):
        close(steered.activation(layer), goal.activation(layer), "residual")
    close(steered.logits, goal.logits)


def test_an_empty_side_is_bos_and_padding(decoder):
    v = lp.steering.contrast(decoder, " the cat", "", layer=1)
    (row, spaces) = padded(decoder, " the cat", "")
    assert len(set(spaces[1:])) == 1 and v.tokens == len(row)
    close(v.values, lp.steering.contrast(decoder, row, spaces, layer=1).values, "residual")
    assert v.provenance["negative_tokens"][1:] == [" "] * (len(row) - 1)
    close((lp.steering.contrast(decoder, "", " the cat", layer=1) + v).norm, 0.0)


def test_without_bos(decoder):
    v = lp.steering.contrast(decoder, " the cat", " one", layer=1, bos=False)
    assert v.tokens == len(tokens(decoder, " the cat")) and v.values[0].any()
    assert v.provenance["bos"] is False
    with pytest.raises(ArgumentError, match="both empty"):
        lp.steering.contrast(decoder, "", "", bos=False)


def test_the_middle_block_is_the_default_and_is_said(tiny_gpt2):
    v = lp.steering.contrast(tiny_gpt2, " a", " b")
    assert v.layer == 2 and v.provenance["layer"] == "the middle block"
    assert lp.steering.contrast(tiny_gpt2, " a", " b", layer=-1).layer == 3


def test_another_pad(tiny_gpt2):
    dot = lp.steering.contrast(tiny_gpt2, " the cat", "", pad=".")
    assert dot.provenance["negative_tokens"][-1] == "." and dot.provenance["pad"] == "."
    with pytest.raises(ArgumentError, match=r"pad='xyz' is \d tokens"):
        lp.steering.contrast(tiny_gpt2, " the cat", "", pad="xyz")
    with pytest.raises(ArgumentError, match="pad=''"):
        lp.steering.contrast(tiny_gpt2, " the cat", "", pad="")


def test_a_contrast_under_the_users_hooks(tiny_gpt2):
    plain = lp.steering.contrast(tiny_gpt2, " the cat", " dogs", layer=2)
    edit = lp.Scale(factor=2.0, layers=1)
    with lp.editing(tiny_gpt2, [edit]):
        under = lp.steering.contrast(tiny_gpt2, " the cat", " dogs", layer=2)
    rows = padded(tiny_gpt2, " the cat", " dogs")
    read = lp.forward(tiny_gpt2, rows, edits=edit, layers=2)
    close(under.values, read.activation(2, text=0) - read.activation(2, text=1), "residual")
    assert not np.allclose(under.values, plain.values, atol=1e-2)
    assert under.provenance["user_hooks"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative": " the cat"}, "the same tokens"),
        ({"layer": 4}, "4 layers"),
        ({"layer": 0.5}, "whole number"),
        ({"site": "attn.pattern"}, "site='attn.pattern'"),
        ({"negative": 3}, "a text is a string"),
        ({"bos": "yes"}, "bos='yes'"),
    ],
)
def test_a_contrast_refuses(tiny_gpt2, options, message):
    options = {"positive": " the cat", "negative": " dogs", **options}
    with pytest.raises(ArgumentError, match=message):
        lp.steering.contrast(tiny_gpt2, **options)


# ---- of another input ------------------------------------------------------------------------


def test_a_mixing_input_is_its_own_activations(tiny_gpt2, gpt2_folder):
    v = lp.steering.mixing(tiny_gpt2, "the little house", layer=1)
    ids = encode(adapter_for(tiny_gpt2), "the little house")
    close(v.values, plain_residuals(tiny_gpt2, gpt2_folder)(ids)[1], "residual")
    assert len(v.provenance["tokens"]) == v.tokens == len(ids)
    assert lp.steering.mixing(tiny_gpt2, "the little house").layer == 2


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "attn.v"])
def test_a_mixing_input_at_each_site_is_added_once_at_the_front(decoder, site):
    v = lp.steering.mixing(decoder, "a cat", layer=2, site=site)
    assert v.width == adapter_for(decoder).width(site)
    plain = lp.forward(decoder, PROMPTS[0], layers=[2], site=site, logits=None).activation(2)
    found = lp.forward(
        decoder, PROMPTS[0], layers=[2], site=site, logits=None, edits=v.add(1.5)
    ).activation(2)
    expected = plain.copy()
    expected[: v.tokens] += 1.5 * v.values
    close(found, expected, "residual")


def test_a_prompt_shorter_than_the_mixing_input_is_refused(tiny_gpt2):
    v = lp.steering.mixing(tiny_gpt2, PROMPTS[1])
    with pytest.raises(ArgumentError, match=r"front\(\d+\) needs"):
        lp.forward(tiny_gpt2, "a", edits=v.add())


def test_a_mixing_input_refuses(tiny_gpt2):
    with pytest.raises(ArgumentError, match="empty"):
        lp.steering.mixing(tiny_gpt2, "")
    with pytest.raises(ArgumentError, match="4 layers"):
        lp.steering.mixing(tiny_gpt2, "a", layer=7)


# ---- figures ---------------------------------------------------------------------------------


def markup_free(figure):
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    assert "<img" not in figure.to_json().replace("\\u003c", "<")


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
def test_the_figures(theme):
    hostile = {"model": "<img src=x>", "positive_tokens": ["<img src=x>"] * 3}
    hostile["negative_tokens"] = ["a"] * 3
    one = vector(provenance=hostile)
    table = vector(width=(3, WIDTH), provenance=hostile)
    some = SteeringVectors([vector(n, seed=n, provenance=hostile) for n in range(4)])
    for shown in (one, table, 0 * one, 0 * table):
        for name in ("profile", "concentration"):
            markup_free(getattr(shown.plot, name)(theme=theme))
    for shown in (some, 0 * some, some.select([2])):
        for name in ("norms", "cosines"):
            markup_free(getattr(shown.plot, name)(theme=theme))


def test_the_figures_show_the_numbers():
    one = vector()
    bars = one.plot().data[0]
    order = np.argsort(-np.abs(one.values))[: len(bars.y)]
    np.testing.assert_allclose(bars.y, one.values[order])
    table = vector(width=(3, WIDTH))
    np.testing.assert_allclose(table.plot().data[0].y, np.linalg.norm(table.values, axis=1), 1e-6)
    some = SteeringVectors([vector(n, seed=n) for n in range(4)])
    above, below = some.plot().data
    np.testing.assert_allclose(above.y, [v.norm for v in some.values()])
    assert below.y[0] is None
    np.testing.assert_allclose(below.y[1:], some.to_frame()["cosine"][1:])
    grid = np.array(some.plot.cosines().data[0].z)
    np.testing.assert_allclose(grid[2, 0], some[2].cosine(some[0]))
    np.testing.assert_allclose(np.diag(grid), 1)


def test_a_vector_and_a_mapping_are_pages_too(tmp_path):
    for made in (vector(), SteeringVectors([vector(1), vector(2)])):
        page = made.to_html(tmp_path / f"{made.kind}.html", js="directory").read_text()
        assert "teering vector" in page and "resid_post" in page
