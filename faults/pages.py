"""Texts that are odd, or that attack the page they are shown on."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from browsing import CHROMIUM, FLAGS, LOCAL
from tiny_models import write_tokenizer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import lensprobe as lp
from lensprobe.errors import LensprobeError

from . import Fault, NotHereError
from .scans import tiny

__all__ = ["FAULTS", "HOSTILE"]

NO_CRASH = "no crash: an answer or a clear refusal"
ATTACK = "window.attacked=1"
HOSTILE = (
    f"<script>{ATTACK}</script>",
    f"</script><script>{ATTACK}</script>",
    f"<img src=x onerror={ATTACK}>",
    f"<svg onload={ATTACK}>",
    f"<svg><script>{ATTACK}</script></svg>",
    f'"><script>{ATTACK}</script>',
    f"' onmouseover='{ATTACK}' autofocus onfocus='{ATTACK}",
    f"<a href=\"javascript:{ATTACK}\">click</a>",
    f"<iframe srcdoc=\"<script>parent.{ATTACK}</script>\">",
    f"<body onload={ATTACK}>",
    f"<style>@import 'http://example.org/x.css';</style><img src=http://example.org/x onload={ATTACK}>",
    f"<!--<script>{ATTACK}</script>-->",
    f"<math><mtext></mtext><script>{ATTACK}</script></math>",
    f"{{{{constructor.constructor('{ATTACK}')()}}}}",
    f"%{{x}}<b onclick={ATTACK}>%{{customdata}}",
    f"\u2028{ATTACK}\u2029//",
    f"\\u003cscript>{ATTACK}\\u003c/script>",
    f"<meta http-equiv=refresh content='0;url=javascript:{ATTACK}'>",
    f"<object data=\"data:text/html,<script>parent.{ATTACK}</script>\">",
    f"]]><script>{ATTACK}</script>",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, offline.

    Raises:
        NotHereError: there is none, or no playwright.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NotHereError("playwright is not installed") from error
    if CHROMIUM is None:
        raise NotHereError("no chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def _hostile_model(folder: Path) -> Any:
    """A model in whose vocabulary every attack is one token, in a folder named like one."""
    path = folder / "<img src=x onerror=window.attacked=1>"
    path.mkdir()
    write_tokenizer(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(list(HOSTILE))
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=24, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(path)
    return lp.load(path, device="cpu")


def attack(chance: random.Random, folder: Path) -> str:
    """Every kind of page of texts, tokens and a model that are attacks, opened and clicked about in."""
    model = _hostile_model(folder)
    texts = [" ".join(chance.sample(HOSTILE, 5)) for _ in range(3)]
    pages = {
        "report": lp.report(model, texts, progress=False),
        "massive": lp.massive.scan(model, texts, threshold=0.01, ratio=1.0, progress=False),
        "score": lp.score(model, texts),
        "generated": lp.generate(model, texts[:1], max_new_tokens=4, seed=0),
    }
    with chromium() as browser:
        for name, result in pages.items():
            file = result.to_html(folder / f"{name}.html", overwrite=True)
            _visited(browser, file)
    return f"{len(pages)} pages: no script ran, nothing was asked for"


def _visited(browser: Any, file: Path) -> None:
    page = browser.new_context(offline=True).new_page()
    came: list[str] = []
    page.on("dialog", lambda dialog: (came.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("popup", lambda other: came.append("a window was opened"))
    page.on("request", lambda r: None if r.url.startswith(LOCAL) else came.append(r.url))
    page.on("pageerror", lambda error: came.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_timeout(400)
    for each in page.locator("summary").all()[:8]:
        each.click()
    for plot in page.locator(".plot").all()[:4]:
        plot.scroll_into_view_if_needed()
        plot.hover()
    page.wait_for_timeout(200)
    assert page.evaluate("typeof window.attacked") == "undefined", f"a script ran in {file.name}"
    assert page.evaluate("document.querySelectorAll('iframe, object, embed, base').length") == 0
    assert not came, came
    page.context.close()


ODD = (
    "\ud800", "\udfff", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u00ad", "\u034f", "\u061c",
    "\u200b", "\u200d", "\u200e", "\u2028", "\u2029", "\u202e", "\u2066", "\u2069", "\ufeff",
    "\ufffc", "\ufffd", "\ufffe", "\uffff", "\ue000", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308", "\U000e0041", "e" + "\u0301" * 60, "\ufdfa", "\u0130", "\u00df",
    "\ufb01", "\u2167", "\u0661", "\u0e01" + "\u0e47" * 5, "\u1112\u1161\u11ab", "\u0627\u064e", "\r\n",
    "\r", "\t", "\v", "\f", "\u3000", "\u1680", "\U0010ffff", "\U0001d173", " ", "<|endoftext|>",
    "<|pad|>", "%s", "{0}", "`$x$`",
)  # fmt: skip
"""Surrogates, controls, joiners, directions, marks, non-characters, private use, blanks, templates."""


@cache
def _assigned() -> tuple[str, ...]:
    """A character of every category of Unicode, some of each."""
    by_category: dict[str, list[str]] = {}
    for number in range(0, 0x110000, 7):
        by_category.setdefault(unicodedata.category(chr(number)), []).append(chr(number))
    return tuple(c for group in by_category.values() for c in group[:: max(1, len(group) // 40)])


def odd_text(chance: random.Random, folder: Path) -> str:
    """A text of odd characters goes through scans, scores, a saved file, and a page."""
    pool = (*ODD, *chance.sample(_assigned(), 20), "a", "the ")
    text = "".join(chance.choice(pool) for _ in range(chance.randrange(1, 30)))
    model = tiny()
    low = {"threshold": 0.01, "ratio": 1.0, "progress": False}
    try:
        found = lp.massive.scan(model, [text, text + "x"], length=256, **low)
        lp.score(model, [text])
    except LensprobeError as error:
        return f"{type(error).__name__}, a clear refusal"
    saved = found.save(folder / "found.zip")
    again = lp.open(saved)
    assert list(again.findings["token"]) == list(found.findings["token"])
    assert again.landscape_tokens == found.landscape_tokens
    page = found.to_html(folder / "found.html").read_text("utf-8")
    assert "</html>" in page
    return "scanned, scored, saved, read back, shown"


def odd_file(chance: random.Random, folder: Path) -> str:
    """The same as a file whose name is odd too: what its documents are named by ends up in errors."""
    name = chance.choice(("\udcff", "a\nb", "<b>", "ünï", "%s", " ", "\u202e")) + ".txt"
    text = "".join(chance.choice(ODD) for _ in range(20)).encode("utf-8", "surrogatepass")
    (folder / name).write_bytes(text)
    try:
        found = lp.massive.scan(tiny(), folder / name, length=64, progress=False)
    except LensprobeError as error:
        str(error).encode("utf-8", "backslashreplace")
        return f"{type(error).__name__}, a clear refusal"
    found.to_html(folder / "page.html")
    lp.open(found.save(folder / "found.zip"))
    return "scanned, saved, read back, shown"


FAULTS = (
    Fault("texts, tokens and a model that attack a page",
          "in Chromium no script of theirs runs, nothing is fetched, no element of theirs appears",
          attack, 3, 1, 300),
    Fault("texts with every oddity of Unicode", NO_CRASH, odd_text, 100, 3),
    Fault("text files with odd names and bytes", NO_CRASH, odd_file, 40, 2),
)  # fmt: skip
