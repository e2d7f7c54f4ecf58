"""A widget in JupyterLab, in a real browser, by keyboard: a slider moves and the figure follows."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from browsing import CHROMIUM, FLAGS, LOCAL, Opened, until

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
pytest.importorskip("jupyterlab", reason="the JupyterLab test needs jupyterlab")
pytest.importorskip("anywidget", reason="widgets: pip install 'lensprobe[explore]'")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")

PATIENCE = 120
"""Seconds that a server, a kernel or a first answer may take on a busy machine."""
CODE = """
import numpy as np
import lensprobe as lp

model = lp.load("planted", device="cpu")
numbers = 0.02 * np.random.default_rng(0).normal(size=model.cfg.d_model)
vector = lp.steering.SteeringVector(numbers, layer=2)
lp.explore.steering(model, vector, max_new_tokens=4)
"""
BARS = "[...document.querySelectorAll('.barlayer path')].map(p => p.getAttribute('d')).join()"
CELL = {"cell_type": "code", "id": "one", "metadata": {}, "outputs": [], "execution_count": None}
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab of its own, with one notebook, no token, and nobody's settings."""
    notebook = {
        "cells": [{**CELL, "source": CODE.strip()}],
        "metadata": {"kernelspec": KERNEL},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    root, config = tmp_path / "root", tmp_path / "config"
    (config / "labconfig").mkdir(parents=True)
    root.mkdir()
    (root / "explore.ipynb").write_text(json.dumps(notebook))
    # It would ask a host for news, and everybody else whether it may.
    off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(off))
    own = {f"JUPYTER_{name}_DIR": tmp_path / name.lower() for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": tmp_path / "ipython"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token="),
        f"--ServerApp.root_dir={root}",
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **{k: str(v) for k, v in own.items()}},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start (it ended with {server.poll()})")


@pytest.fixture
def opened(lab) -> Iterator[Opened]:
    """The notebook in a browser, its cell run."""
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = Opened(browser.new_page(viewport={"width": 1200, "height": 1300}))
        page = found.page
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", lambda m: m.type == "error" and found.complaints.append(m.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("request", lambda r: found.requests.append(r.url))
        page.goto(f"{lab}/lab/tree/explore.ipynb")
        _run_the_cell(page)
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        yield found
        browser.close()


def _run_the_cell(page) -> None:
    """Press, and press again where nothing came of it.

    Keys that come before the notebook has its commands go nowhere.
    """
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
    end = time.monotonic() + PATIENCE
    prompt.wait_for()
    while not re.search(r"[*\d]", prompt.inner_text()) and time.monotonic() < end:
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1000)


def focused(page) -> str:
    return page.evaluate(
        "(() => { const a = document.activeElement;"
        " return a.getAttribute('role') || a.tagName.toLowerCase(); })()"
    )


@pytest.mark.browser
@pytest.mark.slow
def test_a_slider_moved_by_keyboard_changes_the_figure(opened):
    page = opened.page
    title = page.locator(".widget-html b", has_text="Steered at layer")
    status = page.locator("[role=status]")
    assert "layer 2, scale 1" in title.text_content()
    before, finding = page.evaluate(BARS), status.text_content()
    assert finding.startswith("Here the likeliest next token is")

    page.locator("[role=slider]").nth(1).focus()
    page.keyboard.press("ArrowRight")
    title.filter(has_text="scale 1.25").wait_for()
    until(page, f"{BARS} !== {json.dumps(before)}")
    assert status.text_content() != finding

    # Every control can be reached from there with the Tab key; the last is the text.
    reached = []
    while "textarea" not in reached and len(reached) < 12:
        page.keyboard.press("Tab")
        reached.append(focused(page))
    assert {"select", "textarea"} <= set(reached), reached
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")
    alert = page.locator("[role=alert]")
    alert.wait_for()
    assert "the text is empty" in alert.text_content()
    assert "scale 1.25" in title.text_content()

    assert opened.complaints == []
    assert [u for u in opened.requests if "127.0.0.1" not in u and not u.startswith(LOCAL)] == []
