"""A mixing input in either stack: cells against runs by hand, scores against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, ModelError
from lensprobe.models.sentences import facts, is_sentence
from lensprobe.plot.theme import THEMES
from lensprobe.steering.measures import carry, repetition
from lensprobe.steering.stack_runs import MEASURES, Cell, Trial
from lensprobe.steering.stack_tables import chosen_cells, stacks_table

TOKENS = 6


@pytest.fixture(scope="module")
def small():
    """Facts in, sentences out; six blocks in either stack."""
    return lp.load("sentences-t5")


@pytest.fixture(scope="module")
def pairs():
    drawn = [prompt for _, prompt in facts(8, seed=5)]
    return drawn[:4], drawn[4:]


@pytest.fixture(scope="module")
def found(small, pairs):
    base, mixing = pairs
    return lp.steering.compare_stacks(
        small,
        base,
        mixing=mixing,
        layers={"encoder": [0, 3], "decoder": [2]},
        scales=(1.0, 4.0),
        malformed=lambda text: not is_sentence(text),
    )


def row_of(found, **where):
    frame = found.texts
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


# ---- cells against runs by hand --------------------------------------------------------------------


@pytest.mark.parametrize(("stack", "layer"), [("encoder", 3), ("decoder", 2)])
def test_a_cell_is_a_mixing_input_added_once(small, pairs, found, stack, layer):
    for index, (base, mixing) in enumerate(zip(*pairs, strict=True)):
        vector = lp.steering.mixing(small, mixing, layer=layer, stack=stack, max_new_tokens=24)
        # Rows beyond the base text's end meet nothing, which `front()` would refuse.
        edit = vector.add(4.0, lp.positions.all())
        made = lp.generate(small, base, edits=edit, max_new_tokens=24)
        row = row_of(found, stack=stack, layer=layer, scale=4.0, text=index)
        assert row["completion"] == made.completions[0]
        own = {
            name: lp.generate(small, text, max_new_tokens=24).tokens["id"].tolist()
            for name, text in (("base", base), ("mixing", mixing))
        }
        ids = made.tokens["id"].tolist()
        assert row["carry"] == carry(ids, own["mixing"], own["base"])
        assert row["keep"] == carry(ids, own["base"], own["mixing"])
        assert row["repetition"] == pytest.approx(repetition(ids), nan_ok=True)
        assert row["malformed"] == (not is_sentence(made.completions[0]))
        for name in own:
            scored = lp.score(small, [own[name]], prompt=base, edits=edit)
            close(row[f"{name}_logprob"], -scored.texts["loss"][0])
        after = [lp.score(small, [ids], prompt=text).texts["loss"][0] for text in (base, mixing)]
        close(row["logprob"], -min(after))


def test_scale_zero_is_the_unedited_model(small, pairs, found):
    plain = lp.generate(small, pairs[0], max_new_tokens=24).completions
    rows = found.texts[found.texts["scale"] == 0]
    assert (rows.groupby("text")["completion"].nunique() == 1).all()
    assert [rows[rows["text"] == i]["completion"].iloc[0] for i in range(4)] == plain
    assert found.own["completion"].tolist() == plain
    assert (
        found.own["answer"].tolist() == lp.generate(small, pairs[1], max_new_tokens=24).completions
    )
    assert (rows["keep"] == 1).all() and (rows["carry"] == 0).all()


def test_a_decoder_only_model_mixes_prompts(decoder):
    base, mixing = "one two three four five", "the cat sat"
    run = {"scales": [2.0], "layers": 1, "max_new_tokens": TOKENS}
    found = lp.steering.compare_stacks(decoder, base, mixing=mixing, **run)
    assert found.provenance["stacks"] == ["decoder"]
    assert found.answer == "there is one stack"
    vector = lp.steering.mixing(decoder, mixing, layer=1)
    by_hand = lp.generate(decoder, base, edits=vector.add(2.0), max_new_tokens=TOKENS)
    assert row_of(found, scale=2.0)["completion"] == by_hand.completions[0]
    own = lp.generate(decoder, mixing, max_new_tokens=TOKENS).tokens["id"].tolist()
    scored = lp.score(decoder, [own], prompt=base, edits=vector.add(2.0))
    close(row_of(found, scale=2.0)["mixing_logprob"], -scored.texts["loss"][0])


def test_a_mixing_input_longer_than_a_prompt_ends_with_it(decoder):
    """Its further rows do not run on into what is generated."""
    base, mixing = "one two", "the cat sat on the mat and then it went away"
    run = {"scales": [3.0], "layers": 2, "max_new_tokens": TOKENS}
    found = lp.steering.compare_stacks(decoder, base, mixing=mixing, **run)
    vector = lp.steering.mixing(decoder, mixing, layer=2)
    length = lp.forward(decoder, base).logits.shape[0]
    table = torch.tensor(vector.values[:length])
    edit = lp.Add(table, scale=3.0, layers=2, positions=lp.positions.front())
    by_hand = lp.generate(decoder, base, edits=edit, max_new_tokens=TOKENS)
    assert row_of(found, scale=3.0)["completion"] == by_hand.completions[0]


def test_a_batch_equals_each_alone(decoder):
    base = ["one two three four five", "the cat sat on", "a little house"]
    mixing = ["the cat", "seven eight nine ten", "Once upon a time there was"]
    run = {"scales": [0.5, 2.0], "layers": [0, 2], "max_new_tokens": TOKENS}
    together = lp.steering.compare_stacks(decoder, base, mixing=mixing, **run)
    for index in range(3):
        alone = lp.steering.compare_stacks(decoder, base[index], mixing=mixing[index], **run)
        rows = together.texts[together.texts["text"] == index]
        assert rows["completion"].tolist() == alone.texts["completion"].tolist()
        for name in ("logprob", "mixing_logprob", "base_logprob"):
            close(rows[name], alone.texts[name])


def test_the_small_t5_answers_the_question(small):
    """Encoder additions give sentences that say something of both; decoder additions break them."""
    drawn = [prompt for _, prompt in facts(48, seed=21)]
    found = lp.steering.compare_stacks(
        small,
        drawn[:24],
        mixing=drawn[24:],
        layers={"encoder": [1, 4], "decoder": [4, 5]},
        scales=(1.0, 1.5),
        malformed=lambda text: not is_sentence(text),
    )
    assert found.answer == "encoder"
    cells = found.cells.set_index(["stack", "layer", "scale", "measure"])["value"]
    assert min(cells["encoder", layer, 1.0, "mixed"] for layer in (1, 4)) > 0.4
    assert min(cells["decoder", layer, 1.0, "malformed"] for layer in (4, 5)) > 0.7


# ---- judges ----------------------------------------------------------------------------------------


def test_judges_are_asked(decoder):
    asked = []

    def carried(text, own, other):
        asked.append((text, own, other))
        return 0.25

    found = lp.steering.compare_stacks(
        decoder,
        ["one two", "the cat"],
        mixing="a little house",
        scales=[1.0],
        layers=0,
        max_new_tokens=TOKENS,
        malformed=lambda text: True,
        carried=carried,
        reference=decoder,
    )
    assert (found.texts["carry"] == 0.25).all() and (found.texts["malformed"] == 1).all()
    assert (found.texts["mixed"] == 0).all()
    own, answer = found.own["completion"], found.own["answer"]
    assert {(o, x) for _, o, x in asked} == {
        pair for a, b in zip(own, answer, strict=True) for pair in ((a, b), (b, a))
    }
    text = found.texts.iloc[0]
    if text["completion"].strip():
        scored = lp.score(decoder, text["completion"])
        close(text["logprob"], -scored.texts["loss"][0])
    assert found.provenance["reference"] == found.provenance["model"]
    assert "lambda" in found.provenance["malformed"]


def test_without_a_difference_nothing_can_be_carried(decoder):
    found = lp.steering.compare_stacks(
        decoder, "one two three", mixing="one two three", scales=[1.0], layers=0, max_new_tokens=3
    )
    assert found.texts["carry"].isna().all() and found.texts["mixed"].isna().all()
    assert found.texts["malformed"].isna().all()


# ---- one stack against the other -------------------------------------------------------------------


def fake(stack, mixed):
    """Cells `[layers scales texts]` of which `mixed` alone is known."""
    count = mixed.shape[2]
    unknown = np.full((count, mixed.shape[1]), np.nan)
    return [
        Cell(stack, layer, [], dict.fromkeys(MEASURES, unknown) | {"mixed": rows.T})
        for layer, rows in enumerate(mixed)
    ]


def trial(scales):
    nothing = [None] * 4
    return Trial(*nothing, scales=scales, site="resid_post", sampling=None, judges=None)


def test_the_best_cell_is_measured_where_it_was_not_chosen():
    """Pure noise: the luckiest of many cells is no better than any other on other texts."""
    noise = np.random.default_rng(0).integers(0, 2, (12, 8, 40)).astype(float)
    chosen = chosen_cells(trial(tuple(range(1, 9))), fake("encoder", noise))
    lucky = noise.mean(-1).max()
    assert lucky > 0.65
    assert abs(chosen.values["best"]["mixed"].mean() - 0.5) < 0.12


def test_a_cell_that_is_truly_best_is_found():
    values = np.zeros((3, 2, 10))
    values[1, 1] = 1.0
    values[2, 0, :5] = 1.0
    chosen = chosen_cells(trial((0.5, 2.0)), fake("encoder", values))
    assert chosen.best == [(1, 2.0), (1, 2.0)]
    assert (chosen.values["best"]["mixed"] == 1).all()
    # Block 1 at its best, block 2 half of the time, block 0 never.
    assert chosen.values["every block"]["mixed"].mean() == pytest.approx(0.5)


def test_stacks_are_compared_text_by_text():
    scores = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    one = chosen_cells(trial((1.0,)), fake("encoder", scores[None, None]))
    two = chosen_cells(trial((1.0,)), fake("decoder", (scores * 0)[None, None]))
    table = stacks_table([one, two])
    rows = table[(table["choice"] == "best") & (table["measure"] == "mixed")].set_index("stack")
    assert rows["value"].to_dict() == {
        "encoder": pytest.approx(4 / 6),
        "decoder": 0.0,
        "encoder - decoder": pytest.approx(4 / 6),
    }
    assert rows.loc["encoder - decoder", "low"] > 0


def test_one_text_has_no_other_half(decoder):
    found = lp.steering.compare_stacks(
        decoder, "one two three", mixing="the cat", scales=[1.0], layers=0, max_new_tokens=3
    )
    assert found.stacks["value"].isna().all()
    assert math.isnan(found.summary()["decoder_mixed"])


# ---- what comes back -------------------------------------------------------------------------------


def test_the_tables(found):
    assert found.tables == ("cells", "texts", "stacks", "own")
    cells = found.cells
    assert len(cells) == 3 * 3 * len(MEASURES)
    wide = cells[cells["measure"] == "carry"]
    means = found.texts.groupby(["stack", "layer", "scale"])["carry"].mean()
    for row in wide.itertuples():
        assert row.value == pytest.approx(means[row.stack, row.layer, row.scale])
        assert row.low <= row.value <= row.high
    assert found.provenance["layers"] == {"encoder": [0, 3], "decoder": [2]}
    assert set(found.stacks["stack"]) == {"encoder", "decoder", "encoder - decoder"}
    assert found.summary()["answer"] == found.answer


def test_it_is_saved_and_read_back(found, tmp_path):
    again = lp.open(found.save(tmp_path / "stacks.zip"))
    for name in found.tables:
        pd.testing.assert_frame_equal(again.to_frame(name), found.to_frame(name))
    assert again.answer == found.answer


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("name", ["tradeoff", "heat", "completions"])
def test_every_figure_says_what_it_is(found, name, theme):
    figure = getattr(found.plot, name)(theme=theme)
    assert figure.layout.title.text and figure.layout.title.subtitle.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here, at its best block")


def test_the_figures_show_the_numbers(found):
    heat = found.plot.heat(measure="carry")
    assert [trace.y for trace in heat.data] == [("0", "3"), ("2",)]
    rows = found.cells[(found.cells["measure"] == "carry") & (found.cells["stack"] == "encoder")]
    drawn = np.array(heat.data[0].z, dtype=float)
    np.testing.assert_allclose(
        drawn, rows.pivot(index="layer", columns="scale", values="value").to_numpy()
    )
    assert {trace.zmax for trace in heat.data} == {1.0}
    curves = [trace for trace in found.plot.tradeoff().data if "lines" in trace.mode]
    assert len(curves) == 3 and all(len(trace.x) == 3 for trace in curves)
    assert found.plot.tradeoff(measure="logprob").layout.yaxis.title.text.startswith("log-prob")
    table = found.plot.completions(text=1, stack="encoder", layer=3).data[0]
    assert len(table.cells.values[0]) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda plot: plot.heat(measure="kl"), "measure='kl'"),
        (lambda plot: plot.tradeoff(measure="carry"), "malformed or logprob"),
        (lambda plot: plot.completions(text=9), "text=9"),
        (lambda plot: plot.completions(layer=1), "layer=1"),
        (lambda plot: plot.completions(stack="both"), "stack='both'"),
    ],
)
def test_figures_refuse_what_is_not_there(found, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(found.plot)


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": None}, "at least one mixing input"),
        ({"mixing": ["a", "b", "c"]}, "3 mixing inputs for 2 texts"),
        ({"mixing": ""}, "the text is empty"),
        ({"scales": []}, "at least one number"),
        ({"scales": [0.0]}, "0 is the plain model"),
        ({"scales": [1.0, 1.0]}, "none of them twice"),
        ({"scales": [math.nan]}, "a finite number"),
        ({"scales": 2.0}, "a sequence of numbers"),
        ({"layers": 99}, "layers=99"),
        ({"layers": {"encoder": [0]}}, "the stacks here are decoder"),
        ({"layers": {}}, "empty mapping"),
        ({"site": "mlp.post"}, "vectors are added at"),
        ({"max_new_tokens": 0}, "a positive whole number"),
        ({"max_new_tokens": 1000}, "context"),
        ({"malformed": 3}, "malformed=3"),
        ({"carried": "words"}, "carried='words'"),
        ({"carried": lambda *texts: 2.0}, "a share from 0 to 1"),
    ],
)
def test_bad_input_is_refused(tiny_gpt2, options, message):
    given = {"mixing": "the cat", "max_new_tokens": 2, "layers": 0, "scales": [1.0]} | options
    with pytest.raises(ArgumentError, match=message):
        lp.steering.compare_stacks(tiny_gpt2, ["one two", "three"], **given)


def test_an_encoder_decoder_is_no_reference(tiny_gpt2, tiny_t5):
    with pytest.raises(ModelError, match="reference= needs a decoder-only model"):
        lp.steering.compare_stacks(tiny_gpt2, "one", mixing="two", reference=tiny_t5)
