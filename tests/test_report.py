"""The page as text: its structure, what is escaped, what it may load, and when it appears."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import massive_scan, sink_scan

import lensprobe as lp
from lensprobe.errors import ArgumentError, Interrupted, OutputError
from lensprobe.reporting import Report
from lensprobe.reporting.page import PLOTLY_FILE
from lensprobe.reporting.parts import ROWS, as_json, table_part
from lensprobe.reporting.report import joined
from lensprobe.texts import default_texts

SHORT = [text[:200] for text in default_texts()[:3]]


class Elements(HTMLParser):
    """The elements of a page and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def report() -> Report:
    found = joined(massive_scan(length=1024), sink_scan(), "a text")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> str:
    path = report.to_html(tmp_path_factory.mktemp("page") / "report.html")
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def elements(page) -> Elements:
    return Elements(page)


def test_the_page_has_every_section_figure_and_table(elements):
    figures = [f["id"] for f in elements.all("figure")]
    assert figures == [
        *(f"massive-scan-{name}" for name in ("trajectories", "landscape", "values", "kinds")),
        *(f"sinks-scan-{name}" for name in ("heads", "keys", "entropy", "values")),
    ]
    tables = [d["id"] for d in elements.all("details")]
    assert "massive-scan-table-findings" in tables
    assert "sinks-scan-table-heads" in tables
    assert "massive-scan-table-nonfinite" not in tables
    assert {"about", "reading", "citations"} <= {s.get("id") for s in elements.all("section")}


def test_every_link_has_its_target(elements):
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in elements.all("a")]
    assert {link[1:] for link in links if link and link.startswith("#")} <= set(ids)


def test_every_figure_says_what_it_shows_and_what_it_shows_here(elements):
    text = " ".join(elements.words)
    assert text.count("Here ") >= 8
    assert "3,012" in text
    assert "raw weights, nothing folded or centred" in text
    assert "1,024 tokens (massive activations), 64 tokens (attention sinks)" in text
    assert "2 texts longer than 64 tokens were split" in text


def test_hostile_tokens_are_text(elements, page):
    assert not elements.all("img")
    assert not [a for _, a in elements.found if any(key.startswith("on") for key in a)]
    assert "<img·src=x·onerror=alert(1)>" in " ".join(elements.words)
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    assert len(data) == 8
    for text in data:
        assert "<" not in text
        assert json.loads(text)["figure"]["data"]


def test_hostile_provenance_is_text(tmp_path):
    nasty = "</script><script>alert(1)</script>"
    path = massive_scan(model=nasty, notes=[nasty]).to_html(tmp_path / "page.html")
    scripts = Elements(path.read_text()).all("script")
    assert len([s for s in scripts if s.get("type") != "application/json"]) == 2


def test_the_page_loads_nothing(elements, page):
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert not value.startswith(("http:", "https:", "//")), (name, value)
    policy = next(m["content"] for m in elements.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "@import" not in own
    assert "url(" not in own


def test_plotly_is_embedded_once(page):
    assert page.count("plotly.js v") == 1


def test_javascript_beside_the_page_or_from_a_host(report, tmp_path):
    path = report.to_html(tmp_path / "page.html", js="directory")
    assert path.stat().st_size < 2_000_000
    assert (tmp_path / PLOTLY_FILE).stat().st_size > 2_000_000
    source = [s["src"] for s in Elements(path.read_text()).all("script") if "src" in s]
    assert source == [PLOTLY_FILE]
    path = report.to_html(tmp_path / "cdn.html", js="cdn")
    script = next(s for s in Elements(path.read_text()).all("script") if "src" in s)
    assert script["src"] == f"https://cdn.plot.ly/{PLOTLY_FILE}"
    assert script["integrity"]


def test_options_are_checked_before_anything_is_written(report, tmp_path):
    with pytest.raises(ArgumentError, match="Did you mean 'inline'"):
        report.to_html(tmp_path / "a.html", js="inlin")
    with pytest.raises(ArgumentError, match="auto, light, dark"):
        report.to_html(tmp_path / "a.html", theme="sepia")
    assert not list(tmp_path.iterdir())


def test_theme_is_fixed_or_follows_the_reader(report, tmp_path):
    for theme, expected in (("auto", None), ("dark", "dark")):
        path = report.to_html(tmp_path / f"{theme}.html", theme=theme)
        assert Elements(path.read_text()).all("html")[0].get("data-theme") == expected


def test_a_page_appears_whole_or_not_at_all(report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    monkeypatch.setattr("lensprobe.reporting.page.render", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.to_html(path)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(report, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="overwrite=True"):
        report.to_html(path)
    assert path.read_text() == "mine"
    report.to_html(path, overwrite=True)
    assert path.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("where", ["missing/report.html", "."])
def test_a_path_that_cannot_be_written(report, tmp_path, where):
    with pytest.raises(OutputError, match="path="):
        report.to_html(tmp_path / where)
    assert not list(tmp_path.iterdir())


def test_a_single_result_makes_a_page_of_the_same_parts(tmp_path):
    elements = Elements(sink_scan().to_html(tmp_path / "sinks.html").read_text())
    assert len(elements.all("figure")) == 4
    assert "Attention sinks" in "".join(elements.words)


def test_pages_of_odd_results(tmp_path):
    empty = massive_scan(empty=True, nonfinite=7, complete=False).to_html(tmp_path / "a.html")
    text = " ".join(Elements(empty.read_text()).words)
    assert "7 activations are not finite (layers 0)" in text
    assert "incomplete" in text
    assert "none" in text
    alone = joined(massive_scan(), None, "")
    assert alone is not None
    assert alone.provenance["complete"] is False
    assert len(Elements(alone.to_html(tmp_path / "b.html").read_text()).all("figure")) == 4


def test_a_result_without_figures_still_makes_a_page(planted, tmp_path):
    path = lp.forward(planted, "abc").to_html(tmp_path / "forward.html")
    elements = Elements(path.read_text())
    assert not elements.all("figure")
    assert elements.all("table")


def test_long_tables_are_cut_with_a_note(tmp_path):
    part = table_part("t", "T", pd.DataFrame({"layer": np.arange(ROWS + 5)}))
    assert (len(part.rows), part.total) == (ROWS, ROWS + 5)


def test_tables_keep_every_digit():
    frame = pd.DataFrame({"layer": [1], "value": [-1234.56789], "token": ["·a"], "x": [np.nan]})
    row = table_part("t", "T", frame).rows[0]
    assert row == (("1", "1"), ("\u22121,235", "-1234.56789"), ("·a", "·a"), ("nan", "nan"))


def test_json_cannot_leave_its_script():
    text = as_json({"a": "</script><!--\u2028&"})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text) == {"a": "</script><!--\u2028&"}


def test_a_report_is_a_result(report, tmp_path):
    assert report.tables[0] == "massive.findings"
    assert len(report.to_frame()) == 3
    assert len(report.to_frame("sinks.profile")) == 144
    with pytest.raises(ArgumentError, match=r"sinks\.profile"):
        report.to_frame("sinks.profil")
    assert report.summary()["massive_dim"] == 447
    assert "sinks_sink_rate" in report.summary()
    assert report.cite().count("2402.17762") == 1
    assert report.plot().layout.title.text
    assert report.plot.sinks.heads(theme="dark").data
    assert report.provenance["massive"]["length"] == 1024
    assert report.provenance["model"] == "gpt2-made-up"


def test_a_report_is_saved_and_opened_whole(report, tmp_path):
    path = report.save(tmp_path / "gpt2.report")
    again = lp.open(path)
    assert isinstance(again, Report)
    pd.testing.assert_frame_equal(again.sinks.heads, report.sinks.heads)
    np.testing.assert_array_equal(again.massive.landscape, report.massive.landscape)
    assert again.provenance == report.provenance
    assert again.summary() == report.summary()


def test_default_texts_are_ordinary_documents():
    texts = default_texts()
    assert len(texts) == 13
    assert 12_000 < sum(map(len, texts)) < 25_000
    assert all(len(text) > 400 for text in texts)


def test_the_report_of_the_calibration_model(planted, tmp_path):
    found = lp.report(planted, SHORT, progress=False)
    assert isinstance(found, Report)
    top = found.to_frame().iloc[0]
    assert (top["dim"], top["position"]) == (447, 0)
    path = found.to_html(tmp_path / "planted.html")
    assert "Dimension 447 at position 0" in path.read_text()


def test_a_report_reads_a_generator_for_both_scans(planted):
    found = lp.report(planted, (text for text in SHORT), limit=2, progress=False)
    assert found.massive.provenance["documents"] == 2
    assert found.sinks.provenance["documents"] == 2


def test_a_plan_of_both_scans(planted):
    plan = lp.report(planted, SHORT[:2], dry_run=True)
    assert plan.seconds > 0
    assert plan.summary()["documents"] == 2


def test_further_results_are_sections_of_the_same_page(planted, tmp_path):
    sweep = lp.interpolation.sweep(planted, SHORT[:2], layers=[1], weights=[0.5])
    data = lp.mnist.load_digits_data()
    model = lp.mnist.HookedMLP((64, 12, 10), seed=0)
    study = lp.mnist.study(model, data, pairs=[(3, 1)], n=0, progress=False)
    found = lp.report(planted, SHORT[:2], more={"Late layers": sweep, "Digits": study})
    page = Path(found.to_html(tmp_path / "all.html")).read_text()
    for heading in ("massive activations", "attention sinks"):
        assert f"planted: {heading}" in page
    assert 'id="late-layers"' in page
    assert 'id="digits"' in page
    saved = sweep.save(tmp_path / "sweep.zip")
    assert next(iter(lp.report(planted, SHORT[:2], more=saved).results)) == "planted"
    with pytest.raises(ArgumentError, match="no result of an analysis"):
        lp.report(planted, SHORT[:2], more=[3])


def test_an_interrupt_keeps_what_was_finished(planted, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise Interrupted("stopped", None)

    monkeypatch.setattr("lensprobe.sinks.scan", stop)
    with pytest.raises(Interrupted) as caught:
        lp.report(planted, SHORT[:2], progress=False)
    partial = caught.value.partial
    assert isinstance(partial, Report)
    assert partial.sinks is None
    page = Path(partial.to_html(tmp_path / "partial.html")).read_text()
    assert "This report is incomplete" in page
