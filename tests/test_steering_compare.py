"""Comparisons of additions, against references that recompute everything at every step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from recomputing import kl_of, recomputed
from tolerance import close

import lensprobe as lp
from lensprobe import positions as where
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.adapter import adapter_for
from lensprobe.running.fanning import WHOLE
from lensprobe.steering import SteeringVector

PROMPTS = ["Hello world, this is", "I think that", "The cat sat on the mat and"]
NEW = 5
MASKS = np.zeros((3, 6), dtype=bool)
MASKS[[0, 1, 1, 2], [1, 0, 2, 5]] = True
# What each selector means, written out: the absolute positions that are edited when a text of `length`
# tokens, `prompt` of them the prompt's, is read to predict its next token.
MEANING = {
    "front": (where.front(2), lambda prompt, length, text: range(2)),
    "all": (where.all(), lambda prompt, length, text: range(length)),
    "after": (where.after_prompt(), lambda prompt, length, text: range(prompt - 1, length)),
    "generated": (where.generated(), lambda prompt, length, text: range(prompt, length)),
    "last": (where.last(), lambda prompt, length, text: [length - 1]),
    "end": (where.at(-1), lambda prompt, length, text: [prompt - 1]),
    "window": (where.between(1, -1), lambda prompt, length, text: range(1, prompt - 1)),
    "both": (where.front(1) | where.last(), lambda prompt, length, text: [0, length - 1]),
    "masks": (where.where(MASKS), lambda prompt, length, text: np.flatnonzero(MASKS[text])),
}
OPTIONS = {"max_new_tokens": NEW, "progress": False}


@pytest.fixture(scope="module")
def vector(decoder):
    return vector_for(decoder)


@pytest.fixture(scope="module")
def placed(decoder, vector):
    places = {name: selector for name, (selector, _) in MEANING.items()}
    return lp.steering.compare_positions(decoder, PROMPTS, vector, positions=places, **OPTIONS)


@pytest.fixture(scope="module")
def kept(decoder, vector):
    return lp.steering.compare_persistence(decoder, PROMPTS, vector, **OPTIONS)


@pytest.fixture(scope="module")
def deep(decoder, vector):
    return lp.steering.compare_depth(decoder, PROMPTS, vector, **OPTIONS)


@pytest.fixture(scope="module")
def sites(decoder):
    return lp.steering.compare_sites(
        decoder, PROMPTS, mixing=["the fox", " dog"], scales=[0.5, 2.0], layers=[1, 2], **OPTIONS
    )


def vector_for(model, layer=1, size=1.5, tokens=None, site="resid_post"):
    width = adapter_for(model).width(site)
    shape = (width,) if tokens is None else (tokens, width)
    generator = torch.Generator().manual_seed(3)
    return SteeringVector(torch.randn(*shape, generator=generator) * size, layer, site)


def ids_of(model, text):
    return model.to_tokens(text)[0].tolist()


def greedy(model, prompt, edits=()):
    """Token ids of a completion, from one prompt alone."""
    made = lp.generate(model, [prompt], edits=edits, max_new_tokens=NEW)
    return made.tokens["id"].tolist()


def completion_of(model, result, condition, text):
    """The tokens of a condition's completion, decoded again from `generate`."""
    rows = result.texts[(result.texts["condition"] == condition) & (result.texts["text"] == text)]
    return rows["completion"].item()


# ---- where -------------------------------------------------------------------------------------


def test_every_selector_equals_recomputing_everything_at_each_step(decoder, vector, placed):
    tokens = placed.tokens.set_index(["condition", "text", "position"]).sort_index()
    for text, prompt in enumerate(PROMPTS):
        ids, plain = ids_of(decoder, prompt), greedy(decoder, prompt)
        ends = range(len(ids), len(ids) + len(plain))
        base = recomputed(decoder, vector, [((ids + plain)[:end], []) for end in ends])
        for name, (_, meaning) in MEANING.items():
            cases = [((ids + plain)[:end], meaning(len(ids), end, text)) for end in ends]
            steered = recomputed(decoder, vector, cases)
            rows = tokens.loc[(name, text)]
            assert rows.index.tolist() == list(ends), name
            close(rows["kl"], kl_of(steered, base))
            losses = -steered.log_softmax(-1)[range(len(plain)), plain]
            close(rows["loss"], losses)


def test_completions_are_those_of_a_loop_that_recomputes(decoder, vector, placed):
    rows = [(name, text) for name in MEANING for text in range(len(PROMPTS))]
    texts = [ids_of(decoder, PROMPTS[text]) for _, text in rows]
    prompts = [len(ids) for ids in texts]
    for _ in range(NEW):
        cases = [
            (ids, MEANING[name][1](prompt, len(ids), text))
            for (name, text), ids, prompt in zip(rows, texts, prompts, strict=True)
        ]
        for ids, token in zip(texts, recomputed(decoder, vector, cases).argmax(-1), strict=True):
            ids.append(int(token))
    end = decoder.tokenizer.eos_token_id
    for (name, text), ids, prompt in zip(rows, texts, prompts, strict=True):
        written = ids[prompt:]
        written = written[: written.index(end)] if end in written else written
        assert completion_of(decoder, placed, name, text) == decoder.tokenizer.decode(written)


def test_edited_tokens_are_counted(decoder, placed):
    for text, prompt in enumerate(PROMPTS):
        count = len(ids_of(decoder, prompt))
        written = placed.tokens[placed.tokens["text"] == text].groupby("condition").size().iloc[0]
        read = count + int(written) - 1
        for name, (_, meaning) in MEANING.items():
            touched = {p for n in range(count, read + 1) for p in meaning(count, n, text) if p < n}
            rows = placed.texts[
                (placed.texts["condition"] == name) & (placed.texts["text"] == text)
            ]
            assert rows["count"].item() == len(touched), name


def test_nothing_edited_before_the_first_token_changes_nothing_there(placed):
    first = placed.tokens.groupby(["condition", "text"]).first()["kl"]
    assert first["generated"].max() == pytest.approx(0, abs=1e-9)
    assert first["after"].min() > 1e-3
    assert placed.tokens.loc[placed.tokens["condition"] == "plain", "kl"].max() == 0


def test_texts_and_conditions_are_means_of_tokens(placed):
    means = placed.tokens.groupby(["condition", "text"])[["kl", "loss"]].mean()
    texts = placed.texts.set_index(["condition", "text"])
    for measure in ("kl", "loss"):
        close(texts[measure], means.loc[texts.index, measure])
    table = placed.conditions.pivot(index="condition", columns="measure", values="value")
    close(table["kl"], texts.groupby("condition")["kl"].mean().loc[table.index])
    plain = texts.loc["plain", "loss"]
    wanted = [(texts.loc[name, "loss"] - plain).mean() for name in table.index]
    close(table["loss_change"], wanted)
    geometric = np.exp(np.log(texts["perplexity"]).groupby("condition").mean())
    np.testing.assert_allclose(table["perplexity"], geometric.loc[table.index], rtol=1e-6)
    assert (placed.conditions["low"] <= placed.conditions["value"] + 1e-12).all()
    assert (placed.conditions["value"] <= placed.conditions["high"] + 1e-12).all()


def test_perplexity_is_that_of_the_completion_under_the_plain_model(decoder, vector, placed):
    edit = vector.add(1.0, where.all())
    ids = lp.generate(decoder, PROMPTS, edits=edit, max_new_tokens=NEW).tokens
    for text, prompt in enumerate(PROMPTS):
        written = ids.loc[ids["text"] == text, "id"].tolist()
        wanted = lp.score(decoder, [written], prompt=prompt).texts["perplexity"].item()
        rows = placed.texts[(placed.texts["condition"] == "all") & (placed.texts["text"] == text)]
        np.testing.assert_allclose(rows["perplexity"].item(), wanted, rtol=1e-3)


def test_a_batch_equals_its_members_alone(decoder, vector, placed):
    places = {name: MEANING[name][0] for name in ("all", "last", "window")}
    for text, prompt in enumerate(PROMPTS):
        alone = lp.steering.compare_positions(decoder, prompt, vector, positions=places, **OPTIONS)
        for name in places:
            one = alone.tokens[alone.tokens["condition"] == name]
            many = placed.tokens[
                (placed.tokens["condition"] == name) & (placed.tokens["text"] == text)
            ]
            assert one["token"].tolist() == many["token"].tolist()
            close(one["kl"], many["kl"])
        assert alone.conditions["low"].isna().all()


def test_small_batches_give_the_same_numbers(decoder, vector, placed, monkeypatch):
    with lp.options(batch_tokens=1):
        places = {name: selector for name, (selector, _) in MEANING.items()}
        again = lp.steering.compare_positions(decoder, PROMPTS, vector, positions=places, **OPTIONS)
    close(again.tokens["kl"], placed.tokens["kl"])
    assert again.texts["completion"].tolist() == placed.texts["completion"].tolist()


def test_default_places_for_one_vector_and_for_a_row_for_each_token(decoder, vector):
    one = lp.steering.compare_positions(decoder, PROMPTS[0], vector, max_new_tokens=2)
    assert one.positions["positions"].tolist() == [
        "front(1)", "all()", "after_prompt()", "generated()", "last()", "at(-1)",
    ]  # fmt: skip
    rows = vector_for(decoder, tokens=2)
    table = lp.steering.compare_positions(decoder, PROMPTS[0], rows, max_new_tokens=2)
    assert table.positions["condition"].tolist() == ["front", "prompt's end"]
    assert set(table.texts["count"]) == {0, 2}


def test_places_can_be_compared_at_the_same_effect(decoder, vector):
    places = {"all": where.all(), "last": where.last()}
    found = lp.steering.compare_positions(
        decoder, PROMPTS, vector, positions=places, target=0.2, **OPTIONS
    )
    for name, place in places.items():
        alone = lp.steering.calibrate(
            decoder, vector, prompt=PROMPTS, positions=place, target=0.2, max_new_tokens=NEW
        )
        scale = found.positions.set_index("condition")["scale"][name]
        assert scale == pytest.approx(alone.scale, rel=1e-6)
    assert found.summary()["target"] == 0.2


def test_a_place_that_cannot_reach_the_target_is_left_out_and_named(decoder, vector):
    places = {"all": where.all(), "late": where.generated()}
    found = lp.steering.compare_positions(
        decoder, PROMPTS, vector, positions=places, target=0.1, max_new_tokens=1
    )
    assert found.positions["condition"].tolist() == ["all"]
    assert any(note.startswith("late is left out") for note in found.provenance["notes"])
    with pytest.raises(ArgumentError, match="no place reaches the target"):
        lp.steering.compare_positions(
            decoder, PROMPTS, vector, positions={"late": where.generated()}, target=0.1,
            max_new_tokens=1,
        )  # fmt: skip


# ---- does it stay? -----------------------------------------------------------------------------


def test_scale_zero_is_the_plain_model(decoder, vector):
    options = {"scale": 0.0, **OPTIONS}
    for found in (
        lp.steering.compare_positions(decoder, PROMPTS, vector, **options),
        lp.steering.compare_persistence(decoder, PROMPTS, vector, **options),
        lp.steering.compare_depth(decoder, PROMPTS, vector, **options),
    ):
        assert found.tokens["kl"].max() < 1e-6
        for _, same in found.texts.groupby("text"):
            assert same["completion"].nunique() == 1


def written_by(decoder, vector):
    """Each condition's completion of each prompt, token ids."""
    edits = {"kept": where.after_prompt(), "moving": where.last(), "plain": None}
    return {
        (name, text): greedy(decoder, prompt, () if place is None else vector.add(1.0, place))
        for name, place in edits.items()
        for text, prompt in enumerate(PROMPTS)
    }


def test_kept_and_moving_equal_recomputing(decoder, vector, kept):
    meaning = {"kept": MEANING["after"][1], "moving": MEANING["last"][1], "plain": lambda *_: []}
    tokens = kept.tokens.set_index(["condition", "text", "steered", "reference"]).sort_index()
    for (whose, text), written in written_by(decoder, vector).items():
        ids = ids_of(decoder, PROMPTS[text])
        ends = range(len(ids), len(ids) + len(written))
        logits = {
            name: recomputed(
                decoder,
                vector,
                [((ids + written)[:end], chosen(len(ids), end, text)) for end in ends],
            )
            for name, chosen in meaning.items()
        }
        for pair in (("kept", "plain"), ("moving", "plain"), ("moving", "kept")):
            rows = tokens.loc[[(whose, text, *pair)]]
            assert rows["position"].tolist() == list(ends)
            close(rows["kl"], kl_of(*(logits[name] for name in pair)))


def test_the_first_token_is_the_same_and_later_ones_are_not(kept):
    pair = kept.divergence[
        (kept.divergence["steered"] == "moving") & (kept.divergence["reference"] == "kept")
    ]
    assert pair.loc[pair["step"] == 0, "value"].max() < 1e-5
    assert pair.loc[pair["step"] > 0, "value"].min() > 1e-4


def test_at_the_front_there_is_nothing_to_choose(kept):
    front = kept.control[kept.control["kind"] == "front"]
    assert len(front)
    assert front["kl"].max() < 1e-6
    assert front["value"].max() < 1e-3
    newest = kept.control[kept.control["kind"] == "newest"]
    assert newest.loc[newest["step"] > 0, "kl"].min() > 1e-4


def test_the_control_is_the_comparison_itself_recomputed(kept):
    """Over a cache and without one, taking the addition back gives the same divergence."""
    newest = kept.control[kept.control["kind"] == "newest"]
    cached = kept.tokens[
        (kept.tokens["condition"] == "plain")
        & (kept.tokens["steered"] == "moving")
        & (kept.tokens["reference"] == "kept")
    ].set_index(["text", "step"])["kl"]
    keys = list(zip(newest["text"], newest["step"], strict=True))
    close(newest["kl"], cached.loc[keys])


def test_partings_are_where_completions_differ(decoder, vector, kept):
    written = written_by(decoder, vector)
    for row in kept.parting.itertuples():
        one, other = written[row.steered, row.text], written[row.reference, row.text]
        if np.isnan(row.step):
            assert one == other
        else:
            step = int(row.step)
            assert one[:step] == other[:step]
            assert one[step : step + 1] != other[step : step + 1]
    assert kept.parting["step"].notna().any()


def test_sampled_comparisons_draw_the_same_numbers(decoder, vector):
    options = {"temperature": 1.0, "seed": 5, **OPTIONS}
    found = lp.steering.compare_persistence(decoder, PROMPTS, vector, scale=0.0, **options)
    for _, same in found.texts.groupby("text"):
        assert same["completion"].nunique() == 1
    drawn = lp.steering.compare_persistence(decoder, PROMPTS, vector, temperature=1.0, **OPTIONS)
    again = lp.steering.compare_persistence(
        decoder, PROMPTS, vector, temperature=1.0, **OPTIONS | {"seed": drawn.provenance["seed"]}
    )
    assert drawn.texts["completion"].tolist() == again.texts["completion"].tolist()


# ---- once or repeatedly ------------------------------------------------------------------------


def test_the_journey_is_that_of_the_residual(decoder, vector, deep):
    n_layers = adapter_for(decoder).n_layers
    unit = vector.values / np.linalg.norm(vector.values)
    edits = {
        "plain": (),
        "once": vector.add(1.0),
        "repeated": vector.add(1.0, layers=range(1, n_layers)),
        "divided": vector.add(1 / (n_layers - 1), layers=range(1, n_layers)),
    }
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    for text, prompt in enumerate(PROMPTS):
        ids = ids_of(decoder, prompt)
        rows = deep.tokens[(deep.tokens["condition"] == "plain") & (deep.tokens["text"] == text)]
        written = greedy(decoder, prompt)
        assert len(rows) == len(written)
        for name, edit in edits.items():
            if name != "plain":
                places = where.between(len(ids) - 1, len(ids) + NEW)
                edit = vector.add(edit.scale, places, layers=edit.layers)
            read = lp.forward(decoder, [ids + written], edits=edit, layers="all", logits=None)
            for layer in range(1, n_layers):
                sums.setdefault((name, layer), []).append(
                    read.activation(layer)[len(ids) - 1 :].astype(np.float64)
                )
    rows = deep.journey.set_index(["condition", "layer"])
    size = np.linalg.norm(vector.values)
    for (name, layer), parts in sums.items():
        found, here = rows.loc[(name, layer)], np.concatenate(parts)
        base = np.concatenate(sums["plain", layer])
        norms = np.linalg.norm(here, axis=1)
        assert found["value"] == pytest.approx(norms.mean(), rel=1e-4)
        ratio = (norms / np.linalg.norm(base, axis=1)).mean()
        assert found["ratio"] == pytest.approx(ratio, rel=1e-4)
        moved = ((here - base) @ unit).mean()
        assert found["component"] == pytest.approx(moved, abs=1e-3)
        times = {"plain": 0, "once": 1, "repeated": layer, "divided": layer / (n_layers - 1)}[name]
        assert found["added"] == pytest.approx(times * size, rel=1e-4)
        if times:
            assert found["share"] == pytest.approx(moved / (times * size), abs=1e-4)


def test_all_of_an_addition_is_there_where_it_is_added(deep):
    own = deep.journey[deep.journey["layer"] == 1].set_index("condition")["share"]
    close(own.drop("plain"), np.ones(4))


def test_the_matched_control_has_the_effect_of_the_single_addition(deep):
    table = deep.conditions[deep.conditions["measure"] == "kl"].set_index("condition")["value"]
    assert table["matched"] == pytest.approx(table["once"], rel=0.06)
    assert table["matched"] >= table["once"] - 1e-6
    assert table["plain"] == 0


def test_at_the_last_block_once_is_repeatedly(decoder):
    last = adapter_for(decoder).n_layers - 1
    found = lp.steering.compare_depth(decoder, PROMPTS, vector_for(decoder, last), **OPTIONS)
    kl = found.tokens.pivot(index=["text", "position"], columns="condition", values="kl")
    close(kl["once"], kl["repeated"])
    close(kl["once"], kl["divided"])


def test_a_vector_with_a_row_for_each_token_and_a_zero_row(decoder):
    values = np.array(vector_for(decoder, tokens=3).values)
    values[0] = 0  # the BOS row of a prompt-pair vector
    found = lp.steering.compare_depth(decoder, PROMPTS, SteeringVector(values, 1), **OPTIONS)
    own = found.journey[found.journey["layer"] == 1].set_index("condition")
    assert own.loc["once", "share"] == pytest.approx(1.0, abs=1e-4)
    assert own.loc["once", "added"] == pytest.approx(
        np.linalg.norm(values[1:], axis=1).mean(), rel=1e-4
    )


# ---- sites -------------------------------------------------------------------------------------


def test_sites_equal_runs_one_by_one(decoder, sites):
    # Every site, mixing input and text; one cell of layers and scales each.
    rows = sites.texts[(sites.texts["scale"] == 2.0) & (sites.texts["layer"] == 1)]
    assert len(rows) == 2 * 2 * len(PROMPTS)
    for row in rows.itertuples():
        prompt = ids_of(decoder, PROMPTS[row.text])
        added = lp.steering.mixing(decoder, row.mixing, layer=row.layer, site=row.site)
        made = lp.generate(
            decoder, [PROMPTS[row.text]], edits=added.add(row.scale), max_new_tokens=NEW
        )
        written = made.tokens["id"].tolist()
        assert row.completion == made.completions[0]
        loss = lp.score(decoder, [written], prompt=PROMPTS[row.text]).loss
        assert row.logprob == pytest.approx(-loss, abs=1e-3)
        own = set(ids_of(decoder, row.mixing)) - set(prompt)
        assert row.carry == pytest.approx(len(own & set(written)) / len(own))
        whole = [prompt + greedy(decoder, PROMPTS[row.text])]
        steered, base = (
            torch.from_numpy(lp.forward(decoder, whole, edits=edits).logits[len(prompt) - 1 : -1])
            for edits in (added.add(row.scale), ())
        )
        assert row.kl == pytest.approx(kl_of(steered, base).mean(), abs=1e-4)
        odds = steered.softmax(-1)[:, sorted(own)].sum(-1)
        assert row.probability == pytest.approx(float(odds.mean()), abs=1e-4)


def test_scale_zero_stands_in_every_cell(sites):
    plain = sites.texts[sites.texts["scale"] == 0]
    assert (plain["kl"] == 0).all()
    assert plain.groupby("text")["completion"].nunique().max() == 1
    assert set(sites.sweep["scale"]) == {0.0, 0.5, 2.0}
    wide = sites.sweep[sites.sweep["scale"] == 0].pivot_table(
        index=["site", "layer"], columns="measure", values="value"
    )
    assert (wide.nunique() == 1).all()


def test_sizes_are_norms(decoder, sites):
    for row in sites.sizes.itertuples():
        inputs = [
            np.linalg.norm(
                lp.steering.mixing(decoder, text, layer=row.layer, site=row.site).values[1:], axis=1
            ).mean()
            for text in ("the fox", " dog")
        ]
        assert row.value == pytest.approx(np.mean(inputs), rel=1e-5)
        read = lp.forward(decoder, PROMPTS, layers=row.layer, site=row.site, logits=None)
        later = (read.tokens["position"] > 0).to_numpy()
        norms = np.linalg.norm(read.activations[0][later], axis=1)
        assert row.median == pytest.approx(np.median(norms), rel=1e-5)
        assert row.ratio == pytest.approx(row.value / row.median)


def test_default_blocks_and_scales_are_those_of_the_note(decoder):
    found = lp.steering.compare_sites(decoder, PROMPTS[0], mixing="the fox", max_new_tokens=1)
    assert found.provenance["layers"] == [2, 3]
    scales = found.provenance["scales"]
    assert scales["attn.v"] == [10, 11, 12, 13, 14, 15, 16, 17]
    assert max(scales["resid_post"]) == 4


# ---- what they leave, and what they refuse -----------------------------------------------------


def test_results_are_saved_and_cited(placed, kept, deep, sites, tmp_path):
    for found in (placed, kept, deep, sites):
        path = found.save(tmp_path / found.kind)
        again = lp.open(path)
        assert type(again) is type(found)
        for table in found.tables:
            pd.testing.assert_frame_equal(again.to_frame(table), found.to_frame(table))
        assert all(np.isscalar(value) for value in found.summary().values())
        assert "2308.10248" in found.cite()
        assert found.provenance["complete"]


def test_the_users_hooks_stay_and_see_whole_passes(decoder, vector, placed):
    point = decoder.hook_dict["blocks.0.hook_resid_pre"]
    shapes = []
    point.add_hook(lambda value, hook: shapes.append(value.shape[1]))
    try:
        places = {"all": where.all()}
        found = lp.steering.compare_positions(decoder, PROMPTS, vector, positions=places, **OPTIONS)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert WHOLE in found.provenance["notes"]
    assert shapes
    rows = placed.tokens["condition"] == "all"
    close(found.tokens.loc[found.tokens["condition"] == "all", "kl"], placed.tokens.loc[rows, "kl"])


def test_nothing_is_left_attached(decoder, placed, kept, deep, sites):
    points = {id(p): p for p in decoder.hook_dict.values()}.values()
    assert not any(p.fwd_hooks or p._forward_hooks for p in points)


@pytest.mark.parametrize("after", [2, 9])
@pytest.mark.parametrize(
    "name", ["calibrate", "compare_depth", "compare_persistence", "compare_positions", "stability"]
)
def test_an_interrupt_leaves_nothing_behind_and_says_so(tiny_gpt2, name, after):
    options = {"progress": False}
    calls = {
        "calibrate": lambda f: f(tiny_gpt2, vector_for(tiny_gpt2), prompt=PROMPTS, **options),
        "stability": lambda f: f(
            tiny_gpt2, PROMPTS * 4, PROMPTS[::-1] * 4, n=(1, 2), batch_tokens=8, **options
        ),
    }
    compare = lambda f: f(tiny_gpt2, PROMPTS, vector_for(tiny_gpt2), **options)  # noqa: E731
    passes = []

    def stop(*_):
        passes.append(1)
        if len(passes) == after:
            raise KeyboardInterrupt

    handle = tiny_gpt2.hook_dict["blocks.1.hook_resid_pre"].register_forward_hook(stop)
    try:
        with pytest.raises(lp.Interrupted, match=f"{name} was interrupted") as error:
            calls.get(name, compare)(getattr(lp.steering, name))
    finally:
        handle.remove()
    assert error.value.partial is None
    points = {id(p): p for p in tiny_gpt2.hook_dict.values()}.values()
    assert not any(p.fwd_hooks or p._forward_hooks for p in points)


def test_encoder_decoders_are_refused_by_name(tiny_t5):
    vector = SteeringVector(np.ones(48), 0)
    for name, call in (
        ("compare_depth", lambda: lp.steering.compare_depth(tiny_t5, "hi", vector)),
        ("compare_persistence", lambda: lp.steering.compare_persistence(tiny_t5, "hi", vector)),
        ("compare_positions", lambda: lp.steering.compare_positions(tiny_t5, "hi", vector)),
        ("compare_sites", lambda: lp.steering.compare_sites(tiny_t5, "hi", mixing="a")),
        ("calibrate", lambda: lp.steering.calibrate(tiny_t5, vector)),
        ("stability", lambda: lp.steering.stability(tiny_t5, ["a"], ["b"])),
    ):
        with pytest.raises(ModelError, match=rf"lp\.steering\.{name} needs a decoder-only"):
            call()


@pytest.mark.parametrize("name", ["compare_depth", "compare_persistence", "compare_positions"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": "much"}, "scale='much'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 300}, "context is 256"),
        ({"temperature": -1.0}, "temperature=-1"),
    ],
)
def test_bad_options_are_refused_before_any_pass(tiny_gpt2, name, options, message):
    with counted(tiny_gpt2) as passes, pytest.raises(ArgumentError, match=message):
        getattr(lp.steering, name)(tiny_gpt2, "Hello", vector_for(tiny_gpt2), **options)
    assert not passes


class counted:
    """How many passes a model makes inside a `with` block."""

    def __init__(self, model):
        self.point = model.hook_dict["blocks.0.hook_resid_pre"]

    def __enter__(self):
        passes = []
        self.handle = self.point.register_forward_hook(lambda *_: passes.append(1))
        return passes

    def __exit__(self, *details):
        self.handle.remove()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: lp.steering.compare_depth(m, "Hi", torch.ones(48)), "one SteeringVector"),
        (lambda m: lp.steering.compare_depth(m, "Hi", SteeringVector(np.ones(9), 0)), r"\[48\]"),
        (lambda m: lp.steering.compare_depth(m, "Hi", SteeringVector(np.ones(48), 9)), "4 layers"),
        (
            lambda m: lp.steering.compare_depth(m, "Hi", vector_for(m, site="attn.v")),
            "its site is attn.v",
        ),
        (
            lambda m: lp.steering.compare_depth(m, "Hi", vector_for(m), positions=where.last()),
            "moves with the newest token",
        ),
        (
            lambda m: lp.steering.compare_persistence(m, "Hi", vector_for(m, tokens=2)),
            "one vector, not one for each token",
        ),
        (
            lambda m: lp.steering.compare_positions(m, "Hi", vector_for(m), positions=where.all()),
            "a mapping name → selector",
        ),
        (
            lambda m: lp.steering.compare_positions(m, "Hi", vector_for(m), positions={"a": 3}),
            r"positions\['a'\]=3",
        ),
        (
            lambda m: lp.steering.compare_positions(
                m, "Hi", vector_for(m), positions={"plain": where.all()}
            ),
            "choose another name",
        ),
        (
            lambda m: lp.steering.compare_positions(
                m, "Hi", vector_for(m), positions={"far": where.at(50)}
            ),
            "position 50 is out of range",
        ),
        (
            lambda m: lp.steering.compare_positions(m, "Hi", vector_for(m), target=0),
            "target=0",
        ),
        (lambda m: lp.steering.compare_sites(m, "Hello"), "mixing: give at least one"),
        (
            lambda m: lp.steering.compare_sites(m, "Hi", mixing="one two three four five six"),
            "no longer than the base text",
        ),
        (
            lambda m: lp.steering.compare_sites(m, "Hello", mixing="a", scales={}),
            "empty mapping",
        ),
        (
            lambda m: lp.steering.compare_sites(m, "Hello", mixing="a", scales=[1.0, 1.0]),
            "none of them twice",
        ),
        (
            lambda m: lp.steering.compare_sites(m, "Hello", mixing="a", scales=[0.0]),
            "0 is the plain model",
        ),
        (
            lambda m: lp.steering.compare_sites(m, "Hello", mixing="a", layers=[9]),
            "4 layers",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_pass(tiny_gpt2, call, message):
    with counted(tiny_gpt2) as passes, pytest.raises(ArgumentError, match=message):
        call(tiny_gpt2)
    assert not passes


def test_an_unknown_site_is_refused(tiny_gpt2):
    with pytest.raises(LookupError, match="no_site"):
        lp.steering.compare_sites(tiny_gpt2, "Hello", mixing="a", scales={"no_site": [1.0]})
