"""The grid of heads in a real browser, offline: heads open by mouse and keyboard, text stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from attending import attention
from browsing import CHROMIUM, FLAGS, LOCAL, Opened, until
from synthetic import HOSTILE, massive_scan
from test_report import Elements

import lensprobe as lp
from lensprobe.reporting import attention_view

SCRIPT = "</script><script>alert(1)</script>"
TOKENS = [*HOSTILE, SCRIPT, "\u2028", "<!--"]


@pytest.fixture(scope="module")
def found():
    return attention(TOKENS, layers=3, heads=4)


# ---- as text -------------------------------------------------------------------------------------


def test_the_page_has_a_button_a_head_and_no_plotly(found, tmp_path):
    page = found.to_html(tmp_path / "a.html").read_text()
    buttons = [b for b in Elements(page).all("button") if "data-head" in b]
    assert len(buttons) == 12
    assert [(b["data-layer"], b["data-head"]) for b in buttons[3:5]] == [("0", "3"), ("2", "0")]
    row = found.heads.iloc[4]
    assert f"Layer 2, head 0: {row['value']:.2f} on the first token" in (
        buttons[4]["aria-label"] or ""
    )
    assert "plotly.js v" not in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)


def test_large_patterns_travel_in_little_room(tmp_path):
    size = 200
    big = attention([f" t{i}" for i in range(size)], layers=6, heads=8)
    path = big.to_html(tmp_path / "a.html")
    # The triangle alone, in base 64; weights as random as these hardly shrink.
    assert path.stat().st_size < 48 * size * (size + 1) / 2 * 4 / 3 + 400_000


def test_a_notebook_shows_what_is_too_large_as_pictures_alone(found, monkeypatch):
    assert 'class="lp-data"' in found._repr_html_()
    monkeypatch.setattr(attention_view, "LARGE", 10)
    shown = found._repr_html_()
    assert "data:image/png" in shown and 'class="lp-data"' not in shown
    assert "to_html(path)" in shown
    assert "http" not in shown


# ---- in a browser --------------------------------------------------------------------------------

browses = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    play = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    with play.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, tmp_path):
    contexts = []

    def show(html: str, scheme: str = "light", before: str = "") -> Opened:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": 1000, "height": 900}, offline=True
        )
        contexts.append(context)
        if before:
            context.add_init_script(before)
        seen = Opened(context.new_page())
        seen.page.on("console", lambda m: seen.complaints.append(f"{m.type}: {m.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.on("dialog", lambda dialog: seen.complaints.append(f"dialog {dialog.message}"))
        seen.page.on("request", lambda r: seen.requests.append(r.url))
        seen.page.goto(path.as_uri())
        return seen

    yield show
    for context in contexts:
        context.close()


def page_of(found, tmp_path) -> str:
    return found.to_html(tmp_path / "written.html", overwrite=True).read_text()


def in_a_notebook(found) -> str:
    """What a notebook does with an output: into a page of its own colours, scripts last."""
    head = "<!doctype html><meta charset=utf-8><body style='color:#ddd;background:#111'>"
    return head + found._repr_html_()


def shown(page) -> str | None:
    return page.evaluate("document.querySelector('.lp-attention').dataset.shown ?? null")


def opens(page, layer: int, head: int) -> None:
    until(page, f"document.querySelector('.lp-attention').dataset.shown === '{layer}.{head}'")


def point(page, query: int, key: int) -> None:
    """Point at a cell; playwright waits until the page has stopped scrolling."""
    canvas = page.locator(".lp-plane canvas")
    cell = canvas.bounding_box()["width"] / len(TOKENS)
    canvas.hover(position={"x": (key + 0.5) * cell, "y": (query + 0.5) * cell})


def quiet(seen: Opened) -> None:
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith(LOCAL)] == []


@browses
@pytest.mark.browser
def test_a_head_opens_by_mouse_with_every_weight_as_it_was(found, visit, tmp_path):
    seen = visit(page_of(found, tmp_path), "dark")
    page = seen.page
    assert shown(page) is None
    page.click(".lp-strip button[data-layer='2'][data-head='1']")
    opens(page, 2, 1)
    # The opacity of the drawn cells is that of the bytes, the square root of the weight.
    drawn = page.evaluate(
        "(() => { const c = document.querySelector('.lp-plane canvas');"
        " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        ".filter((_, i) => i % 4 === 3); })()"
    )
    bytes_ = found.patterns[1, 1].ravel()
    assert [round((255 * b) ** 0.5) for b in map(int, bytes_)] == drawn
    point(page, 7, 2)
    weight = found.patterns[1, 1, 7, 2] / 255
    words = page.text_content(".lp-readout")
    assert words == f"Query 7 “&lt;” gives {weight:.3f} to key 2 “↵”."
    point(page, 3, 9)
    assert "comes before" in page.text_content(".lp-readout")
    quiet(seen)


@browses
@pytest.mark.browser
def test_everything_can_be_done_with_the_keyboard(found, visit, tmp_path):
    seen = visit(page_of(found, tmp_path))
    page = seen.page
    page.focus(".lp-strip button[data-layer='0'][data-head='0']")
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    opens(page, 2, 1)
    until(page, "document.activeElement.className === 'lp-scroll'")
    assert page.text_content(".lp-readout").startswith(f"Query {len(TOKENS) - 1} ")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    query, weight = len(TOKENS) - 2, found.patterns[1, 1, len(TOKENS) - 2, 1] / 255
    assert page.text_content(".lp-readout").startswith(f"Query {query} ")
    assert f"gives {weight:.3f} to key 1" in page.text_content(".lp-readout")
    assert page.locator(".lp-text [aria-current]").count() == 1
    page.keyboard.press("Escape")
    assert shown(page) is None
    assert page.evaluate("document.activeElement.dataset.head") == "1"
    # One stop of the tab key for all heads together.
    assert page.locator(".lp-strip button[tabindex='0']").count() == 1
    quiet(seen)


@browses
@pytest.mark.browser
def test_tokens_stay_text(found, visit, tmp_path):
    seen = visit(page_of(found, tmp_path))
    page = seen.page
    page.click(".lp-strip button[data-layer='0'][data-head='3']")
    opens(page, 0, 3)
    names = page.locator(".lp-down > span").all_text_contents()
    assert "<s>" in names and "<img·src=x·onerror=alert(1)>" in names
    assert "</script><script>alert(1)</script>" in names
    assert (
        page.evaluate(
            "document.querySelectorAll('.lp-text img, .lp-plane img, .lp-text script').length"
        )
        == 0
    )
    quiet(seen)


@browses
@pytest.mark.browser
def test_the_sink_can_be_left_out_and_heads_are_walked_through(found, visit, tmp_path):
    page = visit(page_of(found, tmp_path)).page
    page.click(".lp-strip button[data-layer='0'][data-head='3']")
    opens(page, 0, 3)
    page.click("[data-step='1']")
    opens(page, 2, 0)
    page.check(".lp-without")
    first = page.evaluate(
        "(() => { const c = document.querySelector('.lp-plane canvas');"
        " const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, n = c.width;"
        " const a = (q, k) => d[4 * (q * n + k) + 3]; let top = 0, sink = 0;"
        " for (let q = 0; q < n; q++) { sink += a(q, 0);"
        " for (let k = 1; k < n; k++) top = Math.max(top, a(q, k)); }"
        " return [sink, top]; })()"
    )
    assert first == [0, 255]
    before = page.locator(".lp-plane canvas").bounding_box()["width"]
    page.click("[data-size='1.5']")
    assert page.locator(".lp-plane canvas").bounding_box()["width"] == pytest.approx(
        1.5 * before, rel=0.01
    )


@browses
@pytest.mark.browser
@pytest.mark.parametrize("causal", [True, False])
def test_a_notebooks_output_opens_heads_too(visit, causal):
    found = attention(TOKENS, causal=causal)
    seen = visit(in_a_notebook(found))
    page = seen.page
    page.click(".lp-strip button[data-layer='0'][data-head='2']")
    opens(page, 0, 2)
    point(page, 0, 1)
    told = page.text_content(".lp-readout")
    weight = found.patterns[0, 2, 0, 1] / 255
    assert ("comes before" in told) if causal else (f"gives {weight:.3f}" in told)
    quiet(seen)


@browses
@pytest.mark.browser
def test_a_browser_that_cannot_unpack_says_so(found, visit, tmp_path):
    seen = visit(page_of(found, tmp_path), before="delete globalThis.DecompressionStream;")
    page = seen.page
    page.click(".lp-strip button[data-layer='0'][data-head='0']")
    until(page, "document.querySelector('.lp-readout').textContent.includes('cannot unpack')")
    quiet(seen)


@browses
@pytest.mark.browser
def test_damaged_weights_are_told(found, visit, tmp_path):
    page = page_of(found, tmp_path)
    broken = re.sub(r'(data-layer="0">)[A-Za-z0-9+/=]{40}', r"\1" + "A" * 40, page)
    assert broken != page
    seen = visit(broken)
    seen.page.click(".lp-strip button[data-layer='0'][data-head='0']")
    until(seen.page, "document.querySelector('.lp-readout').textContent.includes('damaged')")
    seen.page.click(".lp-strip button[data-layer='2'][data-head='0']")
    opens(seen.page, 2, 0)


@browses
@pytest.mark.browser
def test_two_texts_and_figures_share_a_page(found, visit, tmp_path):
    both = {"short": found, "scan": massive_scan(2), "long": attention(["a"] * 60)}
    page = lp.gallery(both).to_html(tmp_path / "all.html").read_text()
    assert page.count("plotly.js v") == 1
    seen = visit(page)
    for index, place in enumerate(("short", "long")):
        seen.page.click(f"#{place}-grid .lp-strip button[data-layer='2'][data-head='1']")
        until(
            seen.page,
            f"document.querySelectorAll('.lp-attention')[{index}].dataset.shown === '2.1'",
        )
    quiet(seen)


@pytest.mark.parametrize("js", ["directory", "cdn"])
def test_a_page_without_figures_brings_no_plotly(found, tmp_path, js):
    text = found.to_html(tmp_path / "a.html", js=js).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert "plot.ly" not in text and "loads nothing and sends nothing" in text
