"""Draw the documentation's pictures: SmolLM2-135M's answers to the five questions, light and dark.

`python scripts/docs_images.py` takes a few minutes on two cores; it needs the weights, playwright and
a Chromium. Each picture is two files in `docs/images`; a page shows the one that suits it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

import lensprobe as lp
from lensprobe.texts import default_texts

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 820
"""Of a figure, in the browser's pixels; a picture has `SCALE` times as many."""
SCALE = 1.5
TALL = 700
"""Above this height a picture is kept at the browser's size: it is large enough."""
THINGS = ("The film", "Our hotel", "The concert", "The book")
Draw = Callable[..., go.Figure]


def steering(model: Any) -> Draw:
    """What adding praise less blame does to the odds of a praising word, by layer and scale."""
    praise = [
        f"{thing} was {word}" for thing in THINGS for word in ("lovely", "superb", "charming")
    ]
    blame = [f"{thing} was {word}" for thing in THINGS for word in ("awful", "horrid", "dreadful")]
    asked = [
        lp.steering.Question(start, good, bad)
        for start in ("I think the new phone is", "I found the museum", "Their latest album is")
        for good, bad in ((" good", " bad"), (" great", " poor"))
    ]
    vectors: Any = lp.steering.difference(
        model, praise, blame, layers=range(0, model.cfg.n_layers, 3)
    )
    scales = (-2, -1, 0, 1, 2)
    found = lp.steering.sweep(model, asked, vector=vectors, scales=scales, measure="log_odds")
    return found.plot


def massive(model: Any, texts: list[str]) -> Draw:
    """What each component adds to the massive activation."""
    return lp.massive.anatomy(model, texts[:3]).plot


def sinks(model: Any, texts: list[str]) -> Draw:
    """Attention to the first token, head by head."""
    found: Any = lp.sinks.scan(model, texts)
    return found.plot


def training(model: Any) -> Draw:
    """Steps of AdamW taken apart."""
    passages = [text[at : at + 200] for text in default_texts() for at in range(0, 400, 200)]
    watch = lp.massive.train_and_watch(
        model, passages, steps=12, every=2, batch_size=4, length=40, learning_rate=1e-4
    )
    return watch.plot.account


def interpolation(model: Any) -> Draw:
    """What each position of each layer is about, plain and with late layers that see what came."""
    text = "The history of the old town begins with a small purple elephant that"
    return lp.interpolation.trace(model, text, layer=model.cfg.n_layers - 5, weight=0.5).plot


def write(figures: Iterable[tuple[str, Draw]]) -> None:
    """Draw each figure in both themes."""
    chromium = os.environ.get("LENSPROBE_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            device_scale_factor=SCALE, viewport={"width": 900, "height": 900}
        )
        page, html = context.new_page(), Path(folder) / "figure.html"
        for name, draw in figures:
            for theme in ("light", "dark"):
                figure = draw(theme=theme).update_layout(width=WIDTH)
                figure.write_html(html, config={"displayModeBar": False})
                page.goto(html.as_uri())
                page.wait_for_selector(".main-svg")
                page.wait_for_timeout(1000)
                target = IMAGES / f"{name}-{theme}.png"
                shown = page.locator(".plotly-graph-div")
                box = shown.bounding_box()
                tall = box is not None and box["height"] > TALL
                shown.screenshot(path=target, scale="css" if tall else "device")
                print(target.name, f"{target.stat().st_size / 1e3:.0f} KB")
        browser.close()


def main() -> None:
    """All pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all by default")
    wanted = parser.parse_args().names
    lp.options(progress=False, seed=0)
    model = lp.load("smollm2-135m")
    texts = [text[:260] for text in default_texts()[:6]]
    makers: dict[str, Callable[[], Draw]] = {
        "steering": lambda: steering(model),
        "massive": lambda: massive(model, texts),
        "sinks": lambda: sinks(model, texts),
        "training": lambda: training(model),
        "interpolation": lambda: interpolation(model),
    }
    write((name, make()) for name, make in makers.items() if not wanted or name in wanted)


if __name__ == "__main__":
    main()
