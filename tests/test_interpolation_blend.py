"""What is blended in, and where: checked against the formula, one position at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import close

from lensprobe.errors import ArgumentError, ModelError
from lensprobe.interpolation.blend import Blend, resolve_blend, steady_norm
from lensprobe.models.adapter import adapter_for
from lensprobe.models.weights import weights_of


def run(adapter, ids, stop=None) -> torch.Tensor:
    out = adapter.run(ids, stop=stop)
    assert out is not None
    return out


IDS = [[0, 40, 41, 300, 7, 90]]


def blend(model, **options) -> Blend:
    return resolve_blend(adapter_for(model), **{"layer": 1, "weight": 0.5, **options})


# ---- the norm that is matched ---------------------------------------------------------------------


def test_without_massive_dimensions_it_is_the_norm():
    vectors = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    close(steady_norm(vectors)[:, 0], vectors.norm(dim=-1), "residual")


@settings(max_examples=25, deadline=None)
@given(size=st.floats(300.0, 1e6), at=st.integers(0, 63), sign=st.sampled_from([-1, 1]))
def test_a_massive_dimension_does_not_count(size, at, sign):
    vector = torch.randn(1, 64, generator=torch.Generator().manual_seed(at))
    massive = vector.clone()
    massive[0, at] = sign * size
    rest = vector.clone()
    rest[0, at] = 0.0
    assert float(steady_norm(massive)) == pytest.approx(float(rest.norm()), rel=1e-5)


def test_it_is_continuous_so_that_rounding_cannot_decide():
    vector = torch.ones(1, 32)
    sizes = torch.linspace(1.0, 40.0, 4001)
    many = vector.repeat(len(sizes), 1)
    many[:, 0] = sizes
    steps = steady_norm(many)[:, 0].diff().abs()
    # A step at the rule's ends would be as large as the dimension itself, 10 or 20.
    assert float(steps.max()) < 0.05


def test_vectors_of_mostly_zeros_have_their_plain_norm():
    vector = torch.zeros(1, 32)
    vector[0, 3] = 5.0
    assert float(steady_norm(vector)) == 5.0
    assert float(steady_norm(torch.zeros(1, 4))) == 0.0


# ---- the formula ----------------------------------------------------------------------------------


def parts(model, **options):
    made = blend(model, **options)
    random = torch.Generator().manual_seed(1)
    width = model.cfg.d_model
    h, e = torch.randn(2, 2, 5, width, generator=random)
    return made, h * 3.0, e, torch.ones(2, 5, dtype=torch.bool)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_raw_targets_follow_the_formula(tiny_gpt2, weight):
    made, h, e, places = parts(tiny_gpt2, weight=weight, norm="raw")
    close(made.apply(h, e, 1, places), (1 - weight) * h + weight * e, "residual")


def test_a_matched_target_has_the_norm_of_what_it_replaces(tiny_gpt2):
    made, h, e, places = parts(tiny_gpt2, weight=1.0)
    out = made.apply(h, e, 1, places)
    close(out.norm(dim=-1), h.norm(dim=-1), "residual")
    close(torch.cosine_similarity(out, e, dim=-1), torch.ones(2, 5))


def test_a_norm_can_be_given(tiny_gpt2):
    made, h, e, places = parts(tiny_gpt2, weight=1.0, norm=7.5)
    close(made.apply(h, e, 1, places).norm(dim=-1), torch.full((2, 5), 7.5), "residual")


def test_a_target_of_zeros_stays_zero(tiny_gpt2):
    for norm in ("match", 2.0):
        made, h, e, places = parts(tiny_gpt2, weight=1.0, norm=norm)
        assert not made.apply(h, torch.zeros_like(e), 1, places).any()


def test_weight_zero_and_unchosen_positions_are_left_bit_for_bit(tiny_gpt2):
    made, h, e, places = parts(tiny_gpt2, weight=0.0)
    assert torch.equal(made.apply(h, e, 1, places), h)
    made = made.at([0.9])
    places[0, 2] = False
    out = made.apply(h, e, 1, places)
    assert torch.equal(out[0, 2], h[0, 2])
    assert not torch.equal(out[0, 1], h[0, 1])


def test_each_layer_has_its_own_weight_in_the_order_given(tiny_gpt2):
    made = blend(tiny_gpt2, layer=[2, 0], weight=[0.25, 1.0], norm="raw")
    assert made.layers == (0, 2)
    _, h, e, places = parts(tiny_gpt2)
    close(made.apply(h, e, 2, places), 0.75 * h + 0.25 * e, "residual")
    close(made.apply(h, e, 0, places), e, "residual")


@settings(max_examples=10, deadline=None)
@given(at=st.integers(0, 4), seed=st.integers(0, 9))
def test_a_position_depends_on_itself_alone(tiny_gpt2, at, seed):
    made, h, e, places = parts(tiny_gpt2)
    other = torch.randn(h.shape, generator=torch.Generator().manual_seed(seed)) * 50
    mixed = other.clone()
    mixed[:, at] = h[:, at]
    together = made.apply(mixed, e, 1, places)[:, at]
    assert torch.equal(together, made.apply(h, e, 1, places)[:, at])


def test_half_precision_streams_keep_their_dtype(tiny_gpt2):
    made, h, e, places = parts(tiny_gpt2, weight=0.5)
    out = made.apply(h.half(), e.half(), 1, places)
    assert out.dtype == torch.float16
    np.testing.assert_allclose(out.float(), made.apply(h, e, 1, places), rtol=0, atol=2e-2)


# ---- which positions ------------------------------------------------------------------------------


def test_position_zero_and_unknown_next_tokens_are_left_alone(tiny_gpt2):
    positions = torch.arange(4)[None]
    known = torch.tensor([[True, True, True, False]])
    assert blend(tiny_gpt2).places(positions, known).tolist() == [[False, True, True, False]]
    every = blend(tiny_gpt2, keep_first=False)
    assert every.places(positions, known).tolist() == [[True, True, True, False]]


def test_only_where_the_model_was_surprised(tiny_gpt2):
    positions = torch.arange(4)[None]
    known = torch.ones(1, 4, dtype=torch.bool)
    chance = torch.tensor([[0.01, 0.2, 0.1, 0.05]])
    made = blend(tiny_gpt2, below=0.1)
    assert made.places(positions, known, chance).tolist() == [[False, False, False, True]]
    with pytest.raises(ArgumentError, match="probabilities"):
        made.places(positions, known)


# ---- targets --------------------------------------------------------------------------------------


def test_the_embedding_is_the_stored_row(decoder):
    rows = blend(decoder).rows(torch.tensor(IDS))
    assert torch.equal(rows, decoder.W_E[torch.tensor(IDS)])


def test_the_unembedding_is_the_direction_along_which_the_logit_grows(decoder):
    adapter = adapter_for(decoder)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        logits, stream = (run(adapter, ids, stop)[0] for stop in (None, adapter.n_layers))
        norm = weights_of(adapter).norm("ln_final")
        assert norm is not None
        centred = stream - stream.mean(-1, keepdim=True) if norm.centred else stream
        rows = blend(decoder, target="unembedding").rows(torch.arange(adapter.d_vocab))
        along = (centred * norm.scale(stream)[:, None]) @ rows.T
    # What biases add to a token's logit is the same at every position.
    close(along - along[0], logits - logits[0])


def test_an_early_residual_is_in_no_matrix(tiny_gpt2):
    made = blend(tiny_gpt2, target="early")
    assert made.early == 0
    assert blend(tiny_gpt2, target=1).early == 1
    with pytest.raises(ArgumentError, match="early layer"):
        made.rows(torch.tensor(IDS))


def test_what_is_stored_of_it(tiny_gpt2):
    facts = blend(tiny_gpt2, layer=-2, weight=0.3, target="early", below=0.1).provenance()
    assert facts == {
        "layers": [2],
        "weights": [0.3],
        "target": "residual after layer 0",
        "norm": "that of what it replaces",
        "keep_first": True,
        "below": 0.1,
        "site": "resid_post",
    }


def test_nothing_but_zeros_is_plain(tiny_gpt2):
    assert blend(tiny_gpt2, weight=0).plain
    assert not blend(tiny_gpt2, weight=1e-9).plain
    zero = torch.zeros((), requires_grad=True)
    assert not blend(tiny_gpt2, weight=zero).plain
    assert not replace(blend(tiny_gpt2), weights=torch.tensor([0.1])).plain


# ---- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": None}, "layer=None"),
        ({"layer": 4}, "layer=4"),
        ({"layer": 1.5}, "layer"),
        ({"layer": []}, "one or more different layers"),
        ({"layer": [1, -3]}, "different layers"),
        ({"weight": None}, "weight=None"),
        ({"weight": True}, "weight=True"),
        ({"weight": "much"}, "weight='much'"),
        ({"weight": 1.1}, "extrapolate=True"),
        ({"weight": -0.1}, "from 0 to 1"),
        ({"weight": float("nan")}, "finite"),
        ({"weight": [0.1, 0.2]}, "for 1 layers"),
        ({"layer": [0, 1], "weight": [[0.1, 0.2]]}, "for 2 layers"),
        ({"target": "embeding"}, "Did you mean 'embedding'"),
        ({"target": 2}, "above the blended layer 1"),
        ({"target": 9}, "target=9"),
        ({"norm": "same"}, "norm='same'"),
        ({"norm": 0}, "positive number"),
        ({"norm": float("inf")}, "positive number"),
        ({"keep_first": 1}, "keep_first=1"),
        ({"extrapolate": "yes"}, "extrapolate='yes'"),
        ({"below": 0}, "below=0"),
        ({"below": 1.5}, "below=1.5"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        blend(tiny_gpt2, **options)


def test_weights_outside_are_allowed_when_said(tiny_gpt2):
    assert blend(tiny_gpt2, weight=-0.5, extrapolate=True).weights.tolist() == [-0.5]


def test_encoder_decoders_are_refused(tiny_t5):
    with pytest.raises(ModelError, match="encoder-decoder"):
        blend(tiny_t5)
