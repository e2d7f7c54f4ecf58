"""Texts as coloured tokens: ranks against the model's own logits, where texts part, what is shown."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from browsing import CHROMIUM, FLAGS, LOCAL, Opened
from columns import unknown
from synthetic import HOSTILE, provenance
from test_report import Elements
from tolerance import close

import lensprobe as lp
from lensprobe.errors import ArgumentError, OutputError
from lensprobe.models.adapter import adapter_for
from lensprobe.reporting.token_view import token_view
from lensprobe.running import Generation, Score

TEXTS = ["Hello world, this is the cat", "one two three"]


def generation(*completions: list[int], prompt: str = "p", names=None, **columns) -> Generation:
    """A made-up generation: token ids of each completion; a token is its number, or named."""
    name = (lambda i: f"<{i}>") if names is None else names.__getitem__
    texts = [
        {"text": k, "prompt": prompt, "completion": " ".join(map(name, ids)), "count": len(ids)}
        for k, ids in enumerate(completions)
    ]
    rows = [
        {"text": k, "position": 1 + place, "token": name(i), "id": i}
        for k, ids in enumerate(completions)
        for place, i in enumerate(ids)
    ]
    tokens = pd.DataFrame(rows, columns=["text", "position", "token", "id"]).assign(**columns)
    return Generation(provenance(site=None), pd.DataFrame(texts), tokens)


# ---- ranks ---------------------------------------------------------------------------------------


def oracle(model, ids) -> np.ndarray:
    """Rank of every token but the first, by sorting all logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    order = logits[:-1].argsort(-1, descending=True)
    return 1 + (order == torch.tensor(ids[1:])[:, None]).int().argmax(-1).numpy()


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_score_has_the_rank_of_every_token(decoder, chunk):
    found = lp.score(decoder, TEXTS, chunk=chunk)
    rows = lp.TokenBatch.pad(adapter_for(decoder), TEXTS).rows()
    for text, ids in enumerate(rows):
        own = found.tokens[found.tokens["text"] == text]
        assert np.isnan(own["rank"].iloc[0])
        assert (own["rank"].iloc[1:] == oracle(decoder, ids)).all()
    assert unknown(found) == set()


def test_a_score_that_walks_token_by_token_has_the_same_ranks(tiny_gpt2):
    nothing = lp.Add(torch.ones(48), scale=0.0, layers=0, positions=lp.positions.last())
    walked, read = (lp.score(tiny_gpt2, TEXTS, edits=edits) for edits in (nothing, ()))
    assert walked.tokens["rank"].equals(read.tokens["rank"])
    close(walked.tokens["loss"].dropna(), read.tokens["loss"].dropna())


def test_greedy_tokens_are_of_rank_1_and_others_as_the_logits_say(decoder):
    greedy = lp.generate(decoder, TEXTS, max_new_tokens=4, logprobs=True)
    assert (greedy.tokens["rank"] == 1).all()
    drawn = lp.generate(decoder, TEXTS[1], max_new_tokens=5, temperature=3.0, seed=1, logprobs=True)
    ids = lp.TokenBatch.pad(adapter_for(decoder), [TEXTS[1]]).rows()[0] + list(drawn.tokens["id"])
    assert list(drawn.tokens["rank"]) == list(oracle(decoder, ids)[-len(drawn.tokens) :])
    assert drawn.tokens["rank"].max() > 1


def test_ranks_are_compared_and_do_not_set_apart(tiny_gpt2):
    plain = lp.score(tiny_gpt2, TEXTS)
    edited = lp.score(tiny_gpt2, TEXTS, edits=lp.Scale(factor=2.0, layers=1))
    found = lp.compare({"plain": plain, "edited": edited}, table="tokens").values
    rank = found[(found["measure"] == "rank") & (found["model"] == "edited")]
    close(rank["value"].dropna(), edited.tokens["rank"].dropna())


# ---- side by side --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "step"),
    [([1, 2, 3], None), ([1, 9, 3], 1), ([9, 2, 3], 0), ([1, 2], 2), ([1, 2, 3, 4], 3), ([], 0)],
)
def test_texts_part_at_the_first_token_that_differs(own, step):
    found = lp.side_by_side({"plain": generation([1, 2, 3]), "other": generation(own)})
    steps = found.texts.set_index("condition")["step"]
    assert np.isnan(steps["plain"])
    assert np.isnan(steps["other"]) if step is None else steps["other"] == step
    assert found.summary()["parted: other"] == (step is not None)
    told = found.plot().layout.meta["finding"]
    assert ("says the same" in told) if step is None else (f"generated token {step}" in told)


def test_plain_and_steered_are_set_beside_each_other(decoder, tmp_path):
    vector = torch.full((decoder.cfg.d_model,), 4.0)
    vector[::3] = -9.0
    few = {"max_new_tokens": 4, "logprobs": True}
    plain = lp.generate(decoder, TEXTS, **few)
    steered = lp.generate(decoder, TEXTS, edits=lp.Add(vector, layers=1), **few)
    found = lp.side_by_side({"plain": plain, "steered": steered.save(tmp_path / "s.zip")})
    assert found.conditions == ("plain", "steered")
    for name, result in (("plain", plain), ("steered", steered)):
        own = found.tokens[found.tokens["condition"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own[result.tokens.columns], result.tokens)
    for text in (0, 1):
        ids = [list(r.tokens.loc[r.tokens["text"] == text, "id"]) for r in (plain, steered)]
        first = next((k for k, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), None)
        row = found.texts[(found.texts["text"] == text) & (found.texts["condition"] == "steered")]
        assert first is not None and row["step"].iloc[0] == first
    again = lp.open(found.save(tmp_path / "a.zip"))
    assert again.summary() == found.summary()
    assert unknown(found) == set()
    assert "Add(" in str(found.provenance["compared"]["steered"]["edits"])


def test_bad_input(tiny_gpt2, tmp_path):
    one = generation([1, 2])
    score = lp.score(tiny_gpt2, TEXTS)
    for results, words in (
        ({"a": one}, "at least two"),
        ([one, one], "a label for each"),
        ({"a": one, " ": one}, "is no name"),
        ({"a": one, "b": 3}, "'b' is a int"),
        ({"a": one, "b": score}, "'b' is a Score, not a result of lp.generate"),
        ({"a": score, "b": score}, "'a' is a Score"),
        ({"a": one, "b": generation([1], [2])}, "'b' has 2 prompts, 'a' 1"),
        ({"a": one, "b": generation([1], prompt="q")}, "prompt 0 of 'b' is 'q'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            lp.side_by_side(results)
    with pytest.raises(OutputError, match="no such file"):
        lp.side_by_side({"a": one, "b": tmp_path / "gone.zip"})
    with pytest.raises(ArgumentError, match="logprobs=True"):
        one.plot.tokens()
    with pytest.raises(ArgumentError, match="text=7"):
        score.plot(text=7)


# ---- what is shown -------------------------------------------------------------------------------


def test_a_token_tells_its_numbers(tiny_gpt2):
    found = lp.score(tiny_gpt2, TEXTS[0])
    tips = [t["data-tip"] for t in Elements(token_view(found)).all("span") if "data-tip" in t]
    assert len(tips) == len(found.tokens)
    row = found.tokens.iloc[3]
    assert f"loss {row['loss']:.3f} nats" in tips[3] and f"rank {int(row['rank']):,}" in tips[3]
    assert "not predicted" in tips[0]
    assert 'class="lp-tokens"' in found._repr_html_()
    figure = found.plot()
    assert np.asarray(figure.data[0].z, float).ravel()[3] == pytest.approx(row["loss"])


def test_colours_grow_with_surprise_and_stop(tiny_gpt2):
    found = generation([1, 2, 3, 4], logprob=[-0.0, -2.5, -10.0, -99.0], rank=[1, 2, 3, 4])
    shades = [
        float(s) for s in re.findall(r"rgba\(46,134,200,([\d.]+)\)\" data", token_view(found))
    ]
    # The first has no colour at all.
    assert shades == [0.175, 0.7, 0.7]


def test_the_first_difference_is_marked_once():
    found = lp.side_by_side({"a": generation([1, 2, 3]), "b": generation([1, 9, 8])})
    view = token_view(found)
    assert view.count('class="lp-parts"') == 1
    assert "token 1, position 2 — the first difference" in view
    assert "b, text 0" in view and "parts at token 1" in view


def test_many_texts_are_cut_with_a_note():
    found = generation(*[[1] * 30] * 5)
    view = token_view(found, most=70)
    assert view.count("data-tip") == 60
    assert "The first 2 of 5 texts" in view
    assert token_view(found, most=1).count("data-tip") == 30


def test_a_score_from_before_there_were_ranks_still_shows(tiny_gpt2):
    found = lp.score(tiny_gpt2, TEXTS)
    old = replace(found, tokens=found.tokens.drop(columns="rank"))
    assert isinstance(old, Score) and "rank" not in token_view(old)
    assert old.plot() and old._repr_html_()


@pytest.mark.parametrize("theme", ["light", "dark", "paper"])
def test_figures_of_what_was_written(theme):
    plain = generation([1, 2, 3], logprob=[-1.0, -2.0, -3.0])
    other = generation([1, 9], logprob=[-1.0, -4.0])
    found = lp.side_by_side({"plain": plain, "<b>": other})
    table = found.plot(theme=theme)
    assert list(table.data[0].cells["values"][-1]) == ["–", "1"]
    grid = found.plot.tokens(theme=theme)
    assert list(grid.data[0].z[1][:2]) == [1.0, 4.0]
    assert grid.layout.shapes[0].x0 == 0.5
    assert "&lt;b&gt; parts" in grid.layout.annotations[0].text
    assert list(plain.plot.tokens(theme=theme).data[0].z[0]) == [1.0, 2.0, 3.0]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")
def test_in_a_browser_tokens_tell_on_hover_and_stay_text(tmp_path):
    play = pytest.importorskip("playwright.sync_api")
    names = [*HOSTILE, "</p><script>alert(1)</script>", '" onmouseover="alert(1)']
    ids = list(range(len(names)))
    logprob = [-float(i) for i in ids]
    both = {"plain": ids, "steered": [*ids[:4], *ids[:3:-1]]}
    found = lp.side_by_side(
        {n: generation(own, names=names, prompt="<b>", logprob=logprob) for n, own in both.items()}
    )
    path = found.to_html(tmp_path / "a.html")
    assert "plotly.js v" not in path.read_text()
    with play.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        seen = Opened(browser.new_context(color_scheme="dark", offline=True).new_page())
        page = seen.page
        page.on("console", lambda m: seen.complaints.append(m.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("dialog", lambda dialog: seen.complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda r: seen.requests.append(r.url))
        page.goto(path.as_uri())
        page.locator(".lp-parts").hover()
        told = page.evaluate(
            "getComputedStyle(document.querySelector('.lp-parts'), '::after').content"
        )
        assert "the first difference" in told and "log-probability -4.000" in told
        texts = page.locator(".lp-body span").all_text_contents()
        assert "<img·src=x·onerror=alert(1)>" in texts
        assert (
            page.evaluate("document.querySelectorAll('.lp-tokens :is(img, script, b)').length") == 0
        )
        # Two columns, side by side.
        boxes = [one.bounding_box() for one in page.locator(".lp-one").all()]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith(LOCAL)] == []
        browser.close()
