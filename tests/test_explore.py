"""`lp.explore`: every answer is the one that the analysis gives, and only what changed is computed."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, LensprobeError, MissingPackageError, ModelError
from lensprobe.explore import steered as steered_module
from lensprobe.explore.explored import slider
from lensprobe.explore.interpolation import interpolation_core
from lensprobe.explore.memory import Memory
from lensprobe.explore.rescale import rescale_core
from lensprobe.explore.steering import steering_core
from lensprobe.models.copying import copied
from lensprobe.steering import SteeringVector
from lensprobe.steering.study import Sampling

PROMPT = "Hello world, this is"
TEXT = "Hello world, this is the cat. one two three four five"


def vector_of(model, layer=1, tokens=None):
    shape = (model.cfg.d_model,) if tokens is None else (tokens, model.cfg.d_model)
    return SteeringVector(np.random.default_rng(0).normal(size=shape), layer)


def steering_of(model, vector=None, **options):
    given = {"prompt": PROMPT, "layer": None, "scale": 1.0, "scales": (-9, 9), "positions": None}
    sampling = options.pop("sampling", Sampling(5))
    chosen = {**given, "sampling": sampling, "bos": "auto", **options}
    return steering_core(model, vector_of(model) if vector is None else vector, **chosen)


def rescale_of(model, prompt=TEXT, **options):
    given = {"at": None, "dim": 1, "position": None, "layer": 0, "factor": 0.0, "factors": (-1, 4)}
    return rescale_core(model, prompt, **{**given, "epsilon": 0.1, "bos": "auto", **options})


def interpolation_of(model, prompt=PROMPT, **options):
    given = {"layer": 1, "weight": 0.5, "weights": (0, 1), "target": "embedding", "norm": "match"}
    options = {**given, "keep_first": True, "sampling": Sampling(5), "bos": "auto", **options}
    return interpolation_core(model, prompt, **options)


# ---- answers are those of the analyses ----------------------------------------------------------


def test_steering_is_what_comparing_positions_finds(decoder):
    core = steering_of(decoder)
    whole = lp.steering.compare_positions(
        decoder, PROMPT, vector_of(decoder), positions=core.rules, scale=2.5, layers=2,
        max_new_tokens=5, progress=False,
    )  # fmt: skip
    texts = whole.texts.set_index("condition")["completion"]
    for name in core.rules:
        answer = core.ask({"positions": name, "layer": 2, "scale": 2.5})
        rows = whole.tokens[whole.tokens["condition"] == name]
        assert list(answer.tokens["token"]) == list(rows["token"])
        assert list(answer.tokens["position"]) == list(rows["position"])
        close(answer.tokens["kl"], rows["kl"])
        assert list(answer.texts["completion"]) == [texts["plain"], texts[name]]


def test_the_next_token_is_that_of_a_whole_pass(decoder):
    core = steering_of(decoder)
    answer = core.ask({"scale": -3.0, "positions": "everywhere"})
    edit = vector_of(decoder).add(-3.0, lp.positions.all())
    for column, edits in (("plain_probability", ()), ("probability", (edit,))):
        logits = lp.forward(decoder, PROMPT, edits=edits, logits="last").logits[0]
        expected = torch.tensor(logits).softmax(-1)
        found = answer.next.set_index("id")[column]
        close(found, expected[list(found.index)])
        assert int(expected.argmax()) in found.index


def test_a_selector_that_moves_is_read_token_after_token(tiny_gpt2):
    core = steering_of(tiny_gpt2, positions={"newest": lp.positions.last()})
    whole = lp.steering.compare_positions(
        tiny_gpt2, PROMPT, vector_of(tiny_gpt2), positions={"newest": lp.positions.last()},
        max_new_tokens=5, progress=False,
    )  # fmt: skip
    rows = whole.tokens[whole.tokens["condition"] == "newest"]
    close(core.ask({}).tokens["kl"], rows["kl"])


def test_scale_zero_is_the_plain_model(decoder):
    answer = steering_of(decoder).ask({"scale": 0.0})
    assert answer.kl == 0.0
    assert answer.texts["completion"].nunique() == 1
    assert list(answer.next["probability"]) == list(answer.next["plain_probability"])


def test_a_vector_with_rows_goes_to_the_front_or_to_the_end(tiny_llama):
    core = steering_of(tiny_llama, vector_of(tiny_llama, tokens=2))
    assert list(core.rules) == ["the front", "the prompt's end"]
    kls = [core.ask({"positions": name}).kl for name in core.rules]
    assert kls[0] != kls[1] and min(kls) > 0


def test_each_layer_has_its_own_vector_where_there_are_several(tiny_llama):
    vectors = {layer: vector_of(tiny_llama, layer) * (layer + 1) for layer in (0, 2, 3)}
    core = steering_of(tiny_llama, vectors)
    assert core.initial["layer"] == 2
    one = steering_of(tiny_llama, vectors[3]).ask({"layer": 3})
    assert_frame_equal(core.ask({"layer": 3}).tokens, one.tokens)


@pytest.mark.parametrize(("layer", "factor"), [(0, 0.0), (2, 3.0), (3, -1.0), (1, 1.0)])
def test_rescaling_is_what_the_analysis_finds(decoder, layer, factor):
    answer = rescale_of(decoder).ask({"layer": layer, "factor": factor})
    whole = lp.massive.rescale(
        decoder, TEXT, dim=1, layer=layer, factors=[factor], epsilon=0.1, progress=False
    )
    mine, plain = answer.run("rescaled"), answer.run("plain")
    for measure in ("loss", "perplexity", "kl", "sink_rate"):
        assert mine[measure] == pytest.approx(whole.effect(measure, factor)["value"], abs=1e-5)
        before = whole.plain.set_index("measure")["value"][measure]
        assert plain[measure] == pytest.approx(before, abs=1e-5)
    assert mine["value"] == pytest.approx(whole.effect("attention", factor)["value"], abs=1e-6)
    heads = whole.heads.groupby("layer")["value"].mean()
    rows = answer.layers[answer.layers["condition"] == "rescaled"]
    close(rows["value"], heads)


def test_the_planted_activation_is_found_and_takes_the_sink_along(planted):
    core = rescale_of(planted, dim=None, layer=None, epsilon=0.3)
    answer = core.ask({"factor": 0.0})
    assert (answer.provenance["dims"], answer.provenance["position"]) == ([447], 0)
    assert answer.run("plain")["sink_rate"] > 0 == answer.run("rescaled")["sink_rate"]


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_interpolation_is_what_generating_both_finds(decoder, weight):
    core = interpolation_of(decoder, sampling=Sampling(5, temperature=0.8, seed=3))
    answer = core.ask({"layer": 2, "weight": weight})
    whole = lp.interpolation.generate(
        decoder, PROMPT, layer=2, weight=weight, plain=True, max_new_tokens=5, temperature=0.8,
        seed=3,
    )  # fmt: skip
    order = ["condition", "position"]
    for mine, theirs in ((answer.tokens, whole.tokens), (answer.texts, whole.texts)):
        keys = [name for name in order if name in mine]
        both = [f.sort_values(keys, ignore_index=True) for f in (mine, theirs)]
        assert_frame_equal(*both, check_exact=False, atol=1e-5)
    assert answer.provenance["blend"]["layers"] == [2]


def test_interpolation_may_not_go_below_its_target(tiny_llama):
    core = interpolation_of(tiny_llama, target=2, layer=3)
    assert core.controls[0].options == (2, 3)
    with pytest.raises(ArgumentError, match="layer=1"):
        interpolation_of(tiny_llama, target=2, layer=1)


# ---- only what changed --------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often a text was written, and how often a plain pass was made to branch off."""
    counts = {"texts": 0, "passes": 0}

    class Counted(steered_module.Fan):
        def __init__(self, *arguments, **options):
            counts["passes"] += 1
            super().__init__(*arguments, **options)

    complete = Sampling.complete

    def written(self, *arguments):
        counts["texts"] += 1
        return complete(self, *arguments)

    monkeypatch.setattr(steered_module, "Fan", Counted)
    monkeypatch.setattr(Sampling, "complete", written)
    return counts


def test_only_what_a_change_touches_is_computed(tiny_llama, counted):
    core = steering_of(tiny_llama)

    def costs(**settings):
        before = dict(counted)
        core.ask(settings)
        return tuple(counted[name] - before[name] for name in ("texts", "passes"))

    assert costs() == (2, 1)
    assert costs(scale=2.0) == (1, 0)
    assert costs(scale=2.0, layer=3) == (1, 0)
    assert costs(scale=0.0, layer=2) == (0, 0)
    assert costs(positions="everywhere") == (1, 1)
    assert costs(prompt="one two three") == (2, 1)
    assert costs(scale=2.0) == (0, 0)


def test_earlier_answers_are_the_same_objects(tiny_llama):
    core = steering_of(tiny_llama)
    first = core.ask({})
    other = core.ask({"scale": 2.0})
    assert core.ask({}) is first and core.ask({"scale": 2.0}) is other


def test_a_text_is_read_once_for_every_layer_and_factor(tiny_gpt2, monkeypatch):
    core = rescale_of(tiny_gpt2)
    core.ask({})
    monkeypatch.setattr("lensprobe.explore.rescaled.Comparison", None)
    assert core.ask({"layer": 2, "factor": 2.0}).run("rescaled")["kl"] > 0


def test_the_plain_continuation_is_written_once_a_prompt(tiny_gpt2, monkeypatch):
    core = interpolation_of(tiny_gpt2)
    written = []
    write = core._write
    monkeypatch.setattr(core, "_write", lambda s: written.append(s["weight"]) or write(s))
    for weight in (0.5, 0.25, 0.0):
        core.ask({"weight": weight})
    assert written == [0.0, 0.5, 0.25]


def test_memory_keeps_what_was_asked_for_last():
    memory, made = Memory(2), []

    def get(key):
        return memory.of(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == list("abcb")
    assert len(memory) == 2


def test_what_fails_is_not_kept():
    memory = Memory(2)
    with pytest.raises(ZeroDivisionError):
        memory.of("a", lambda: 1 / 0)
    assert memory.of("a", lambda: 1) == 1


# ---- nothing stale ------------------------------------------------------------------------------


def test_under_hooks_of_the_user_nothing_is_kept(tiny_gpt2):
    core = steering_of(tiny_gpt2)
    before = core.ask({})
    point = tiny_gpt2.hook_dict["blocks.1.hook_resid_post"]
    point.add_hook(lambda value, hook: value * 3)
    try:
        under, again = core.ask({}), core.ask({})
        assert under is not again
        assert "hooks of your own" in under.provenance["notes"][0]
        assert_frame_equal(under.tokens, again.tokens)
        expected = lp.generate(tiny_gpt2, PROMPT, max_new_tokens=5).completions[0]
        assert under.texts["completion"][0] == expected
        assert not before.next.equals(under.next)
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    after = core.ask({})
    assert after is not before
    assert_frame_equal(after.next, before.next)


def test_changed_weights_are_noticed(tiny_gpt2):
    model = copied(tiny_gpt2)
    core = steering_of(model)
    before = core.ask({})
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    after = core.ask({})
    assert_frame_equal(after.next, steering_of(model).ask({}).next)
    assert not before.next.equals(after.next)


def test_a_seed_is_drawn_once(tiny_gpt2):
    core = steering_of(tiny_gpt2, sampling=Sampling(8, temperature=1.5))
    first = core.ask({})
    core.answers.clear()
    core.parts.clear()
    assert_frame_equal(core.ask({}).texts, first.texts)


# ---- results ------------------------------------------------------------------------------------


def test_answers_are_results(tiny_gpt2, tmp_path):
    for name, answer in (
        ("a", steering_of(tiny_gpt2).ask({})),
        ("b", rescale_of(tiny_gpt2).ask({"factor": 2.0})),
    ):
        opened = lp.open(answer.save(tmp_path / f"{name}.zip"))
        assert opened.summary() == answer.summary()
        assert "@" in answer.cite() and answer.provenance["prompt"]
        for table in answer.tables:
            assert_frame_equal(opened.to_frame(table), pd.DataFrame(answer.to_frame(table)))


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vector": "love"}, "vector='love'"),
        ({"vector": {}}, "vector={}"),
        ({"vector": SteeringVector([1.0, 2.0], 0)}, r"needs \[48\]"),
        ({"vector": SteeringVector(np.ones(48), 9)}, "layer"),
        ({"layer": 9}, "layer=9"),
        ({"scale": 20}, r"scale=20.*-9 to 9"),
        ({"scale": "much"}, "scale='much'"),
        ({"scales": (3, 3)}, "scales="),
        ({"scales": 5}, "scales=5"),
        ({"positions": {"all": "all"}}, "positions"),
        ({"positions": []}, "positions"),
        ({"prompt": ""}, "prompt=''"),
        ({"prompt": ["a", "b"]}, "prompt="),
        ({"sampling": Sampling(0)}, "max_new_tokens=0"),
        ({"sampling": Sampling(4, temperature=-1)}, "temperature=-1"),
        ({"sampling": Sampling(400)}, "context is 256"),
        ({"bos": "maybe"}, "bos='maybe'"),
    ],
)
def test_steering_refuses(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        steering_of(tiny_gpt2, **options).ask({})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"dim": 48}, "dim=48"),
        ({"position": 90}, "position=90"),
        ({"layer": 4}, "layer=4"),
        ({"factor": 5}, "factor=5"),
        ({"factors": (0, float("inf"))}, "factors="),
        ({"epsilon": 2}, "epsilon=2"),
        ({"dim": None}, "no massive activation"),
    ],
)
def test_rescaling_refuses(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        rescale_of(tiny_gpt2, **options).ask({})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"layer": 4}, "layer=4"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"norm": "big"}, "norm='big'"),
        ({"target": "embeding"}, "Did you mean 'embedding'"),
        ({"sampling": Sampling(5, top_p=2.0)}, "top_p=2.0"),
    ],
)
def test_interpolation_refuses(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        interpolation_of(tiny_gpt2, **options).ask({})


def test_unknown_settings_name_the_nearest(tiny_gpt2):
    with pytest.raises(ArgumentError, match="Did you mean 'scale'"):
        steering_of(tiny_gpt2).ask({"scal": 3})


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match=r"lp\.explore\.steering needs a decoder-only model"):
        steering_of(tiny_t5, SteeringVector(np.ones(tiny_t5.cfg.d_model), 0))


def test_a_slider_holds_whole_numbers_of_numpy():
    assert slider("scale", "scale", np.int64(2), (0, 4), "scales").value == 2.0


@pytest.mark.parametrize("missing", ["ipywidgets", "anywidget"])
def test_without_the_extra_it_says_what_to_install(tiny_gpt2, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    calls = (
        lambda: lp.explore.steering(tiny_gpt2, vector_of(tiny_gpt2)),
        lambda: lp.explore.rescale(tiny_gpt2, TEXT, dim=1),
        lambda: lp.explore.interpolation(tiny_gpt2),
    )
    for call in calls:
        with pytest.raises(MissingPackageError, match=rf"{missing}.*lensprobe\[explore\]") as error:
            call()
        assert isinstance(error.value, ImportError) and isinstance(error.value, LensprobeError)
