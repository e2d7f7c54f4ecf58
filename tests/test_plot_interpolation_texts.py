"""Figures of interpolated texts and of traces, read by their fields."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic import HOSTILE, provenance

from lensprobe.errors import ArgumentError
from lensprobe.interpolation import Interpolation, Trace
from lensprobe.plot.interpolation_parts import blend_of
from lensprobe.plot.theme import THEMES
from lensprobe.reporting.words import LEADS, TITLES

BLEND = {"layers": [9], "weights": [0.3]}
LAYERS = 12


def written(*, plain: bool = True, logprobs: bool = True, **changes) -> Interpolation:
    """Texts of one hostile token after another; the interpolated ones cost a nat less."""
    rows = []
    for text in range(2):
        for condition in ["interpolated", "plain"][: 1 + plain]:
            for step in range(20):
                token = HOSTILE[(step + (condition == "plain") * (step > 4)) % len(HOSTILE)]
                row = {"text": text, "condition": condition, "position": 5 + step, "token": token}
                row |= {"id": HOSTILE.index(token)}
                if logprobs:
                    own = -1.0 - 0.1 * step
                    row |= {"logprob": own, "entropy": 2.0, "rank": 1}
                    row |= {"plain_logprob": own - (condition == "interpolated")}
                    row |= {"plain_entropy": 2.5, "plain_rank": 3}
                rows.append(row)
    tokens = pd.DataFrame(rows)
    texts = tokens.groupby(["text", "condition"]).size().rename("count").reset_index()
    texts.insert(2, "prompt", "<b>Once</b> upon\na time")
    texts.insert(3, "completion", "".join(HOSTILE))
    return Interpolation(
        provenance=provenance(blend={**BLEND, **changes}), texts=texts, tokens=tokens
    )


def traced(count: int = 9, layers: int = LAYERS) -> Trace:
    """Plain late layers are about the guess; from layer 9 on interpolated ones are about what came."""
    names = [HOSTILE[i % len(HOSTILE)] for i in range(count)]
    right = [i % 3 == 0 for i in range(count)]
    following = [*names[1:], None]
    guesses = [n if yes and n else " guess" for n, yes in zip(following, right, strict=True)]
    rows = []
    for condition in ("plain", "interpolated"):
        for layer in range(layers):
            late = layer >= 9
            for position in range(count):
                shift = late and condition == "interpolated" and 0 < position < count - 1
                ranks = {"current": 50 if late else 1, "next": 1 if shift else 200}
                ranks |= {"guess": 200 if shift else (1 if late else 100)}
                if guesses[position] == following[position]:
                    ranks["guess"] = ranks["next"] = min(ranks["guess"], ranks["next"])
                if following[position] is None:
                    del ranks["next"]
                for kind, rank in {**ranks, "top": 1}.items():
                    token = {"current": names, "next": following, "guess": guesses}.get(kind, names)
                    rows.append(
                        {"condition": condition, "layer": layer, "position": position, "kind": kind}
                        | {"token": token[position], "id": 0, "probability": 1 / (1 + rank)}
                        | {"rank": rank}
                    )
    tokens = pd.DataFrame(
        {
            "position": range(count),
            "token": names,
            "id": 0,
            "next": following,
            "guess": guesses,
            "probability": 0.1,
            "rank": 2.0,
            "blended": [0 < i < count - 1 for i in range(count)],
        }
    )
    return Trace(provenance=provenance(blend=BLEND), lens=pd.DataFrame(rows), tokens=tokens)


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize(
    ("result", "name"),
    [
        (written(), "tokens"),
        (written(), "completions"),
        (written(), "course"),
        (written(plain=False), "tokens"),
        (traced(), "grid"),
        (traced(), "curves"),
    ],
)
def test_every_figure_says_what_it_is(result, name, theme):
    figure = getattr(result.plot, name)(theme=theme)
    assert figure.layout.title.text
    assert "gpt2-made-up, weight 0.3 after layer 9" in figure.layout.title.subtitle.text
    assert figure.layout.meta["caption"].endswith(".")
    assert figure.layout.meta["finding"].startswith("Here ")
    for trace in figure.data:
        assert trace.type == "table" or trace.hovertemplate or trace.hoverinfo == "skip"
    shown = str(figure.data) + str(figure.layout)
    assert "<img" not in shown and "<b>Once" not in shown and "\u202e" not in shown
    assert "<s>" not in shown


def test_texts_stand_side_by_side_in_lines_on_one_scale():
    figure = written().plot()
    first, second = figure.data
    assert [a.text for a in figure.layout.annotations] == ["interpolated", "plain"]
    assert first.zmax == second.zmax and np.shape(first.z) == (3, 8)
    values = np.array(first.z, dtype=float).reshape(-1)
    np.testing.assert_allclose(values[:20], 2.0 + 0.1 * np.arange(20))
    assert np.isnan(values[20:]).all()
    assert first.text[0][0] == "&lt;s&gt;"
    assert "part at generated token 5" in figure.layout.meta["finding"]


def test_a_change_is_coloured_around_no_change():
    figure = written(plain=False).plot.tokens(measure="change")
    (trace,) = figure.data
    assert trace.zmin == -trace.zmax == pytest.approx(-1.0)
    np.testing.assert_allclose(np.array(trace.z, dtype=float)[0], 1.0)


def test_the_course_is_a_mean_over_prompts():
    with_, without = written().plot.course().data
    np.testing.assert_allclose(np.array(without.y) - np.array(with_.y), 1.0)
    assert list(with_.x) == list(range(20))


def test_cells_are_about_what_the_lens_ranks_best():
    figure = traced().plot()
    heats = {(t.yaxis, i % 4): t for i, t in enumerate(figure.data[:8])}
    both, following, guess, current = (
        np.array(heats["y2", kind].z, dtype=float) for kind in range(4)
    )
    # Above, after: from layer 9 on the next token, whether it was the guess or not.
    right = [i for i in range(1, 8) if i % 3 == 0]
    wrong = [i for i in range(1, 8) if i % 3]
    assert (both[9:, right] == 1).all() and (following[9:, wrong] == 1).all()
    assert np.isnan(guess[9:, 1:-1]).all() and (current[:9] == 1).all()
    before = np.array(heats["y", 2].z, dtype=float)
    assert (before[9:, wrong] == 1).all()
    assert "before and 100% after" in figure.layout.meta["finding"]
    assert figure.layout.shapes[0].y0 == 8.5


def test_long_texts_and_deep_models_are_cut_and_it_is_said():
    figure = traced(60, layers=90).plot()
    assert np.shape(figure.data[0].z) == (30, 24)
    assert "positions 0 to 23 of 60, 30 of 90 layers" in figure.layout.title.subtitle.text
    assert figure.layout.yaxis.ticktext[0] == "2"
    later = traced(60).plot(first=50)
    assert np.shape(later.data[0].z) == (12, 10)
    assert "positions 50 to 59 of 60" in later.layout.title.subtitle.text


def test_curves_tell_right_guesses_from_wrong_ones():
    figure = traced().plot.curves()
    assert [a.text for a in figure.layout.annotations] == [
        "guessed wrong (5 positions)",
        "guessed right (2 positions)",
    ]
    after = next(t for t in figure.data if t.name == "the next token, after")
    np.testing.assert_allclose(np.array(after.y)[[0, 9]], [1 / 200, 1])
    assert "1 / rank of the next token goes from 0.01 to 1.00" in figure.layout.meta["finding"]


@pytest.mark.parametrize(
    ("blend", "words"),
    [
        (
            {"layers": [3, 4, 5], "weights": [0.1, 0.2, 0.3]},
            "weight 0.1 to 0.3 after layers 3 to 5",
        ),
        ({"layers": [3, 7], "weights": [0.5, 0.5]}, "weight 0.5 after layers 3, 7"),
    ],
)
def test_a_blend_in_words(blend, words):
    assert blend_of(written(**blend)) == words


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: written().plot.tokens(text=5), "text=5"),
        (lambda: written().plot.tokens(measure="surprize"), "Did you mean 'surprise'"),
        (lambda: written(logprobs=False).plot(), "logprobs=True"),
        (lambda: traced().plot(first=99), "first=99: a position from 0 to 8"),
        (lambda: traced().plot.curves(measure="loss"), "rank, probability"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, words):
    with pytest.raises(ArgumentError, match=words):
        draw()


@pytest.mark.parametrize("result", [written(), written(logprobs=False), traced()])
def test_each_has_a_page(result, tmp_path):
    page = result.to_html(tmp_path / "page.html").read_text("utf-8")
    assert TITLES[result.kind] in page and LEADS[result.kind][-12:] in page
    assert f"{result.kind.replace('.', '-')}-{result.plot.names[1]}" in page
    assert "<img src=x" not in page
