"""A sweep over layers and weights: each cell is a score of its own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tolerance import close

import lensprobe as lp
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError
from lensprobe.interpolation import InterpolationSweep, score, sweep

HOME = sys.modules["lensprobe.interpolation.sweep"]
ROWS = [[0, 40, 41, 300, 7, 90, 12, 12], [5, 9], [0, 8, 200, 13, 99]]


def swept(model, texts=ROWS, **options) -> InterpolationSweep:
    found = sweep(model, texts, **{"progress": False, **options})
    assert isinstance(found, InterpolationSweep)
    return found


@pytest.mark.parametrize("target", ["embedding", "early"])
def test_every_cell_is_a_score_of_its_own(decoder, target):
    found = swept(decoder, layers=[0, 2], weights=[0.2, 0.9], target=target)
    for row in found.effects.to_dict(orient="records"):
        alone = score(decoder, ROWS, layer=int(row["layer"]), weight=row["weight"], target=target)
        assert not isinstance(alone, Plan)
        assert row["loss"] == pytest.approx(alone.loss, abs=1e-5)
        assert row["change"] == pytest.approx(alone.loss - alone.plain_loss, abs=1e-5)
        assert row["low"] <= row["change"] <= row["high"]
        each = found.documents[found.documents["layer"] == row["layer"]]
        each = each[each["weight"] == row["weight"]]
        close(each["change"], alone.texts["change"])
        assert found.plain_loss == pytest.approx(alone.plain_loss, abs=1e-5)


def test_weight_zero_and_the_last_layer_change_nothing(tiny_gpt2):
    found = swept(tiny_gpt2, layers="all", weights=[0.0, 0.5]).effects
    still = (found["weight"] == 0) | (found["layer"] == 3)
    assert (found.loc[still, "change"] == 0).all()
    assert (found.loc[~still, "change"] != 0).all()


def test_lower_blocks_run_once_for_all_cells(decoder):
    calls = [0] * 4
    handles = [
        block.attn.register_forward_pre_hook(
            lambda module, args, n=n: calls.__setitem__(n, calls[n] + 1)
        )
        for n, block in enumerate(decoder.blocks)
    ]
    swept(decoder, layers=[1, 2], weights=[0.3])
    calls[:] = [0] * 4
    try:
        swept(decoder, layers=[1, 2], weights=[0.3, 0.6], batch_tokens=100)
    finally:
        for handle in handles:
            handle.remove()
    # The plain pass; then two streams for each of four cells, or of the two cells below block 3.
    assert calls == [1, 1, 1 + 2 * 2, 1 + 2 * 4]


def test_long_texts_count_each_token_once(tiny_llama):
    ids = list(range(1, 40))
    found = swept(tiny_llama, [ids], layers=[1], weights=[0.5], length=16)
    assert found.documents["count"].tolist() == [38]
    assert np.isnan(found.effects["low"]).all()


def test_the_best_cell_has_the_lowest_loss(tiny_llama):
    found = swept(tiny_llama, weights=[0.5, 1.0])
    assert found.best["change"] == found.effects["change"].min()
    assert found.summary()["texts"] == 3


def test_it_is_saved_and_planned(tiny_llama, tmp_path):
    found = swept(tiny_llama, layers=1, weights=[0.5])
    found.save(tmp_path / "sweep.lp")
    assert lp.open(tmp_path / "sweep.lp").effects.equals(found.effects)
    assert isinstance(sweep(tiny_llama, ROWS, dry_run=True), Plan)


def test_an_interrupt_keeps_what_was_finished(tiny_llama, monkeypatch):
    real, calls = HOME._cells, []

    def stops(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(HOME, "_cells", stops)
    with pytest.raises(lp.Interrupted) as caught:
        swept(tiny_llama, layers=1, batch_tokens=1)
    assert caught.value.partial.documents["text"].nunique() == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": []}, "weights="),
        ({"weights": [0.1, 0.1]}, "different"),
        ({"weights": [2.0]}, "extrapolate=True"),
        ({"weights": ["much"]}, "numbers"),
        ({"layers": 7}, "layer=7"),
        ({"layers": [0, 2], "target": 1}, "above the blended layer 0"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        sweep(tiny_gpt2, ROWS, **options)
