"""First tokens, delimiters, position or token: against single passes and really edited models."""

from __future__ import annotations

import copy
import dataclasses
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
from lensprobe.massive import tokens
from lensprobe.massive.causes import MOVED, SHIFT
from lensprobe.massive.kinds import is_delimiter
from lensprobe.massive.tokens_result import STANDS
from lensprobe.massive.vocabulary import exceptions_table
from lensprobe.models.adapter import adapter_for
from lensprobe.models.planted import PLANTED
from lensprobe.models.weights import weights_of
from lensprobe.plot.theme import THEMES
from lensprobe.plot.tokens import visible

TEXTS = ["Hello world, this is the cat.", "one two three: four five, six.\nseven"]
DIM, LAYER = 5, 2


def study(model, texts=TEXTS, **options):
    return tokens(model, texts, **{"n": 20, "seed": 0, "progress": False, **options})


@pytest.fixture
def absolute(tiny_gpt2):
    return tiny_gpt2


@pytest.fixture(scope="module")
def planted_study(planted):
    return study(planted, n="all")


def picked(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


@torch.no_grad()
def residual(model, ids, layer=LAYER):
    """`[pos d_model]` of one sequence after a layer, in a pass of its own."""
    name = f"blocks.{layer}.hook_resid_post"
    return model.run_with_cache(torch.tensor([list(ids)]), names_filter=name)[1][name][0].double()


def encoded(model, texts=TEXTS):
    return [model.to_tokens(text)[0].tolist() for text in texts]


def cause(result, kind, position=None):
    rows = picked(result.causes, kind=kind)
    rows = rows if position is None else picked(rows, position=position)
    assert len(rows) == 1
    return rows.iloc[0]


# ---- the planted answers --------------------------------------------------------------------------


def test_every_first_token_has_the_planted_activation(planted_study):
    groups = planted_study.groups
    alone = picked(groups, bos=False, kind="all").iloc[0]
    assert alone["share"] == 1.0 and alone["count"] == PLANTED.d_vocab
    close([alone["value"], alone["low"], alone["high"]], [PLANTED.values[0]] * 3, "residual")
    behind = picked(groups, bos=True, kind="all").iloc[0]
    assert behind["share"] == 0.0
    close(behind["value"], 0.0)
    close(picked(groups, kind="bos")["value"], [PLANTED.values[0]], "residual")
    assert planted_study.exceptions.empty
    assert planted_study.provenance["seed"] is None


def test_the_planted_cause_is_the_position(planted_study):
    value = PLANTED.values[0]
    expected = {
        "plain": value,
        "token moved": 0.0,
        "another token first": value,
        "position swapped": 0.0,
        "position given": value,
        "positions shifted": 0.0,
        "sees only itself": 0.0,
    }
    for kind, answer in expected.items():
        close([cause(planted_study, kind)["value"], value], [answer, value], "residual")
    assert planted_study.cause() == "position"
    assert planted_study.summary()["cause"] == "position"
    assert planted_study.delimiters["share"].max() == 0.0


# ---- the vocabulary -------------------------------------------------------------------------------


def test_each_token_is_read_alone_and_behind_bos(decoder):
    result = study(decoder, dim=DIM, layer=LAYER)
    bos = decoder.tokenizer.bos_token_id
    for row in result.tokens.itertuples():
        ids = [bos, row.id] if row.bos else [row.id]
        expected = residual(decoder, ids)[-1, DIM]
        close([row.value, 1.0], [float(expected), 1.0], "residual")
        assert row.position == len(ids) - 1
        assert row.token == decoder.tokenizer.decode([row.id])
    plain = cause(result, "plain")["value"]
    close(result.tokens["ratio"], result.tokens["value"] / plain)
    own = picked(result.groups, kind="bos").iloc[0]
    close(own["value"], float(residual(decoder, [bos])[0, DIM]))


def test_groups_sum_up_the_tokens(tiny_llama):
    result = study(tiny_llama, dim=DIM, layer=LAYER, n=60)
    for row in result.groups.itertuples():
        part = picked(result.tokens, bos=row.bos)
        if row.kind == "bos":
            continue
        part = part if row.kind == "all" else picked(part, kind=row.kind)
        assert row.count == len(part) > 0
        close(
            [row.value, row.std, row.low, row.high, row.share],
            [
                part["value"].mean(),
                part["value"].std(ddof=0),
                part["value"].min(),
                part["value"].max(),
                (part["ratio"] >= STANDS).mean(),
            ],
        )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=12),
    st.lists(st.floats(-2, 2), min_size=1, max_size=12),
)
def test_exceptions_are_the_minority(alone, behind):
    ratio = [*alone, *behind]
    frame = pd.DataFrame(
        {
            "dim": 1,
            "id": np.arange(len(ratio)),
            "bos": [False] * len(alone) + [True] * len(behind),
            "ratio": ratio,
        }
    )
    odd = exceptions_table(frame)
    for case, values in ((False, alone), (True, behind)):
        has = [value >= STANDS for value in values]
        part = picked(odd, bos=case)
        most = np.mean(has) >= 0.5
        assert len(part) == sum(one != most for one in has)
        assert ((part["ratio"] >= STANDS) != most).all()
        # The most unlike come first.
        unlike = part["ratio"] * (1 if most else -1)
        assert unlike.is_monotonic_increasing


def test_the_sample_is_seeded_and_always_has_delimiters(tiny_gpt2):
    one, two, other = (study(tiny_gpt2, dim=DIM, layer=0, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.tokens, two.tokens)
    assert set(one.tokens["id"]) != set(other.tokens["id"])
    coded = [tiny_gpt2.tokenizer.encode(m, add_special_tokens=False) for m in ".,\n?"]
    marks = {ids[0] for ids in coded}
    for result in (one, other):
        assert marks <= set(picked(result.tokens, kind="delimiter")["id"])
        assert result.provenance["seed"] in (3, 4)
    assert isinstance(study(tiny_gpt2, dim=DIM, layer=0, seed=None).provenance["seed"], int)


def test_all_is_the_whole_vocabulary(tiny_gpt2):
    result = study(tiny_gpt2, dim=DIM, layer=0, n="all", bos=False)
    assert list(result.tokens["id"]) == list(range(len(tiny_gpt2.tokenizer)))
    assert not result.tokens["bos"].any()
    assert set(result.tokens["kind"]) == {"special", "delimiter", "other"}


def test_batching_changes_nothing(decoder):
    one = study(decoder, dim=DIM, layer=LAYER, batch_tokens=1)
    many = study(decoder, dim=DIM, layer=LAYER, batch_tokens=4096)
    for table in ("tokens", "causes", "groups", "delimiters"):
        a, b = one.to_frame(table), many.to_frame(table)
        close(a["value"].fillna(0.0), b["value"].fillna(0.0), "residual")


# ---- delimiters -----------------------------------------------------------------------------------


def test_delimiters_are_read_where_they_stand(decoder):
    result = study(decoder, dim=DIM, layer=LAYER)
    found = {}
    for ids in encoded(decoder):
        values, met = residual(decoder, ids)[:, DIM], False
        for index, value in zip(ids[1:], values[1:], strict=True):
            word = decoder.tokenizer.decode([index])
            mark = is_delimiter(word)
            kind = ("later" if met else "first") if mark else "other"
            found.setdefault((kind, word if mark else ""), []).append(float(value))
            met = met or mark
    got = {(row.kind, row.token): row for row in result.delimiters.itertuples()}
    assert set(got) == set(found)
    for key, values in found.items():
        close([got[key].value, got[key].std], [np.mean(values), np.std(values)])
        assert got[key].count == len(values)
    assert sum(row.count for row in got.values() if row.kind == "first") == len(TEXTS)


# ---- position or token ----------------------------------------------------------------------------


def first_values(model, rows, position=0):
    return [float(residual(model, ids)[position, DIM]) for ids in rows]


def test_the_token_is_moved_and_repeated(decoder):
    result = study(decoder, dim=DIM, layer=LAYER)
    rows = encoded(decoder)
    moved = [[r[MOVED], *r[1:MOVED], r[0], *r[MOVED + 1 :]] for r in rows]
    copies = [[r[0]] * 8 + r[1:] for r in rows]
    for kind, sequences, position in (
        ("plain", rows, 0),
        ("token moved", moved, MOVED),
        ("another token first", moved, 0),
        ("token repeated", copies, 1),
        ("token repeated", copies, 7),
    ):
        expected = first_values(decoder, sequences, position)
        row = cause(result, kind, position)
        close([row["value"], row["std"]], [np.mean(expected), np.std(expected)])
        assert row["count"] == 2 and not row["why"]


def test_a_zero_embedding_is_an_edited_row(absolute):
    result = study(absolute, dim=DIM, layer=LAYER)
    other = copy.deepcopy(absolute)
    rows = encoded(absolute)
    assert all(ids[0] not in ids[1:] for ids in rows)
    with torch.no_grad():
        table = other.embed.W_E if hasattr(other.embed, "W_E") else other.W_E
        table[rows[0][0]] = 0.0
    close(cause(result, "embedding zero")["value"], np.mean(first_values(other, rows)))


@pytest.mark.parametrize(
    ("kind", "position"),
    [("position swapped", 0), ("position given", MOVED), ("positions shifted", 0)],
)
def test_changed_positions_are_an_edited_table(absolute, kind, position):
    result = study(absolute, dim=DIM, layer=LAYER)
    other = copy.deepcopy(absolute)
    table = weights_of(adapter_for(other)).positions
    with torch.no_grad():
        if kind == "position swapped":
            table[0] = table[MOVED].clone()
        elif kind == "position given":
            table[MOVED] = table[0].clone()
        else:
            table[:50] = table[SHIFT : SHIFT + 50].clone()
    expected = np.mean(first_values(other, encoded(absolute), position))
    close(cause(result, kind)["value"], expected)
    assert abs(expected - first_values(absolute, encoded(absolute), position)[0]) > 1e-3


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bridge"])
def test_a_rotary_token_that_sees_only_itself_is_a_first_token(request, name):
    """Rotary positions turn queries against keys; alone with its key a token has no position."""
    model = request.getfixturevalue(name)
    result = study(model, dim=DIM, layer=LAYER)
    alone = [[ids[MOVED]] for ids in encoded(model)]
    close(cause(result, "sees only itself")["value"], np.mean(first_values(model, alone)))
    for kind in ("position swapped", "position given"):
        row = cause(result, kind)
        assert np.isnan(row["value"])
        assert row["why"] == "no position embedding: positions are rotary"


def test_shifting_rotary_positions_changes_nothing(tiny_bridge):
    result = study(tiny_bridge, dim=DIM, layer=LAYER)
    close(cause(result, "positions shifted")["value"], cause(result, "plain")["value"])


def test_what_a_class_cannot_shift_is_said(tiny_llama, legacy):
    if not legacy:
        pytest.skip("needs HookedTransformer")
    row = cause(study(tiny_llama, dim=DIM, layer=LAYER), "positions shifted")
    assert row["why"] == "HookedTransformer counts rotary positions itself"


def test_a_text_that_fills_the_context_cannot_be_shifted(absolute):
    ids = [[1, *range(2, 257)]]
    result = study(absolute, ids, dim=DIM, layer=0, length=256)
    assert cause(result, "positions shifted")["why"] == "a text fills the whole context"
    assert len(picked(result.causes, kind="token repeated")) == 2


def test_a_text_of_one_token_leaves_the_cause_unknown(absolute):
    result = study(absolute, [[7]], dim=DIM, layer=LAYER)
    assert cause(result, "token moved")["why"] == "a text has one token only"
    assert result.cause() == "unknown"
    assert result.delimiters.empty
    result.plot.causes(), result.plot.delimiters()


@pytest.mark.parametrize(
    ("share", "moved", "answer"),
    [(0.9, 0.1, "position"), (0.1, 0.9, "token"), (0.9, 0.9, "either"), (0.1, 0.1, "both")],
)
def test_the_rule_of_the_cause(planted_study, share, moved, answer):
    groups, causes = planted_study.groups.copy(), planted_study.causes.copy()
    groups.loc[(groups["kind"] == "all") & ~groups["bos"], "share"] = share
    causes.loc[causes["kind"] == "token moved", "ratio"] = moved
    other = dataclasses.replace(planted_study, groups=groups, causes=causes)
    assert other.cause() == other.summary()["cause"] == answer
    assert other.plot.causes().layout.meta["finding"].startswith("Here ")


# ---- options --------------------------------------------------------------------------------------


def test_without_a_layer_it_is_read_where_it_is_largest(planted, decoder):
    assert study(planted, TEXTS[:1]).summary()["layer"] == PLANTED.writer_layer
    result = study(decoder, dim=DIM)
    path = lp.massive.trajectory(decoder, TEXTS, dim=DIM, progress=False).values
    path = picked(path, site="resid_post").set_index("layer")["value"]
    assert set(result.tokens["layer"]) == {int(path.abs().idxmax())}
    close(cause(result, "plain")["value"], path[int(path.abs().idxmax())])


def test_several_dimensions_are_read_at_once(planted):
    scan = lp.massive.scan(planted, TEXTS[0], ratio=500, progress=False)
    both = study(planted, TEXTS[:1], at=[scan.at(0), scan.at(1), scan.at(0)], n=5)
    for dim, value in zip(PLANTED.dims, PLANTED.values, strict=True):
        own = picked(both.tokens, dim=dim, bos=False)
        close(own["value"], np.full(len(own), value), "residual")
        close(picked(both.causes, dim=dim, kind="plain")["value"], [value], "residual")
        assert both.cause(dim) == "position"


def test_without_texts_the_shipped_passages_are_read(planted):
    result = tokens(planted, dim=447, n=3, seed=0, progress=False)
    assert result.provenance["documents"] == 8
    assert result.provenance["tokens"] == 8 * 128


def test_only_the_beginnings_of_documents_are_read(tiny_gpt2):
    result = study(tiny_gpt2, [list(range(1, 40)), [9, 8, 7]], dim=DIM, layer=0, length=10)
    assert cause(result, "plain")["count"] == 2
    assert result.provenance["tokens"] == 13


def test_a_model_without_a_tokenizer_takes_ids(llama_folder):
    model = lp.load(llama_folder)
    model.tokenizer = None
    result = study(model, [[3, 4, 5, 6, 7, 8]], dim=DIM, layer=LAYER)
    assert set(result.tokens["kind"]) == {"other"}
    assert not result.tokens["bos"].any()
    assert set(result.delimiters["kind"]) == {"other"}
    with pytest.raises(ArgumentError, match="no BOS token"):
        study(model, [[3, 4, 5]], dim=DIM, bos=True)


def test_the_users_hooks_stay_and_see_whole_passes(tiny_gpt2):
    seen = []
    point = tiny_gpt2.hook_dict["blocks.3.hook_resid_post"]
    point.add_hook(lambda value, hook: seen.append(1))
    try:
        study(tiny_gpt2, dim=DIM, layer=0)
        assert len(point.fwd_hooks) == 1
    finally:
        point.fwd_hooks[-1].hook.remove()
        point.fwd_hooks.clear()
    assert seen
    for name in ("hook_embed", "hook_pos_embed", "blocks.0.attn.hook_pattern"):
        assert not tiny_gpt2.hook_dict[name].fwd_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 768}, "dim=768"),
        ({"dim": 1, "layer": 6}, "layer=6"),
        ({"dim": 1, "n": 0}, 'n=0: how many tokens, a positive whole number, or "all"'),
        ({"dim": 1, "n": "some"}, "n='some'"),
        ({"dim": 1, "n": True}, "n=True"),
        ({"dim": 1, "bos": "both"}, "bos='both': \"auto\", True, False, or both"),
        ({"dim": 1, "bos": ()}, r"bos=\(\)"),
        ({"dim": 1, "seed": -1}, "seed=-1"),
        ({"dim": 1, "length": 5000}, "length=5000"),
    ],
)
def test_bad_input_is_refused_before_a_pass(planted, options, message, monkeypatch):
    monkeypatch.setattr(adapter_for(planted), "_forward", None)
    with pytest.raises(ArgumentError, match=message):
        study(planted, **options)


def test_an_encoder_decoder_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="decoder-only"):
        study(tiny_t5, dim=1)


# ---- interrupts, files, figures -------------------------------------------------------------------


def test_an_interrupt_keeps_the_finished_tokens(tiny_gpt2, monkeypatch):
    home = sys.modules["lensprobe.massive.vocabulary"]
    plain, calls = home.Readout.read, []

    def read(self, rows, **options):
        if max(map(len, rows)) <= 2:
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
        return plain(self, rows, **options)

    monkeypatch.setattr(home.Readout, "read", read)
    with pytest.raises(Interrupted, match=r"after 4 of \d+ tokens") as caught:
        study(tiny_gpt2, dim=DIM, layer=LAYER, batch_tokens=4)
    assert len(caught.value.partial.tokens) == 4
    assert caught.value.partial.summary()["complete"] is False


def test_it_is_saved_and_opened(planted_study, tmp_path):
    planted_study.save(tmp_path / "t.zip")
    again = lp.open(tmp_path / "t.zip")
    for table in planted_study.tables:
        pd.testing.assert_frame_equal(again.to_frame(table), planted_study.to_frame(table))
    assert again.summary() == planted_study.summary()


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("view", ["tokens", "causes", "delimiters"])
def test_figures_say_what_they_show(planted_study, view, theme):
    figure = getattr(planted_study.plot, view)(theme=theme)
    figure.to_json()
    assert figure.layout.title.text and figure.layout.title.subtitle.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")
    assert all(trace.hovertemplate for trace in figure.data)


def test_the_histogram_counts_every_token(tiny_llama):
    result = study(tiny_llama, dim=DIM, layer=LAYER, n=60)
    traces = {trace.name: trace for trace in result.plot().data}
    for name, case in (("alone, at position 0", False), ("behind BOS, at position 1", True)):
        counted = sum(count or 0 for count in traces[name].y)
        assert counted == len(picked(result.tokens, bos=case))
    if len(result.exceptions):
        assert len(traces["unlike the others"].x) == len(result.exceptions)


def test_a_hostile_token_is_never_markup(planted_study):
    odd = planted_study.tokens.head(2).assign(token=["<b>x</b>", "%{x}"], ratio=0.0)
    result = dataclasses.replace(planted_study, exceptions=odd)
    figure = result.plot()
    rug = figure.data[-1]
    assert rug.text[0].startswith("<b>&lt;b&gt;x&lt;/b&gt;</b>")
    assert "%{x}" not in rug.hovertemplate.replace("a = %{x:", "")
    assert visible("%{x}") in figure.layout.meta["finding"]


def test_the_figure_of_causes_says_what_the_model_has(tiny_bridge):
    trace = study(tiny_bridge, dim=DIM, layer=LAYER).plot.causes().data[0]
    assert "no position embedding: positions are rotary" in trace.text
    assert trace.x[list(trace.text).index("no position embedding: positions are rotary")] == 0.0


# ---- real weights ---------------------------------------------------------------------------------


@pytest.mark.weights
def test_smollm2_gives_it_to_whatever_sees_only_itself(smollm2):
    texts = ["The cat sat on the mat, said Alice.", "Once upon a time there was a king."]
    result = study(smollm2, texts, dim=507, n=200)
    plain = cause(result, "plain")
    assert plain["layer"] == 11
    np.testing.assert_allclose(plain["value"], 24_926, rtol=1e-4)
    assert picked(result.groups, bos=False, kind="all")["share"].iloc[0] == 1.0
    assert picked(result.groups, bos=True, kind="all")["share"].iloc[0] < 0.1
    assert result.cause() == "position"
    alone = cause(result, "sees only itself")["value"]
    np.testing.assert_allclose(alone, cause(result, "another token first")["value"], rtol=1e-4)
    np.testing.assert_allclose(
        picked(result.causes, kind="token repeated")["ratio"], 1.0, rtol=1e-4
    )
