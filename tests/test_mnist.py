"""A network for digits: its hook points, lensprobe's edits on it, and the study against a slow loop."""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, HookPointError, LensprobeError, ModelError
from lensprobe.mnist.study_tables import rows_where
from lensprobe.models.checking import _NEEDS

PAIRS = [(3, 1), (1, 3), (8, 0), (4, 9)]
EXACT = 1e-5


@pytest.fixture(scope="module")
def data():
    return lp.mnist.load_digits_data()


@pytest.fixture(scope="module")
def trained(data):
    """A network of 64-24-24-10 that has learned the small digits."""
    model = lp.mnist.HookedMLP((64, 24, 24, 10), seed=1)
    lp.mnist.train(model, data, epochs=12, learning_rate=5e-3, every=1000, seed=1)
    return model


@pytest.fixture(scope="module")
def residual(data):
    model = lp.mnist.HookedMLP((64, 16, 16, 16, 10), residual=True, seed=2)
    lp.mnist.train(model, data, epochs=4, learning_rate=5e-3, every=1000)
    return model


@pytest.fixture(scope="module")
def study(trained, data):
    return lp.mnist.study(trained, data, pairs=PAIRS, scales=(0.5, 1.0), n=20)


def images_of(data, count=None):
    return torch.from_numpy(data.test_images[:count])


def measured(logits, data, positive, negative):
    """What the study reports, from logits of all test images, in float64 and by the definition."""
    logits = logits.detach().double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = data.test_labels
    loss, right = -log_p[np.arange(len(labels)), labels], logits.argmax(1) == labels
    own = labels == negative
    means = np.stack([logits[labels == shown].mean(0) for shown in range(10)])
    return {
        ("others", "loss"): loss[~own].mean(),
        ("others", "perplexity"): np.exp(loss[~own].mean()),
        ("others", "accuracy"): right[~own].mean(),
        ("all", "loss"): loss.mean(),
        ("all", "accuracy"): right.mean(),
        ("negative", "loss"): loss[own].mean(),
        ("negative", "probability_positive"): np.exp(log_p[own, positive]).mean(),
        ("negative", "probability_negative"): np.exp(log_p[own, negative]).mean(),
    }, means


def slow(model, data, positive, negative, layer, scale):
    """One cell as anyone would write it with TransformerLens alone."""
    name = f"layers.{layer}.hook_out"
    first = torch.from_numpy(
        np.stack([data.images[np.argmax(data.labels == digit)] for digit in (positive, negative)])
    )
    _, cache = model.run_with_cache(first.to(next(model.parameters()).dtype))
    step = scale * (cache[name][0] - cache[name][1])
    images = images_of(data).to(step.dtype)
    logits = model.run_with_hooks(images, fwd_hooks=[(name, lambda x, hook: x + step)])
    return measured(logits, data, positive, negative)


# ---- the network ----------------------------------------------------------------------------


def test_a_hook_point_stands_behind_every_layer():
    model = lp.mnist.HookedMLP((64, 8, 8, 10))
    assert model.kinds == ("linear", "ReLU", "linear", "ReLU", "linear")
    assert list(model.hook_dict) == ["hook_input", *(f"layers.{i}.hook_out" for i in range(5))]
    _, cache = model.run_with_cache(torch.rand(3, 8, 8))
    assert [cache[f"layers.{i}.hook_out"].shape[1] for i in range(5)] == [8, 8, 8, 8, 10]
    assert torch.equal(cache["layers.1.hook_out"], cache["layers.0.hook_out"].clamp(min=0))


def test_the_arithmetic_is_the_plain_one(trained):
    weights = [layer.linear for layer in trained.layers if hasattr(layer, "linear")]
    x = torch.rand(4, 64)
    expected = x
    for index, linear in enumerate(weights):
        expected = expected @ linear.weight.T + linear.bias
        expected = expected.relu() if index < len(weights) - 1 else expected
    close(trained(x), expected)


def test_a_residual_block_is_one_layer_with_its_branch_inside(residual):
    assert residual.kinds == ("linear", "ReLU", "residual block", "residual block", "linear")
    _, cache = residual.run_with_cache(torch.rand(3, 64))
    before, after = cache["layers.1.hook_out"], cache["layers.2.hook_out"]
    close(after, before + cache["layers.2.hook_branch"])
    close(cache["layers.2.hook_branch"], cache["layers.2.hook_pre"].clamp(min=0))


def test_weights_follow_from_the_seed_and_leave_the_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, two, other = (lp.mnist.HookedMLP((4, 3, 2), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.layers[0].linear.weight, two.layers[0].linear.weight)
    assert not torch.equal(one.layers[0].linear.weight, other.layers[0].linear.weight)


@pytest.mark.parametrize("kind", ["trained", "residual"])
def test_it_comes_back_from_its_file(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    path = model.save(tmp_path / "network.safetensors")
    again = lp.mnist.HookedMLP.load(path)
    assert again.cfg == model.cfg
    x = torch.rand(3, 64)
    assert torch.equal(again(x), model(x))
    with pytest.raises(LensprobeError, match="exists already"):
        model.save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ModelError, match="cannot be read"):
        lp.mnist.HookedMLP.load(path)


def test_a_file_of_something_else_is_no_network(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="is not a saved HookedMLP"):
        lp.mnist.HookedMLP.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("widths", [(5,), (5, 0, 2), (5, 2.5), "784", 7])
def test_widths_that_are_none(widths):
    with pytest.raises(ArgumentError, match="widths="):
        lp.mnist.HookedMLP(widths)


def test_images_of_another_size(trained):
    with pytest.raises(ArgumentError, match="784 pixels each; this network reads 64"):
        trained(torch.zeros(1, 28, 28))


# ---- lensprobe's edits on it ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trained", "residual"])
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_edits_do_what_hooks_do(kind, layer, data, request):
    model = request.getfixturevalue(kind)
    images = images_of(data, 7)
    width = model.layers[layer].width
    vector = torch.linspace(-1, 1, width)
    unit, third = vector / vector.norm(), torch.arange(width) == 3
    pairs = [
        (lp.Add(vector, layers=layer, scale=2.0), lambda x: x + 2 * vector),
        (
            lp.Scale(layers=layer, factor=0.5, dim=3),
            lambda x: x - 0.5 * x * third,
        ),
        (lp.ProjectOut(vector, layers=layer), lambda x: x - (x @ unit)[:, None] * unit),
        (lp.Set(layers=layer, value=vector), lambda x: vector.expand_as(x)),
        (lp.Mix(vector, layers=layer, weight=0.25), lambda x: 0.75 * x + 0.25 * vector),
        (
            lp.Add(vector, layers=layer, scale=torch.arange(7.0)),
            lambda x: x + torch.arange(7.0)[:, None] * vector,
        ),
    ]
    for edit, function in pairs:
        with lp.editing(model, edit):
            got, cache = model.run_with_cache(images)
        hook = (f"layers.{layer}.hook_out", lambda x, hook, f=function: f(x))
        close(got, model.run_with_hooks(images, fwd_hooks=[hook]))
        assert cache[f"layers.{layer}.hook_out"].shape == (7, width)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_pixels_are_the_site_before_layer_0(trained, data):
    images, step = images_of(data, 5), torch.linspace(0, 1, 64)
    with lp.editing(trained, lp.Add(step, layers=0, site="resid_pre")):
        close(trained(images), trained_alone(trained, images + step))


def trained_alone(model, images):
    for layer in model.layers:
        images = layer.linear(images) if hasattr(layer, "linear") else images.relu()
    return images


def test_gradients_flow_through_an_edit(trained, data):
    vector = torch.zeros(24, requires_grad=True)
    with lp.editing(trained, lp.Add(vector, layers=1)):
        loss = torch.nn.functional.cross_entropy(
            trained(images_of(data, 50)), torch.from_numpy(data.test_labels[:50])
        )
    (gradient,) = torch.autograd.grad(loss, vector)
    assert gradient.abs().max() > 0


def test_edits_that_do_not_fit(trained):
    for edit, message in (
        (lp.Add(torch.ones(10), layers=0), r"vector has shape \(10,\)"),
        (lp.Add(torch.ones(24), layers="all"), "10, 24 wide"),
        (lp.Add(torch.ones(24), layers=5), "5 layers, 0 to 4"),
    ):
        with pytest.raises(ArgumentError, match=message), lp.editing(trained, edit):
            pass
    with (
        pytest.raises(HookPointError, match="has resid_post"),
        lp.editing(trained, lp.Add(torch.ones(24), layers=0, site="mlp_out")),
    ):
        pass


def test_analyses_of_text_say_what_they_need(trained):
    for name in set(_NEEDS) - {"lp.editing"}:
        call = functools.reduce(getattr, name.split(".")[1:], lp)
        subjects = [
            parameter
            for parameter in inspect.signature(call).parameters.values()
            if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            and parameter.default is inspect.Parameter.empty
        ]
        with pytest.raises(LensprobeError):
            call(trained, *["some text"] * (len(subjects) - 1))
    for call in (lp.check, lambda m: lp.forward(m, "a"), lambda m: lp.massive.scan(m, "a")):
        with pytest.raises(ModelError, match="a HookedMLP reads images"):
            call(trained)


def test_a_language_model_is_sent_elsewhere(planted, data):
    with pytest.raises(ModelError, match=r"needs an lp\.mnist\.HookedMLP"):
        lp.mnist.study(planted, data)


# ---- the study ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trained", "residual"])
@settings(max_examples=8, deadline=None)
@given(
    pair=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    layer=st.integers(0, 4),
    scale=st.sampled_from([-1.0, 0.0, 0.3, 1.0, 4.0]),
)
def test_the_study_equals_a_slow_loop(kind, request, data, pair, layer, scale):
    model = request.getfixturevalue(kind)
    got = lp.mnist.study(model, data, pairs=[pair], layers=layer, scales=[scale], n=0)
    expected, means = slow(model, data, *pair, layer, scale)
    values = {(row.group, row.measure): row.value for row in got.effects.itertuples()}
    for key, value in expected.items():
        # A large coefficient makes large logits, and float32 rounds at their size.
        assert values[key] == pytest.approx(value, rel=EXACT, abs=EXACT * max(1, abs(means).max()))
    close(got.logits[0, 0, 0], means, "residual")


def test_all_cells_at_once_equal_each_cell_alone(trained, data, study):
    for pair, layer, scale in ((PAIRS[1], 3, 0.5), (PAIRS[2], 0, 1.0)):
        alone = lp.mnist.study(trained, data, pairs=[pair], layers=layer, scales=[scale], n=0)
        where = {"positive": pair[0], "negative": pair[1], "layer": layer, "scale": scale}
        close(rows_where(study.effects, **where)["value"], alone.effects["value"])


def test_what_linearity_says(data):
    """An addition before a linear map is one behind it; in float64 nothing else is left.

    Hooks of the user's own send each addition through a whole pass of its own, so that nothing here
    is true by the shortcut that uses it.
    """
    model = lp.mnist.HookedMLP((64, 24, 24, 10), seed=3).double()
    lp.mnist.train(model, data, epochs=3, learning_rate=5e-3, every=1000)
    model.hook_input.add_hook(lambda x, hook: x)
    try:
        found = lp.mnist.study(model, data, pairs=PAIRS[:2], n=0)
    finally:
        model.reset_hooks()
    assert "a whole pass of its own" in found.provenance["notes"][0]
    values = [rows_where(found.effects, layer=layer)["value"].to_numpy() for layer in range(5)]
    np.testing.assert_allclose(values[1], values[2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(values[3], values[4], rtol=0, atol=1e-9)
    assert abs(values[0] - values[1]).max() > 1e-3 and abs(values[2] - values[3]).max() > 1e-3
    # The pixels are layer 0.
    first = {digit: torch.from_numpy(data.images[data.of(digit)[0]]).double() for digit in (3, 1)}
    with torch.no_grad():
        logits = model(images_of(data).double() + (first[3] - first[1]))
    rows = rows_where(found.effects, layer=0, positive=3, negative=1)
    got = {(row.group, row.measure): row.value for row in rows.itertuples()}
    for key, value in measured(logits, data, 3, 1)[0].items():
        assert got[key] == pytest.approx(value, abs=1e-9)


def test_the_shortcut_keeps_what_linearity_says(study):
    values = [rows_where(study.effects, layer=layer)["value"].to_numpy() for layer in range(5)]
    np.testing.assert_allclose(values[1], values[2], rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(values[3], values[4], rtol=EXACT, atol=EXACT)


def test_nothing_added_changes_nothing(trained, data):
    same = lp.mnist.study(trained, data, pairs=[(3, 3)], n=5)
    close(same.effects["change"], np.zeros(len(same.effects)))
    nothing = lp.mnist.study(trained, data, pairs=[(3, 1)], scales=[0.0], n=5)
    close(nothing.effects["change"], np.zeros(len(nothing.effects)))
    moved = rows_where(nothing.distances, measure="distance")
    close(moved["change"], np.zeros(len(moved)))


def test_the_unedited_row_is_plain_evaluation(trained, data, study):
    with torch.no_grad():
        logits = trained(images_of(data))
    labels = torch.from_numpy(data.test_labels)
    for digit in range(10):
        keep = labels != digit
        loss = torch.nn.functional.cross_entropy(logits[keep], labels[keep])
        got = rows_where(study.plain, negative=digit, group="others", measure="loss")["value"]
        assert got.item() == pytest.approx(loss.item(), abs=EXACT)
    close(np.diag(study.square())[0], study.plain.query("negative == 0").iloc[0]["value"])


def test_ways_of_making_a_vector(trained, data):
    """Before the first ReLU the mean of activations is the activation of the mean; behind it, not."""
    means, image, one, first = (
        lp.mnist.study(trained, data, pairs=PAIRS, layers=[0, 1], images=way, n=0)
        for way in ("mean", "mean image", 1, "first")
    )
    close(means.logits[0], image.logits[0])
    assert abs(means.logits[1] - image.logits[1]).max() > 0.1
    close(one.logits, first.logits)
    assert abs(first.logits - means.logits).max() > 0.1


def test_distances_are_those_of_the_definition(trained, data):
    found = lp.mnist.study(trained, data, pairs=[(3, 1)], layers=1, n=30, seed=4)
    _, train = trained.run_with_cache(torch.from_numpy(data.images))
    order = np.sort(np.random.default_rng(4).permutation(len(data.test_images))[:30])
    _, test = trained.run_with_cache(torch.from_numpy(data.test_images[order]))
    r, h = (c["layers.1.hook_out"].double().numpy() for c in (train, test))
    v = r[data.of(3)[0]] - r[data.of(1)[0]]
    means = np.stack([r[data.labels == digit].mean(0) for digit in range(10)])
    spread = np.sqrt(((r - means[data.labels]) ** 2).sum(1).mean())
    keep = data.test_labels[order] != 1
    apart = np.linalg.norm((h + v)[:, None] - r[None], axis=-1)
    plain = np.linalg.norm(h[:, None] - r[None], axis=-1)
    same = data.labels[apart.argmin(1)] == data.test_labels[order]
    expected = {
        "length": (np.linalg.norm(v) / spread, 0),
        "norm": (np.linalg.norm((h + v)[keep], axis=1).mean() / spread, None),
        "distance": (apart.min(1)[keep].mean() / spread, plain.min(1)[keep].mean() / spread),
        "nearest_accuracy": (same[keep].mean(), None),
    }
    for row in found.distances.itertuples():
        value, base = expected[row.measure]
        assert row.value == pytest.approx(value, rel=1e-4)
        assert base is None or row.plain == pytest.approx(base, rel=1e-4)


def test_the_users_hooks_see_their_passes_and_stay(trained, data):
    seen = []
    trained.hook_input.add_hook(lambda x, hook: seen.append(len(x)))
    try:
        under = lp.mnist.study(trained, data, pairs=PAIRS[:2], layers=2, n=0)
        assert len(trained.hook_input.fwd_hooks) == 1
    finally:
        trained.reset_hooks()
    # Whole passes: one for what the vectors are read from (a digit each), one plain, one a pair.
    assert seen.count(len(data.test_images)) == 3
    alone = lp.mnist.study(trained, data, pairs=PAIRS[:2], layers=2, n=0)
    close(under.effects["value"], alone.effects["value"])
    assert under.provenance["user_hooks"] == ["hook_input"] and not alone.provenance["notes"]


def test_a_study_inside_editing_is_of_the_edited_network(trained, data):
    with lp.editing(trained, lp.Scale(layers=3, factor=0.0)):
        found = lp.mnist.study(trained, data, pairs=[(3, 1)], layers=0, n=0)
    # Nothing passes layer 3: every image gets the bias, edited or not.
    close(found.effects["change"], np.zeros(len(found.effects)))


def test_it_is_saved_and_printed(study, tmp_path):
    again = lp.open(study.save(tmp_path / "study.zip"))
    assert again.effects.equals(study.effects)
    assert again.summary() == study.summary()
    assert "layer 0 loss=" in repr(study)
    assert study.tables == ("effects", "plain", "distances")
    frame = study.distribution(3, 1, layer=1)
    assert frame.groupby("shown")["probability"].sum().to_numpy() == pytest.approx(np.ones(10))
    assert study.against_published()["layer"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": [(3, 12)]}, "digit 12 of (3, 12) does not occur"),
        ({"pairs": [3]}, "is no pair of digits"),
        ({"pairs": []}, "pairs is empty"),
        ({"pairs": "every"}, 'or "all"'),
        ({"layers": 5}, "0 to 4"),
        ({"scales": []}, "scales="),
        ({"scales": [float("nan")]}, "scales="),
        ({"images": "last"}, "images='last'"),
        ({"images": 0}, "images=0"),
        ({"n": -1}, "n=-1"),
    ],
)
def test_bad_input(trained, data, options, message):
    with pytest.raises(ArgumentError) as error:
        lp.mnist.study(trained, data, **{"pairs": [(3, 1)], **options})
    assert message in str(error.value)


def test_a_network_that_does_not_fit_the_images(data):
    with pytest.raises(ArgumentError, match="have 64 pixels; this network reads 784"):
        lp.mnist.study(lp.mnist.HookedMLP((784, 4, 10)), data)
    with pytest.raises(ArgumentError, match="it has 5 outputs; there are 10 digits"):
        lp.mnist.study(lp.mnist.HookedMLP((64, 4, 5)), data)
    with pytest.raises(ArgumentError, match="load_digits_data"):
        lp.mnist.study(lp.mnist.HookedMLP((64, 4, 10)), "digits")


def test_cells_that_were_not_run(study):
    with pytest.raises(ArgumentError, match="not in this study"):
        study.distribution(0, 1)
    with pytest.raises(ArgumentError, match="this study has layers"):
        study.square(layer=9)


# ---- training -------------------------------------------------------------------------------


def test_training_follows_from_its_seed(data):
    networks = [lp.mnist.HookedMLP((64, 12, 10)) for _ in range(3)]
    curves = [
        lp.mnist.train(model, data, epochs=2, every=3, seed=seed).curve
        for model, seed in zip(networks, (0, 0, 1), strict=True)
    ]
    assert curves[0].equals(curves[1]) and not curves[0].equals(curves[2])
    assert torch.equal(*(model.layers[0].linear.weight for model in networks[:2]))
    assert all(parameter.grad is None for parameter in networks[0].parameters())


def test_training_stops_at_its_target_and_keeps_its_curve(data):
    model = lp.mnist.HookedMLP((64, 32, 10))
    found = lp.mnist.train(model, data, target=1.0, every=2, learning_rate=5e-3)
    assert found.summary()["reached"] and found.curve["loss"].iloc[-1] <= 1.0
    assert (found.curve["loss"].iloc[:-1] > 1.0).all()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            model(images_of(data)), torch.from_numpy(data.test_labels)
        )
    assert found.summary()["loss"] == pytest.approx(loss.item(), abs=EXACT)
    assert np.isnan(found.curve["training_loss"].iloc[0])
    assert lp.mnist.train(model, data, target=2.0).provenance["steps"] == 0


@pytest.mark.parametrize(
    "options",
    [{"target": 0}, {"epochs": 0}, {"learning_rate": -1}, {"batch_size": 2.5}, {"every": 0}],
)
def test_training_with_options_out_of_range(data, options):
    with pytest.raises(ArgumentError, match=next(iter(options))):
        lp.mnist.train(lp.mnist.HookedMLP((64, 12, 10)), data, **options)
