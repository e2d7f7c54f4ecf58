"""The page in a real browser, offline: it draws, it asks no host for anything, and text stays text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, FLAGS, LOCAL, Opened, until
from synthetic import massive_scan, sink_scan

from lensprobe.reporting.report import joined

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages")
    report = joined(massive_scan(length=1024), sink_scan(), "a text")
    assert report is not None
    report.to_html(path / "inline.html")
    report.to_html(path / "beside.html", js="directory")
    return path


@pytest.fixture
def opened(browser, folder):
    contexts = []

    def visit(name: str = "inline.html", scheme: str = "light", width: int = 1280) -> Opened:
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True
        )
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("console", lambda m: found.complaints.append(f"{m.type}: {m.text}"))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: found.complaints.append(f"dialog {dialog.message}"))
        found.page.on("request", lambda r: found.requests.append(r.url))
        found.page.goto((folder / name).as_uri())
        until(
            found.page,
            "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))",
        )
        return found

    yield visit
    for context in contexts:
        context.close()


def background(page: Any) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["inline.html", "beside.html"])
def test_every_figure_draws_and_nothing_is_asked_for(opened, name, scheme):
    found = opened(name, scheme)
    drawn = found.page.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => [p.dataset.figure,"
        " p.querySelectorAll('.scatterlayer path, .heatmaplayer image').length])"
    )
    assert len(drawn) == 8
    assert all(count for _, count in drawn), drawn
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(LOCAL)] == []


def test_colours_follow_the_system_and_the_switch(opened):
    light, dark = opened(scheme="light").page, opened(scheme="dark").page
    first, other = background(light), background(dark)
    assert first != other
    paper = "document.querySelector('.plot')._fullLayout.paper_bgcolor"
    before = light.evaluate(paper)
    light.click("#theme")
    until(light, f"{paper} !== '{before}'")
    assert background(light) == other
    assert light.evaluate(paper) == dark.evaluate(paper)
    light.click("#theme")
    until(light, f"{paper} === '{before}'")
    assert background(light) == first


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hover_shows_token_and_value(opened, scheme):
    page = opened(scheme=scheme).page
    figure = page.locator("#massive-scan-landscape .plot")
    figure.scroll_into_view_if_needed()
    spot = page.evaluate(
        """() => {
          const plot = document.querySelector('#massive-scan-landscape .plot');
          const area = plot.querySelector('.nsewdrag').getBoundingClientRect();
          const column = plot.layout.xaxis.ticktext.indexOf('447');
          return [area.left + area.width * (column + .5) / 24, area.top + area.height * 1.5 / 32];
        }"""
    )
    page.mouse.move(spot[0], spot[1] - 3)
    page.mouse.move(*spot)
    label = page.locator("#massive-scan-landscape .hoverlayer")
    label.locator("text").first.wait_for()
    text = label.text_content()
    assert "a = " in text
    assert "<img·src=x·onerror=aler" in text  # the second token, as text
    assert "at position 1" in text
    assert "dimension 447" in text


def test_hostile_tokens_stay_text(opened):
    found = opened()
    page = found.page
    assert page.evaluate("document.images.length") == 0
    ticks = page.locator("#massive-scan-landscape .ytick").all_text_contents()
    assert any("<s>" in tick for tick in ticks)
    assert any("<img·src=x" in tick for tick in ticks)
    assert any("%{x}" in tick for tick in ticks)
    assert any("&lt;" in tick for tick in ticks)
    page.wait_for_timeout(200)
    assert found.complaints == []


@pytest.mark.parametrize("width", [1280, 420])
def test_cells_line_up_with_their_axes_and_nothing_overflows(opened, width):
    page = opened(width=width).page
    page.click("#theme")
    page.wait_for_timeout(300)
    offsets = page.evaluate(
        """() => [...document.querySelectorAll('.plot')]
          .filter(p => p.querySelector('.heatmaplayer image'))
          .map(p => {
            const image = p.querySelector('.heatmaplayer image').getBoundingClientRect();
            const area = p.querySelector('.nsewdrag').getBoundingClientRect();
            return [image.top - area.top, image.bottom - area.bottom, image.left - area.left];
          })"""
    )
    assert len(offsets) == 4
    assert all(abs(value) < 1.5 for row in offsets for value in row), offsets
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tables_sort_and_copy(opened):
    page = opened().page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    table = page.locator("#massive-scan-table-findings")
    cells = table.locator("tbody tr td:nth-child(8)")
    assert cells.all_text_contents() == ["3,012", "796", "\u2212131"]
    button = table.get_by_role("button", name="value")
    button.click()
    assert cells.all_text_contents() == ["\u2212131", "796", "3,012"]
    assert table.locator("th[aria-sort=ascending]").count() == 1
    button.press("Enter")
    assert cells.all_text_contents() == ["3,012", "796", "\u2212131"]
    table.get_by_role("button", name="Copy as CSV").click()
    until(page, "document.getElementById('status').textContent === 'Copied'")
    lines = page.evaluate("navigator.clipboard.readText()").strip().splitlines()
    assert lines[0].startswith("dim,position,token")
    assert ",3012.4," in lines[1]


def test_a_link_into_a_closed_table_opens_it(opened):
    page = opened().page
    assert not page.evaluate("document.getElementById('sinks-scan-table-profile').open")
    page.evaluate("location.hash = '#sinks-scan-table-profile'")
    until(page, "document.getElementById('sinks-scan-table-profile').open")


def test_print_is_light(opened):
    page = opened(scheme="dark").page
    page.emulate_media(media="print")
    assert background(page) == "rgb(255, 255, 255)"
