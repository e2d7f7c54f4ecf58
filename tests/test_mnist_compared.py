"""Leaving the data as a reason, a language model beside the network, and the figures of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.mnist.leaving import CONDITIONS
from lensprobe.mnist.study_tables import rows_where
from lensprobe.reporting.words import LEADS, TITLES
from lensprobe.steering import SteeringVector

PAIRS = [(3, 1), (1, 3), (8, 0), (4, 9)]


@pytest.fixture(scope="module")
def data():
    return lp.mnist.load_digits_data()


@pytest.fixture(scope="module")
def model():
    return lp.mnist.HookedMLP((64, 24, 24, 10), seed=1)


@pytest.fixture(scope="module")
def training(model, data):
    return lp.mnist.train(model, data, epochs=12, learning_rate=5e-3, every=20, target=0.4)


@pytest.fixture(scope="module")
def study(model, data, training):
    return lp.mnist.study(model, data, scales=(0.0, 0.5, 1.0), n=20)


@pytest.fixture(scope="module")
def leaving(model, data, training):
    return lp.mnist.out_of_data(model, data, pairs=PAIRS, n=25)


@pytest.fixture(scope="module")
def sweep(planted):
    ones = SteeringVector(torch.ones(planted.cfg.d_model), 0)
    texts = ["The cat sat on the mat.", "One two three four five six."]
    return lp.steering.sweep(planted, texts, vector=ones, scales=[0.5, 1.0], progress=False)


def test_the_pair_condition_is_the_study(leaving, study):
    own = rows_where(leaving.effects, condition="pair").set_index(["positive", "negative", "layer"])
    rows = rows_where(study.effects, group="others", measure="loss", scale=1.0)
    for row in rows.itertuples():
        if (row.positive, row.negative) in PAIRS:
            assert own["loss"][row.positive, row.negative, row.layer] == pytest.approx(
                row.value, 1e-5
            )


def test_all_conditions_have_the_pairs_length(leaving):
    lengths = [rows_where(leaving.effects, condition=c)["length"].to_numpy() for c in CONDITIONS]
    for other in lengths[1:]:
        np.testing.assert_allclose(other, lengths[0], rtol=1e-5)


def test_put_back_is_what_the_network_says_of_the_nearest_training_image(leaving, model, data):
    picked = np.sort(np.random.default_rng(0).permutation(len(data.test_images))[:25])
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.from_numpy(data.images))
        _, test = model.run_with_cache(torch.from_numpy(data.test_images[picked]))
    train, held = (c["layers.3.hook_out"].double() for c in (cache, test))
    edited = held + train[data.of(3)[0]] - train[data.of(1)[0]]
    nearest = torch.cdist(edited, train).argmin(1)
    labels = torch.from_numpy(data.test_labels[picked])
    loss = torch.nn.functional.cross_entropy(logits[nearest], labels, reduction="none")
    where = {"condition": "pair", "positive": 3, "negative": 1, "layer": 3}
    row = rows_where(leaving.effects, **where).iloc[0]
    assert row["nearest_loss"] == pytest.approx(loss[labels != 1].mean().item(), rel=1e-4)
    same = torch.from_numpy(data.labels)[nearest] == labels
    assert row["nearest_accuracy"] == pytest.approx(same[labels != 1].double().mean().item())


def test_the_verdict_is_read_off_the_cells(leaving):
    rows = rows_where(leaving.effects, layer=1)
    own, random = (rows_where(rows, condition=c).reset_index() for c in ("pair", "random"))
    verdict = rows_where(leaving.verdicts, layer=1).iloc[0]
    assert verdict["ratio"] == pytest.approx(own["change"].median() / random["change"].median())
    further = (random["distance"] > own["distance"]) & (random["change"] < own["change"])
    assert verdict["share"] == pytest.approx(further.mean())
    assert leaving.summary()["layer 1: pair / random"] == verdict["ratio"]


def test_directions_follow_from_the_seed(model, data, training, leaving):
    again = lp.mnist.out_of_data(model, data, pairs=PAIRS, n=25, seed=0)
    other = lp.mnist.out_of_data(model, data, pairs=PAIRS, n=25, seed=1)
    close(again.effects["loss"], leaving.effects["loss"])
    random = [rows_where(r.effects, condition="random")["loss"].to_numpy() for r in (again, other)]
    assert abs(random[0] - random[1]).max() > 1e-3
    with pytest.raises(ArgumentError, match="n=0: a whole number from 1 on"):
        lp.mnist.out_of_data(model, data, n=0)


def test_a_language_model_stands_beside_the_network(study, sweep):
    both = lp.mnist.beside(study, sweep)
    digits, texts = (rows for _, rows in both.layers.groupby("model", sort=False))
    assert digits["layer"].tolist() == [0, 1, 2, 3, 4] and digits["depth"].tolist()[-1] == 1
    change = rows_where(study.effects, group="others", measure="loss", scale=1.0, layer=2)["change"]
    assert digits["value"].iloc[2] == pytest.approx(np.median(change))
    rows = rows_where(sweep.effects, measure="loss", scale=1.0)
    close(texts["value"], rows["change"])
    close(texts["ratio"], rows_where(sweep.effects, measure="ratio", scale=1.0)["value"])


def test_what_cannot_stand_beside_it(study, sweep):
    with pytest.raises(ArgumentError, match=r"scale=2\.0: the study has"):
        lp.mnist.beside(study, sweep, scale=2.0)
    with pytest.raises(ArgumentError, match=r"scale=0\.0: the sweep has"):
        lp.mnist.beside(study, sweep, scale=0.0)
    with pytest.raises(ArgumentError, match="group='prose'"):
        lp.mnist.beside(study, sweep, group="prose")
    with pytest.raises(ArgumentError, match="study, sweep"):
        lp.mnist.beside(sweep, study)


# ---- figures and pages ----------------------------------------------------------------------


def results(study, leaving, training, sweep):
    return [study, leaving, training, lp.mnist.beside(study, sweep)]


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
def test_every_view_draws_says_and_labels(study, leaving, training, sweep, theme):
    for result in results(study, leaving, training, sweep):
        for name in result.plot.names:
            figure = getattr(result.plot, name)(theme=theme)
            meta = figure.layout.meta
            assert figure.data and meta["caption"] and meta["finding"].startswith("Here")
            assert "nan" not in meta["finding"].lower().replace("nano", "")
            if name != "pictures":
                assert figure.layout.xaxis.title.text or figure.layout.xaxis8.title.text


def test_the_square_shows_the_numbers(study):
    figure = study.plot(layer=1)
    frame = study.square("loss", layer=1)
    close(10 ** np.array(figure.data[0].z, dtype=float), frame.to_numpy())
    assert list(figure.data[0].x) == [str(digit) for digit in range(10)]
    share = study.plot(measure="probability_positive")
    assert (share.data[0].zmin, share.data[0].zmax) == (0, 1)
    assert np.isfinite(np.array(share.data[0].z, dtype=float)).all()


def test_the_panels_share_one_scale_and_show_the_distributions(study):
    figure = study.plot.distributions(pair=(8, 0), layer=3)
    frame = study.distribution(8, 0, layer=3)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 10
    for shown, trace in enumerate(bars):
        close(np.array(trace.y), rows_where(frame, shown=shown)["probability"])
        assert figure.layout[trace.yaxis.replace("y", "yaxis")].range == (0, 1.05)


def test_the_difference_is_that_of_the_images(study, data):
    figure = study.plot.pictures(pair=(8, 0))
    step = (data.images[data.of(8)[0]] - data.images[data.of(0)[0]]).reshape(8, 8)
    close(np.array(figure.data[2].z, dtype=float), step)
    assert figure.data[2].zmin == -figure.data[2].zmax


def test_views_that_have_nothing_to_draw(model, data, training):
    one = lp.mnist.study(model, data, pairs=[(3, 1)], n=0)
    with pytest.raises(ArgumentError, match="a curve needs more"):
        one.plot.curves()
    with pytest.raises(ArgumentError, match="no distances"):
        one.plot.distance()
    with pytest.raises(ArgumentError, match="not that one"):
        one.plot.pictures(pair=(1, 3))


def test_each_result_has_a_page_and_comes_back(study, leaving, training, sweep, tmp_path):
    for result in results(study, leaving, training, sweep):
        assert result.kind in TITLES and result.kind in LEADS
        page = result.to_html(tmp_path / f"{result.kind}.html", js="cdn").read_text("utf-8")
        assert TITLES[result.kind].replace("'", "&#39;") in page
        again = lp.open(result.save(tmp_path / f"{result.kind}.zip"))
        assert repr(again) == repr(result)
