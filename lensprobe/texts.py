"""The short public-domain text that ships inside the package, so that nothing is needed to start."""

from __future__ import annotations

from importlib import resources

__all__ = ["TITLE", "default_texts"]

TITLE = "Alice's Adventures in Wonderland (Lewis Carroll, 1865), opening chapters"
"""What `default_texts` is, as a report states it."""


def default_texts() -> list[str]:
    """The opening of *Alice's Adventures in Wonderland* in thirteen documents of 0.5 to 2 KB.

    >>> texts = default_texts()
    >>> len(texts), texts[0][:31]
    (13, 'Alice was beginning to get very')
    """
    text = (resources.files("lensprobe") / "data" / "alice.txt").read_text("utf-8")
    return [document.strip() for document in text.split("\n\n") if document.strip()]
