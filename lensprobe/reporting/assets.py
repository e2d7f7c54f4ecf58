"""The templates, styles and scripts of this package, and what fills them in."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import jinja2

__all__ = ["asset", "environment"]


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Templates in which all that is data is escaped."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """The text of a file in `templates/`."""
    return (resources.files("lensprobe.reporting") / "templates" / name).read_text("utf-8")
