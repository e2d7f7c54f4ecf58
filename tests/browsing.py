"""A headless Chromium for tests: where it is, how it is started, and what a page did in it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

CHROMIUM = (
    os.environ.get("LENSPROBE_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
LOCAL = ("file:", "data:", "blob:", "about:")


@dataclass
class Opened:
    """A page with everything it complained about or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def until(page: Any, condition: str) -> None:
    """Wait for a condition by asking: the page's own policy forbids playwright's evaluated one."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {condition}")
