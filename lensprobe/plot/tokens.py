"""Token labels that plotly shows as text.

plotly renders a small HTML in every label and hover box, and `<s>` is a real token: unescaped it
disappears, and `<img ...>` would be worse. White space and control characters are made visible.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

__all__ = ["escape", "label", "token_axis", "visible"]

_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍", "\u00a0": "⍽"}
LONGEST = 24


def escape(text: str) -> str:
    """Text that plotly's markup shows exactly as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def visible(token: str) -> str:
    r"""A token with its white space and control characters shown. Plain text, not escaped.

    >>> visible(" the"), visible("\n"), visible("\x00"), visible("")
    ('·the', '↵', '\\x00', '∅')
    """
    if not token:
        return "∅"
    return "".join(_VISIBLE.get(char) or _printable(char) for char in token)


def _printable(char: str) -> str:
    # Categories C*: controls, format characters (such as a right-to-left override) and surrogates.
    # A zero-width joiner holds an emoji together, so it alone is kept.
    if char == "\u200d" or not unicodedata.category(char).startswith("C"):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def label(token: str, longest: int = LONGEST) -> str:
    """A token as a plotly label: visible, shortened and escaped.

    >>> label("<s>"), label(" a" * 20, longest=5)
    ('&lt;s&gt;', '·a·a…')
    """
    text = visible(token)
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def token_axis(tokens: Sequence[str], positions: Sequence[int] | None = None) -> dict[str, Any]:
    """Axis settings that put token i at the integer i, so that repeated tokens do not merge.

    Args:
        tokens: the token strings, in the order they are drawn.
        positions: their positions in the text when not all of it is drawn; shown beside the token.
    """
    labels = [label(token, 14) for token in tokens]
    if positions is not None:
        labels = [f"{text}  {position}" for text, position in zip(labels, positions, strict=True)]
    return {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": labels}
