"""What a result prints in a notebook: in the notebook's own colours, and asking no host."""

from __future__ import annotations

import pytest
from attending import attention
from browsing import CHROMIUM, FLAGS, LOCAL, Opened
from synthetic import massive_scan, sink_scan
from test_token_views import generation

import lensprobe as lp
from lensprobe.plot.theme import DARK, LIGHT
from lensprobe.reporting.token_view import INK, MOST
from lensprobe.small_table import small_table
from lensprobe.steering import SteeringVector

# The variables by which JupyterLab and VS Code dress an output, and what they make of a table.
APPS = {
    "jupyterlab": ("--jp-layout-color0:{page};--jp-layout-color1:{page};--jp-ui-font-color1:{ink}"),
    "vscode": ("--vscode-editor-background:{page};--vscode-editor-foreground:{ink}"),
}
COLOURS = {
    "light": ("rgb(255, 255, 255)", "rgb(33, 33, 33)"),
    "dark": ("rgb(17, 17, 17)", "rgb(238, 238, 238)"),
}
STYLE = "td,th{text-align:right;border:none}body{background:%s;color:%s}"


@pytest.fixture(scope="module")
def outputs() -> str:
    plain = generation([1, 2, 3], logprob=[-1.0, -20.0, -3.0])
    other = generation([1, 9], logprob=[-1.0, -4.0])
    results = [
        massive_scan(model="<b>bold"), sink_scan(), plain, attention(["<s>", "a", "b"]),
        lp.side_by_side({"plain": plain, "other": other}), SteeringVector([1.0, 2.0], 0),
        lp.gallery([massive_scan(2)]), lp.compare({"a": sink_scan(), "b": sink_scan()}),
    ]  # fmt: skip
    return "".join(result._repr_html_() for result in results)


def test_text_stays_text_and_nothing_is_loaded(outputs):
    assert "&lt;b&gt;bold" in outputs and "<b>bold" not in outputs
    assert "http" not in outputs and "url(" not in outputs
    assert "tables: </small>" not in outputs


def test_a_small_table_sets_no_colour():
    shown = small_table([("<i>", "1 < 2")], "a & b")
    assert "<b>a &amp; b</b>" in shown and "&lt;i&gt;" in shown and "1 &lt; 2" in shown
    assert "color" not in shown and "background" not in shown
    assert "<caption" not in small_table([])


def luminance(colour) -> float:
    """Relative luminance of sRGB, WCAG 2.2."""
    parts = [c / 255 / 12.92 if c <= 10.3 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_a_token_is_read_on_the_strongest_colour(theme):
    surface, ink = (
        [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (theme.surface, theme.ink)
    )
    under = [MOST * a + (1 - MOST) * b for a, b in zip(INK, surface, strict=True)]
    light, dark = sorted([luminance(under), luminance(ink)], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")
def test_outputs_take_the_colours_of_the_notebook(outputs, tmp_path):
    play = pytest.importorskip("playwright.sync_api")
    with play.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for app, names in APPS.items():
            for page_colour, ink in COLOURS.values():
                variables = names.format(page=page_colour, ink=ink)
                style = f":root{{{variables}}}{STYLE % (page_colour, ink)}"
                path = tmp_path / "output.html"
                path.write_text(
                    f"<!doctype html><meta charset=utf-8><style>{style}</style>{outputs}", "utf-8"
                )
                seen = Opened(browser.new_context(offline=True).new_page())
                seen.page.on("console", lambda m, s=seen: s.complaints.append(m.text))
                seen.page.on("request", lambda r, s=seen: s.requests.append(r.url))
                seen.page.goto(path.as_uri())
                drawn = seen.page.evaluate(
                    "[...document.querySelectorAll('table *, .lp-body, .lp-attention p')].map(e =>"
                    " [getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
                )
                assert len(drawn) > 60
                assert {tuple(pair) for pair in drawn} == {(ink, "rgba(0, 0, 0, 0)")}, app
                aligned = (
                    "[...document.querySelectorAll('td')].map(e => getComputedStyle(e).textAlign)"
                )
                assert set(seen.page.evaluate(aligned)) == {"left"}
                seen.page.locator(".lp-parts").hover()
                box = "getComputedStyle(document.querySelector('.lp-parts'), '::after')"
                assert seen.page.evaluate(f"{box}.backgroundColor") == page_colour
                assert seen.page.evaluate(f"{box}.color") == ink
                assert seen.complaints == []
                assert [url for url in seen.requests if not url.startswith(LOCAL)] == []
        browser.close()
