"""A table of names and values for a notebook, in the notebook's own colours."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["small_table"]

LEFT = "style='text-align:left;vertical-align:top'"
"""Notebooks align cells to the right, which suits numbers in columns and not a list of facts."""


def small_table(rows: Iterable[tuple[str, str]], title: str = "") -> str:
    """HTML of a table of two columns; what is given is text and stays text.

    Nothing but alignment is set, so that it reads in light and dark wherever it is shown.

    >>> small_table([("a", "<b>")]).count("&lt;b&gt;")
    1
    """
    caption = f"<caption {LEFT}><b>{html.escape(title)}</b></caption>" if title else ""
    body = "".join(
        f"<tr><th scope='row' {LEFT}>{html.escape(name)}</th>"
        f"<td {LEFT}>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{caption}<tbody>{body}</tbody></table>"
