"""Figures of interpolation scores, sweeps, surprise and learned weights: their fields, not pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lensprobe.interpolation import InterpolationSweep, Surprise, learn, score, surprise, sweep

RESULTS = {
    "score": lambda model, texts: score(model, texts, layer=1, weight=0.5),
    "sweep": lambda model, texts: sweep(model, texts, layers=[0, 2], weights=[0.2, 0.6]),
    "surprise": lambda model, texts: surprise(model, texts, layer=1, weight=0.5, lags=2),
    "learn": lambda model, texts: learn(model, texts, steps=2, held_out=texts),
}


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    return torch.randint(1, 300, (3, 20), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize("name", RESULTS)
def test_every_view_draws_and_says_what_it_found(tiny_gpt2, texts, name):
    result = RESULTS[name](tiny_gpt2, texts)
    for view in result.plot.names:
        for theme in ("light", "dark", "paper"):
            figure = getattr(result.plot, view)(theme=theme, title="<s>")
            assert figure.layout.title.text == "&lt;s&gt;"
            assert figure.layout.meta["finding"].startswith("Here ")
            assert figure.layout.meta["caption"].endswith(".")
            assert len(figure.data)


def test_the_map_shows_the_changes_around_zero(tiny_gpt2, texts):
    found = sweep(tiny_gpt2, texts, layers=[0, 2], weights=[0.2, 0.6])
    assert isinstance(found, InterpolationSweep)
    (cells,) = found.plot().data
    wide = found.effects.pivot(index="layer", columns="weight", values="change").to_numpy()
    assert [list(row) for row in cells.z] == wide.tolist()
    assert cells.zmin == -cells.zmax
    assert list(cells.y) == ["0", "2"] and list(cells.x) == ["0.2", "0.6"]


def test_the_figure_says_whether_the_hypothesis_holds(tiny_gpt2, texts):
    found = surprise(tiny_gpt2, texts, layer=1, weight=0.5, lags=2)
    assert isinstance(found, Surprise)
    for high, words in ((-0.1, "as the hypothesis says"), (0.1, "not borne out here")):
        sure = found.contrasts.assign(high=high)
        one = replace(found, deciles=found.deciles.assign(high=high), contrasts=sure)
        assert one.supported == (high < 0)
        assert words in one.plot().layout.meta["finding"]
    assert [trace.name for trace in found.plot().data if trace.showlegend] == [
        "the token before",
        "two before",
    ]
