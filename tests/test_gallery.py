"""Many results on one page, and reports of several models: names, links, data, and what is refused."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from browsing import CHROMIUM, FLAGS, LOCAL, Opened, until
from synthetic import massive_scan, sink_scan
from test_report import Elements

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, ModelError, OutputError
from lensprobe.plot import KINDS
from lensprobe.reporting import Gallery, Report
from lensprobe.reporting.report import joined
from lensprobe.reporting.words import LEADS, TITLES
from lensprobe.steering import SteeringVector


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    base, tuned = massive_scan(model="base"), massive_scan(model="tuned", bos=False)
    with pytest.warns(UserWarning, match="BOS differs"):
        both = lp.compare({"base": base, "tuned": tuned})
    report = joined(massive_scan(model="<b>third"), sink_scan(model="<b>third"), "a text")
    return lp.gallery({"base": base, "tuned": tuned, "Both of them": both, "third": report})


@pytest.fixture(scope="module")
def page(gallery, tmp_path_factory) -> str:
    path = gallery.to_html(tmp_path_factory.mktemp("gallery") / "all.html")
    return path.read_text("utf-8")


def test_every_result_has_its_section_and_every_link_its_target(page):
    elements = Elements(page)
    sections = [s["id"] for s in elements.all("section") if "id" in s]
    assert sections[:5] == [
        "base", "tuned", "both-of-them", "third-massive-activations", "third-attention-sinks",
    ]  # fmt: skip
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for a in elements.all("a") if (a["href"] or "").startswith("#")}
    assert links <= set(ids)
    assert {"base-trajectories", "both-of-them-values", "third-attention-sinks-heads"} <= links


def test_there_is_one_copy_of_plotly_and_nothing_is_loaded(page):
    assert page.count("plotly.js v") == 1
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"(src|href)=\"(https?:)?//", own)


def test_what_differs_is_said_in_the_section(page):
    text = " ".join(Elements(page).words)
    assert "BOS differs: true (base), false (tuned)" in text
    assert "<b>third" in text
    assert "<b>third" not in page.split("<body>")[1].split("<script")[0]


def test_every_figure_has_its_data(page):
    elements = Elements(page)
    ids = {a["id"] for _, a in elements.found if "id" in a}
    buttons = [b for b in elements.all("button") if "data-file" in b]
    assert len(buttons) >= len(elements.all("figure"))
    for button in buttons:
        assert (button.get("data-table") or button.get("data-drawn")) in ids
        assert (button["aria-label"] or "").startswith("Download ")
    tables = {b["data-table"] for b in buttons if "data-table" in b}
    assert {"base-table-layers", "third-attention-sinks-table-heads"} <= tables


def test_names_without_names(tmp_path):
    scan = massive_scan(layers=2, tokens=["<s>", " a"])
    vector = SteeringVector([1.0, 2.0, 3.0], 1)
    found = lp.gallery([scan, scan.save(tmp_path / "a.zip"), vector, sink_scan(2, 2)])
    assert list(found.results)[:2] == [
        "Massive activations: gpt2-made-up", "Massive activations: gpt2-made-up 2",
    ]  # fmt: skip
    page = Elements(found.to_html(tmp_path / "a.html").read_text())
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert found.summary()["results"] == 4
    assert found.cite().count("2402.17762") == 1
    assert "results=4" in repr(found)


def test_names_that_the_page_uses_itself(tmp_path):
    path = lp.gallery({"About": sink_scan(2, 2), "λ": sink_scan(2, 2)}).to_html(tmp_path / "a.html")
    sections = [s["id"] for s in Elements(path.read_text()).all("section") if "id" in s]
    assert sections[:3] == ["about-2", "result", "about"]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "at least one"),
        ({}, "at least one"),
        ([3], "int is no result"),
        ({" ": 1}, "int is no"),
    ],
)
def test_what_is_no_gallery(results, words):
    with pytest.raises(ArgumentError, match=words):
        lp.gallery(results)


def test_bad_input(gallery, tmp_path):
    with pytest.raises(ArgumentError, match="no name"):
        lp.gallery({"": massive_scan()})
    with pytest.raises(ArgumentError, match="title"):
        lp.gallery([massive_scan()], title=3)
    with pytest.raises(ArgumentError, match="no result"):
        lp.gallery([gallery])
    with pytest.raises(OutputError, match="no such file"):
        lp.gallery([tmp_path / "gone.zip"])
    with pytest.raises(ArgumentError, match="auto, light, dark"):
        gallery.to_html(tmp_path / "a.html", theme="sepia")
    (tmp_path / "b.html").write_text("mine")
    with pytest.raises(OutputError, match="overwrite=True"):
        gallery.to_html(tmp_path / "b.html")
    assert (tmp_path / "b.html").read_text() == "mine"
    assert not (tmp_path / "a.html").exists()


def test_every_kind_that_is_drawn_has_its_words():
    lacking = {kind for kind in KINDS if kind not in TITLES or kind not in LEADS}
    assert not lacking, f"reporting/words.py lacks a TITLE or a LEAD of {sorted(lacking)}"


SHORT = ["Hello world, this is the cat", "one two three four five"]


def test_a_report_of_several_models(tiny_gpt2, gpt2_folder, tmp_path):
    kept = lp.report(tiny_gpt2, SHORT, length=8, progress=False).save(tmp_path / "kept.report")
    models = {"kept": kept, "again": gpt2_folder, "gone": tmp_path / "gone", "mine": tiny_gpt2}
    found = lp.report(models, SHORT, length=8, progress=False)
    assert isinstance(found, Gallery)
    names = ["Massive activations, side by side", "Attention sinks, side by side"]
    assert list(found.results) == [*names, "kept", "again", "mine"]
    assert isinstance(found.results["kept"], Report)
    both = found.results[names[0]]
    assert both.models.set_index("model").loc["gone", "error"].startswith("ModelError")
    text = found.to_html(tmp_path / "all.html").read_text()
    assert "gone: ModelError" in " ".join(Elements(text).words)


def test_reports_in_a_list_go_by_their_models():
    one = joined(massive_scan(), sink_scan(), "")
    found = lp.report([one, one])
    assert list(found.results)[2:] == ["gpt2-made-up", "gpt2-made-up 2"]


def test_reports_of_several_models_that_cannot_be(tiny_gpt2, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="a: ModelError"):
        lp.report({"a": tmp_path / "gone"}, SHORT)
    with pytest.raises(ArgumentError, match="at least one"):
        lp.report([], SHORT)
    with pytest.raises(ArgumentError, match="dry_run"):
        lp.report([tiny_gpt2], SHORT, dry_run=True)
    with pytest.raises(ArgumentError, match="is a MassiveScan, not a report"):
        lp.report({"a": massive_scan().save(tmp_path / "a.zip")}, SHORT)

    def stop(*_, **__):
        raise Interrupted("stopped", None)

    monkeypatch.setattr("lensprobe.sinks.scan", stop)
    one = joined(massive_scan(), sink_scan(), "")
    with pytest.raises(Interrupted, match="after 1 of 2") as caught:
        lp.report({"a": one, "b": tiny_gpt2}, SHORT, progress=False)
    assert list(caught.value.partial.results) == ["a"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")
def test_in_a_browser_links_lead_to_drawn_figures_and_data_is_downloaded(gallery, tmp_path):
    play = pytest.importorskip("playwright.sync_api")
    path = gallery.to_html(tmp_path / "all.html")
    with play.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = Opened(browser.new_context(offline=True, accept_downloads=True).new_page())
        page = found.page
        page.on("console", lambda m: found.complaints.append(m.text))
        page.on("request", lambda r: found.requests.append(r.url))
        page.goto(f"{path.as_uri()}#third-attention-sinks-heads")
        until(page, "!!document.querySelector('#third-attention-sinks-heads .main-svg')")
        # Scrolling there is smooth, so it takes a moment.
        place = "document.getElementById('third-attention-sinks-heads').getBoundingClientRect().top"
        until(page, f"Math.abs({place}) < 200")
        rows = downloaded(page, "#third-attention-sinks-heads .data >> nth=0")
        assert rows[0] == ["layer", "head", "key", "value", "sink_rate", "count"]
        assert len(rows) == 1 + 12 * 12 * 4
        drawn = downloaded(page, "#base-landscape button[data-drawn]")
        assert drawn[0] == ["series", "x", "y", "value", "details"]
        assert drawn[1][1:3] == ["138", "<s>  0"]
        assert len(drawn) == 1 + 32 * 24
        assert found.complaints == []
        assert [url for url in found.requests if not url.startswith(LOCAL)] == []
        browser.close()


def downloaded(page, selector) -> list[list[str]]:
    with page.expect_download() as waiting:
        page.click(selector)
    text = waiting.value.path().read_text(encoding="utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


def test_every_table_is_written_as_parquet_and_read_back_the_same(tiny_gpt2, tmp_path):
    ones = SteeringVector(np.ones(tiny_gpt2.cfg.d_model), 0)
    results = [
        lp.forward(tiny_gpt2, SHORT),
        lp.generate(tiny_gpt2, SHORT, max_new_tokens=2, logprobs=True),
        lp.interpolation.generate(tiny_gpt2, SHORT, layer=1, weight=0.5, max_new_tokens=2),
        lp.massive.anatomy(tiny_gpt2, SHORT, dim=1),
        lp.massive.tokens(tiny_gpt2, SHORT, dim=1, n=3, progress=False),
        lp.sinks.evict(tiny_gpt2, SHORT, keep=[0, 1], window=3),
        lp.steering.sweep(tiny_gpt2, SHORT, vector=ones, layers=0),
        lp.report(tiny_gpt2, SHORT, progress=False),
        lp.over({"a": tiny_gpt2, "gone": tmp_path / "gone"}, lp.score, SHORT),
    ]
    for result in results:
        for name in result.tables:
            frame = result.to_frame(name)
            frame.to_parquet(tmp_path / "a.parquet")
            pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), frame)
