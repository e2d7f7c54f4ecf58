"""All heads of a long text as one page: how large it is, and when a reader sees it.

    OMP_NUM_THREADS=2 python benchmarks/attention.py [--tokens 512] [--write]

The page is opened in headless Chromium from a file, without a network, several times; painting is
the browser's own first contentful paint, opening a head is from the click to the drawn pattern.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import record

import lensprobe as lp
from lensprobe.models.adapter import adapter_for
from lensprobe.texts import default_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browsing import CHROMIUM, FLAGS, until

MEGABYTES = 15
SECONDS = 3


def long_text(model, tokens: int) -> list[int]:
    """Token ids of the text that ships with lensprobe, over and over."""
    text, ids = " ".join(default_texts()), []
    while len(ids) < tokens:
        text += " " + text
        ids = lp.TokenBatch.pad(adapter_for(model), [text[: 12 * tokens]]).rows()[0]
    return ids[:tokens]


def painted(path: Path, turns: int) -> tuple[float, float, float]:
    """Median seconds to the first paint, to the load event, and from a click to a drawn head."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(turns):
            context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(path.as_uri())
            until(page, "performance.getEntriesByName('first-contentful-paint').length > 0")
            first = page.evaluate(
                "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
            )
            loaded = page.evaluate(
                "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
            )
            begin = time.perf_counter()
            page.click(".lp-strip button >> nth=-1")
            until(page, "!!document.querySelector('.lp-attention').dataset.shown")
            found.append((first, loaded, time.perf_counter() - begin))
            context.close()
        browser.close()
    first, loaded, opened = (statistics.median(values) for values in zip(*found, strict=True))
    return first, loaded, opened


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = lp.load(given.model)
    ids = long_text(model, given.tokens)
    seconds = {}
    begin = time.perf_counter()
    found = lp.attention(model, ids)
    seconds["read"] = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.html"
        begin = time.perf_counter()
        found.to_html(path)
        seconds["written"] = time.perf_counter() - begin
        size = path.stat().st_size / 1e6
        first, loaded, opened = painted(path, given.turns)
    layers, heads = found.patterns.shape[:2]
    record(
        "Attention grid",
        f"{layers * heads} heads of {given.model} on {len(ids)} tokens, one page from a file",
        [
            ("the page, MB", size, MEGABYTES),
            ("first contentful paint, s", first, SECONDS),
            ("load event, s", loaded, None),
            ("from a click to a drawn head, s", opened, None),
            ("reading the patterns, s", seconds["read"], None),
            ("writing the page, s", seconds["written"], None),
        ],
        write=given.write,
    )


if __name__ == "__main__":
    main()
