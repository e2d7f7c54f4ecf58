"""Change in loss by earlier surprisal: against numbers made by hand, and a gain that was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tolerance import close

import lensprobe as lp
from lensprobe.costs import Plan
from lensprobe.errors import ArgumentError
from lensprobe.interpolation import Surprise, score, surprise
from lensprobe.interpolation.surprise import surprise_result

FACTS = {"model": "made", "seed": 0, "notes": [], "blend": {"layers": [1], "weights": [0.5]}}


def rows(count: int, length: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(0)
    return torch.randint(1, 300, (count, length), generator=random).tolist()


def made(plain: np.ndarray, change: np.ndarray) -> Surprise:
    """A result of texts `[text token]` whose losses are given."""
    answers = [{"plain_loss": p, "loss": p + c} for p, c in zip(plain, change, strict=True)]
    return surprise_result(answers, np.arange(len(plain)), 3, dict(FACTS))


def planted(gain: float) -> Surprise:
    """Losses fall by `gain` after the tokens whose surprisal is above 4, and by nothing else."""
    random = np.random.default_rng(0)
    plain = random.uniform(0, 5, (12, 200))
    change = random.normal(0, 0.05, plain.shape)
    change[:, 1:] -= gain * (plain[:, :-1] > 4)
    return made(plain, change)


def test_a_planted_gain_is_found_where_it_is():
    found = planted(0.5)
    near = found.deciles[found.deciles["lag"] == 1].set_index("decile")
    close(near.loc[[9, 10], "change"].to_numpy().round(1), [-0.5, -0.5])
    assert near.loc[1:7, "change"].abs().max() < 0.03
    assert (near.loc[10, "high"] < -0.4) and found.supported
    far = found.contrasts.set_index("lag")
    assert far.loc[1, "high"] < -0.4
    assert far.loc[2, "low"] < 0 < far.loc[2, "high"]


def test_where_nothing_was_planted_nothing_is_found():
    assert not planted(0.0).supported
    worse = planted(-0.5)
    assert not worse.supported and worse.contrasts["change"].iloc[0] > 0.4


def test_deciles_are_of_the_earlier_token():
    plain = np.arange(41.0)[None].repeat(2, axis=0)
    found = made(plain, plain * 10.0)
    near = found.deciles.query("lag == 1")
    assert near["count"].tolist() == [8] * 10
    # Token j has surprisal j; in the first decile stand tokens 1 to 4, after tokens 0 to 3.
    close(near["surprisal"], [1.5 + 4 * k for k in range(10)])
    close(near["change"], [10 * (2.5 + 4 * k) for k in range(10)])
    assert (near["first"].iloc[0], near["last"].iloc[0]) == (0.0, 3.0)
    second = found.deciles.query("lag == 2")
    close(second["change"].iloc[:1], [10 * 3.5])


def test_ties_leave_no_decile_empty():
    found = made(np.ones((3, 31)), np.zeros((3, 31)))
    assert found.deciles["count"].min() == 8
    assert (found.deciles["change"] == 0).all()


def test_it_reads_the_losses_of_the_score(decoder):
    texts = rows(4, 20)
    options = {"layer": 1, "weight": 0.6, "progress": False}
    found = surprise(decoder, texts, lags=2, **options)
    scored = score(decoder, texts, **options)
    assert isinstance(found, Surprise) and not isinstance(scored, Plan)
    tokens = scored.tokens
    change = (tokens["loss"] - tokens["plain_loss"]).to_numpy().reshape(4, 19)
    for lag in (1, 2):
        mine = found.deciles.query("lag == @lag")
        total = float((mine["change"] * mine["count"]).sum())
        assert total == pytest.approx(change[:, lag:].sum(), abs=1e-3)
        assert mine["count"].sum() == 4 * (19 - lag)
        surprisal = np.asarray(tokens["plain_loss"]).reshape(4, 19)[:, : 19 - lag]
        assert mine["last"].iloc[-1] == pytest.approx(surprisal.max(), abs=1e-4)


def test_it_is_saved_and_summed_up(tmp_path):
    found = planted(0.5)
    found.save(tmp_path / "surprise.lp")
    again = lp.open(tmp_path / "surprise.lp")
    assert again.deciles.equals(found.deciles)
    assert again.summary()["supported"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [({"lags": 0}, "lags=0"), ({"lags": 1.5}, "lags=1.5"), ({"layer": None}, "layer=None")],
)
def test_what_does_not_fit_is_refused(tiny_gpt2, options, words):
    with pytest.raises(ArgumentError, match=words):
        surprise(tiny_gpt2, rows(2, 20), **{"layer": 1, "weight": 0.5, **options})


def test_too_few_tokens_for_deciles_are_refused(tiny_gpt2):
    with pytest.raises(ArgumentError, match="10 deciles"):
        surprise(tiny_gpt2, rows(1, 8), layer=1, weight=0.5)
    assert isinstance(surprise(tiny_gpt2, rows(1, 8), layer=1, weight=0.5, dry_run=True), Plan)
