"""Results side by side: what the numbers are, what is said beside them, and models in their turns."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import massive_scan, provenance, sink_scan

import lensprobe as lp
from lensprobe.comparing import Comparison
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.models import turns
from lensprobe.plot.theme import THEMES
from lensprobe.running import Score
from lensprobe.statistics import difference, interval

TEXTS = ["Hello world, this is the cat", "one two three four five", "the dog and the cat and the"]


def score(losses, counts=None, **changes) -> Score:
    """A made-up score: one loss a document."""
    count = np.ones(len(losses), int) if counts is None else np.asarray(counts)
    texts = pd.DataFrame({"text": range(len(losses)), "loss": np.asarray(losses, float)})
    texts["perplexity"], texts["count"] = np.exp(texts["loss"]), count
    return Score(provenance(**changes), texts, pd.DataFrame({"text": [0], "position": [0]}))


def row(found: Comparison, model: str, measure: str = "loss") -> pd.Series:
    return found.values.set_index(["model", "measure"]).loc[(model, measure)]


def test_the_numbers_are_the_paired_bootstrap_of_real_scores(decoder):
    plain = lp.score(decoder, TEXTS)
    edited = lp.score(decoder, TEXTS, edits=[lp.Scale(factor=1.5, layers=1)])
    found = lp.compare({"plain": plain, "edited": edited})
    assert found.table == "texts"
    assert row(found, "plain")["value"] == pytest.approx(plain.loss)
    assert row(found, "edited")["value"] == pytest.approx(edited.loss)
    assert row(found, "edited", "perplexity")["value"] == pytest.approx(np.exp(edited.loss))
    counts = plain.texts["count"].to_numpy()
    sums, base = (one.texts["loss"].to_numpy() * counts for one in (edited, plain))
    names = ["change", "change_low", "change_high"]
    np.testing.assert_allclose(
        row(found, "edited")[names].astype(float), interval(sums - base, counts), atol=1e-9
    )
    np.testing.assert_allclose(
        row(found, "edited", "perplexity")[names].astype(float),
        difference(sums, base, counts, of=np.exp),
        rtol=1e-9,
    )
    assert row(found, "edited")["count"] == len(TEXTS)


def test_a_result_against_itself_changes_by_nothing():
    found = lp.compare({"a": score([1.0, 2.0, 4.0]), "b": score([1.0, 2.0, 4.0])})
    for name in ("change", "change_low", "change_high"):
        assert (found.values[name] == 0).all()


@settings(max_examples=20, deadline=None)
@given(
    losses=st.lists(st.floats(0.1, 5), min_size=2, max_size=6),
    shift=st.floats(-3, 3),
    weight=st.integers(1, 9),
)
def test_a_shift_of_every_document_has_no_spread(losses, shift, weight):
    counts = [weight + i for i in range(len(losses))]
    moved = score([loss + shift for loss in losses], counts)
    found = lp.compare({"base": score(losses, counts), "moved": moved})
    ends = row(found, "moved")[["change", "change_low", "change_high"]].astype(float)
    np.testing.assert_allclose(ends, shift, atol=1e-9)
    assert row(found, "moved")["low"] <= row(found, "moved")["value"] + 1e-9


def test_only_documents_that_both_have_enter_a_change():
    base, other = score([1.0, 2.0, 3.0, 9.0]), score([2.0, 3.0, 4.0])
    with pytest.warns(UserWarning, match="documents differs"):
        found = lp.compare(
            {"base": base, "other": replace(other, provenance=provenance(documents=3))}
        )
    ends = row(found, "other")[["change", "change_low", "change_high"]].astype(float)
    np.testing.assert_allclose(ends, 1.0)
    assert row(found, "base")["value"] == 3.75
    assert any("1 documents are not in all" in note for note in found.provenance["notes"])


def test_each_side_is_weighed_by_its_own_tokens():
    """Another tokenizer counts other tokens: the change is that of the two means."""
    found = lp.compare({"a": score([1.0, 3.0], [1, 3]), "b": score([1.0, 3.0], [3, 1])})
    assert row(found, "a")["value"] == 2.5
    assert row(found, "b")["value"] == 1.5
    assert row(found, "b")["change"] == -1.0


def test_scans_have_no_interval_and_say_so():
    shifted = sink_scan(n_layers=12)
    shifted.layers["sink_rate"] += 0.1
    found = lp.compare({"base": sink_scan(n_layers=12), "tuned": shifted})
    assert (found.table, found.analysis) == ("layers", "sinks.scan")
    rates = found.values.query("measure == 'sink_rate' and model == 'tuned'")
    np.testing.assert_allclose(rates["change"], 0.1)
    assert found.values[["low", "high", "change_low", "change_high"]].isna().all(axis=None)
    assert any("no rows by document" in note for note in found.provenance["notes"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("bos", False), ("length", 32), ("dtype", "bfloat16"), ("coordinates", "folded")],
)
def test_what_was_not_kept_equal_is_warned_of(name, value):
    with pytest.warns(UserWarning, match=rf"(?i){name} differs.*\(a\).*\(b\)"):
        found = lp.compare({"a": massive_scan(), "b": massive_scan(**{name: value})})
    assert set(found.settings["setting"]) == {name}
    assert found.settings["model"].tolist() == ["a", "b"]
    page = found.plot().layout.meta["caption"]
    assert "no rows by document" in page


def test_equal_settings_are_quiet(recwarn):
    found = lp.compare({"a": massive_scan(), "b": massive_scan(model="other", revision="x")})
    assert not recwarn
    assert found.settings.empty


def test_models_of_different_depth_share_an_axis_and_nothing_else():
    deep, flat = massive_scan(n_layers=12), massive_scan(layers=6, n_layers=6)
    found = lp.compare({"deep": deep, "flat": flat})
    for _, rows in found.values.groupby("model"):
        assert rows["depth"].min() == 0
        assert rows["depth"].max() == 1
    assert found.values.query("model == 'flat'")["change"].isna().all()
    assert any("n_layers=6" in note for note in found.provenance["notes"])
    assert found.plot().layout.xaxis.title.text.startswith("relative depth")
    with pytest.raises(ArgumentError, match="no model has cells in common"):
        found.plot.changes()


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("view", ["values", "changes"])
def test_figures_say_what_they_show_on_one_scale(view, theme):
    found = lp.compare({"base": massive_scan(), "<b>tuned": massive_scan(model="x")})
    figure = getattr(found.plot, view)(theme=theme)
    assert figure.layout.title.text and figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text
    assert figure.layout.meta["finding"].startswith("Here ")
    assert "<b>tuned" not in "".join(trace.name for trace in figure.data)
    assert "rank 1" in figure.layout.title.subtitle.text


def test_a_figure_shows_the_cells_that_are_asked_for():
    found = lp.compare({"a": sink_scan(), "b": sink_scan(heads=6)})
    first, later = found.plot(), found.plot(where={"key": 2}, measure="value")
    assert max(first.data[0].y) > max(later.data[0].y)
    assert first.layout.title.subtitle.text == "sinks.scan, layers, key 0"
    for options, words in (
        ({"where": {"kye": 1}}, "Did you mean 'key'"),
        ({"where": {"key": 9}}, "key is one of 0, 1, 2, 3"),
        ({"measure": "sinkrate"}, "Did you mean 'sink_rate'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            found.plot(**options)


def test_intervals_are_bars_and_names_are_an_axis():
    found = lp.compare({"a": score([1.0, 2.0, 2.5]), "b": score([2.0, 2.0, 4.0])})
    figure = found.plot.changes(measure="loss")
    (trace,) = figure.data
    assert trace.x == ("b",)
    ends = row(found, "b")
    assert trace.y[0] + trace.error_y.array[0] == pytest.approx(ends["change_high"])
    assert trace.y[0] - trace.error_y.arrayminus[0] == pytest.approx(ends["change_low"])
    assert "95% interval" in figure.layout.meta["finding"]


def test_a_comparison_is_a_result(tmp_path):
    base = massive_scan()
    found = lp.compare({"base": base.save(tmp_path / "base.zip"), "same": base})
    again = lp.open(found.save(tmp_path / "both.zip"))
    pd.testing.assert_frame_equal(again.values, found.values)
    assert again.summary() == found.summary()
    assert again.cite().count("2402.17762") == 1
    assert found.models["model"].tolist() == ["base", "same"]
    assert found.models["dim"].tolist() == [447, 447]
    page = found.to_html(tmp_path / "both.html").read_text()
    assert "Side by side" in page


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({}, "at least two"),
        ([massive_scan(), massive_scan()], "a label for each"),
        ({"a": massive_scan()}, "at least two"),
        (
            {"a": massive_scan(), "b": sink_scan()},
            "'b' is a 'sinks.scan' result and 'a' a 'massive",
        ),
        ({"a": massive_scan(), "b": 3}, "'b' is a int"),
        ({"a": massive_scan(), " ": massive_scan()}, "is no name"),
        ({1: massive_scan(), "b": massive_scan()}, "is no name"),
    ],
)
def test_what_cannot_be_compared(results, words):
    with pytest.raises(ArgumentError, match=words):
        lp.compare(results)


def test_tables_that_cannot_be_compared(tmp_path):
    both = {"a": massive_scan(), "b": massive_scan()}
    with pytest.raises(ArgumentError, match="Did you mean 'layers'"):
        lp.compare(both, table="layer")
    with pytest.raises(OutputError, match="no such file"):
        lp.compare({"a": tmp_path / "gone.zip", "b": massive_scan()})
    once = lp.compare(both)
    with pytest.raises(ArgumentError, match="is not compared"):
        lp.compare({"a": once, "b": once})
    with pytest.raises(ArgumentError, match="several rows for one cell"):
        lp.compare({"a": repeated(), "b": repeated()}, table="layers")


def repeated():
    scan = massive_scan()
    return replace(scan, layers=pd.concat([scan.layers, scan.layers]))


def test_models_take_turns_and_a_failure_is_a_row(gpt2_folder, llama_folder, tmp_path):
    seen = []

    def analysis(model, texts, *, length=None):
        gc.collect()
        assert not any(reference() for reference in seen), "an earlier model is still there"
        seen.append(weakref.ref(model))
        return lp.massive.scan(model, texts, length=length, progress=False)

    names = {"one": gpt2_folder, "gone": str(tmp_path / "gone"), "two": llama_folder}
    found = lp.over(names, analysis, (text for text in TEXTS), length=8)
    assert found.models.set_index("model").loc["gone", "error"].startswith("ModelError")
    assert found.models["model"].tolist() == ["one", "two", "gone"]
    assert set(found.values["model"]) == {"one", "two"}
    assert len(seen) == 2
    alone = lp.massive.scan(lp.load(gpt2_folder), TEXTS, length=8, progress=False)
    own = found.values.query("model == 'one' and measure == 'mean'")["value"]
    np.testing.assert_allclose(own, alone.layers["mean"])
    assert found.summary()["failed"] == 1


def test_a_revision_goes_to_load(monkeypatch, tiny_gpt2):
    asked = []

    def load(name, *, revision, **options):
        asked.append((name, revision, options["dtype"]))
        return tiny_gpt2

    monkeypatch.setattr(turns, "load", load)
    found = lp.over(
        ["owner/model@step10", "owner/model"], lp.sinks.scan, TEXTS, dtype="float32", length=8
    )
    assert asked == [("owner/model", "step10", "float32"), ("owner/model", None, "float32")]
    assert found.models["model"].tolist() == ["owner/model@step10", "owner/model"]
    assert (found.values["change"] == 0).all()


def test_a_model_in_memory_is_used_as_it_is(tiny_gpt2):
    found = lp.over({"mine": tiny_gpt2}, lp.score, TEXTS)
    assert row(found, "mine")["value"] == pytest.approx(lp.score(tiny_gpt2, TEXTS).loss)


def test_nothing_that_worked_is_still_a_comparison(tmp_path):
    found = lp.over([str(tmp_path / "gone")], lp.score, TEXTS)
    assert found.values.empty
    assert lp.open(found.save(tmp_path / "none.zip")).models["error"].str.contains("gone").all()
    with pytest.raises(ArgumentError, match="no model that could be analysed"):
        found.plot()


@pytest.mark.parametrize(
    ("models", "analysis", "options", "words"),
    [
        ([], lp.score, {}, "at least one"),
        (3, lp.score, {}, "at least one"),
        ([object()], lp.score, {}, "needs a label"),
        ({"": "gpt2"}, lp.score, {}, "no name of its own"),
        (["gpt2", "gpt2"], lp.score, {}, "no name of its own"),
        (["gpt2"], 3, {}, "analysis=3"),
        (["gpt2"], lp.sinks.scan, {"lenght": 3}, "Did you mean 'length'"),
        (["gpt2"], lp.score, {"seed": -1}, "seed=-1"),
    ],
)
def test_wrong_calls_are_told_before_a_model_is_loaded(
    monkeypatch, models, analysis, options, words
):
    monkeypatch.setattr(turns, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ArgumentError, match=words):
        lp.over(models, analysis, TEXTS, **options)


def test_a_wrong_analysis_or_table_is_no_row(tiny_gpt2):
    with pytest.raises(ArgumentError, match="it returned int"):
        lp.over({"a": tiny_gpt2}, lambda model, texts: 3, TEXTS)
    with pytest.raises(ArgumentError, match="Did you mean 'tokens'"):
        lp.over({"a": tiny_gpt2}, lp.score, TEXTS, table="token")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped")])
def test_an_interrupt_keeps_the_models_that_were_finished(tiny_gpt2, stop):
    def analysis(model, texts):
        if calls:
            raise stop
        calls.append(1)
        return lp.score(model, texts)

    calls = []
    with pytest.raises(Interrupted, match="after 1 of 2 models") as caught:
        lp.over({"a": tiny_gpt2, "b": tiny_gpt2}, analysis, TEXTS)
    assert caught.value.partial.models["model"].tolist() == ["a"]
    assert caught.value.partial.provenance["complete"] is False


def test_a_model_keeps_its_colour_and_numbers_have_units():
    found = lp.compare({"a": score([1.0, 2.0]), "b": score([2.0, 2.0])})
    (change,) = found.plot.changes().data
    assert (
        change.marker.color
        == found.plot().data[1].marker.color
        != found.plot().data[0].marker.color
    )
    assert found.plot().layout.yaxis.title.text == "loss (nats a token)"
