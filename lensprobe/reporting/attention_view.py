"""All heads as a grid of small pictures, and any one of them in full: plain HTML with one script.

Weights travel as bytes: pictures as PNG, the full patterns deflated, of a causal one the lower
triangle alone. Nothing is asked of any host, and ink of varying opacity reads on light and on dark.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from ..plot.attention import pooled
from ..plot.tokens import visible
from .assets import asset, environment
from .parts import as_json

if TYPE_CHECKING:
    from ..running import Attention

__all__ = ["attention_view", "is_causal", "notebook", "packed", "png"]

SIDE = 44
"""Most cells along the side of a small picture."""
GAP = 2
INK = (46, 134, 200)
"""Midway in lightness, so that it is seen on white and on black."""
MARKS = (0.0, 0.1, 0.25, 0.5, 1.0)
LEVEL = 6
"""Of deflate: level 9 takes seven times as long for 7% less."""
LARGE = 6_000_000
"""Characters of packed weights above which a notebook shows the small pictures alone."""


@dataclass(frozen=True)
class _Strip:
    """One layer: its heads side by side in one picture, and what each head is called."""

    layer: int
    picture: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class _View:
    """What the template walks through."""

    heads: int
    strips: tuple[_Strip, ...]
    pooling: str
    crisp: bool
    hint: str
    facts: Markup
    data: tuple[tuple[int, str], ...]
    ink: tuple[int, ...] = INK
    marks: tuple[tuple[str, float], ...] = tuple((f"{m:g}", 100 * m**0.5) for m in MARKS)


def is_causal(patterns: np.ndarray) -> bool:
    """Whether no query looks at a later key."""
    length = patterns.shape[-1]
    return not patterns[..., np.triu(np.ones((length, length), dtype=bool), 1)].any()


def packed(patterns: np.ndarray, *, causal: bool) -> str:
    """Some heads' patterns `[head query key]` as text: the bytes key by key, deflated, in base 64.

    Neighbouring queries give a key nearly the same, so that its bytes shrink more than a query's: by
    an eighth in texts of 512 tokens.

    Args:
        patterns: uint8.
        causal: leave out the queries before each key.
    """
    by_key = patterns.swapaxes(1, 2)
    cells = by_key[:, np.tri(patterns.shape[-1], dtype=bool).T] if causal else by_key
    return base64.b64encode(zlib.compress(np.ascontiguousarray(cells).tobytes(), LEVEL)).decode()


def png(opacity: np.ndarray, ink: tuple[int, int, int] = INK) -> bytes:
    """A picture of one colour whose opacity is the given bytes `[rows columns]`."""
    rows, columns = opacity.shape
    lines = np.zeros((rows, columns + 1), dtype=np.uint8)
    lines[:, 1:] = opacity
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(ink) * 256),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def attention_view(found: Attention, *, largest: int | None = None) -> Markup:
    """The grid of heads with all that is needed to open one.

    Args:
        found: the patterns of a text.
        largest: most characters of packed weights; above it heads cannot be opened and the view says
            so. None is no limit.
    """
    causal = is_causal(found.patterns)
    data = _data(found, causal, largest)
    small = pooled(found.patterns, SIDE)
    step = -(-len(found.tokens) // SIDE)
    facts = {
        "tokens": [visible(str(token)) for token in found.tokens["token"]],
        "heads": small.shape[1],
        "causal": causal,
        "ink": INK,
        "steps": found.steps,
    }
    view = _View(
        heads=small.shape[1],
        strips=tuple(_strips(found, small)),
        pooling=f"; each point the largest of {step} × {step} weights" if step > 1 else "",
        crisp=step == 1,
        hint=_hint(bool(data)),
        facts=as_json(facts),
        data=tuple(data),
    )
    return Markup(environment().get_template("attention.html.j2").render(view=view))


def notebook(found: Attention) -> str:
    """The view with its style and script, for a notebook's output."""
    body = attention_view(found, largest=LARGE)
    return f"<style>{asset('attention.css')}</style>{body}<script>{asset('attention.js')}</script>"


def _data(found: Attention, causal: bool, largest: int | None) -> list[tuple[int, str]]:
    data: list[tuple[int, str]] = []
    total = 0
    for index, layer in enumerate(found.layers):
        text = packed(found.patterns[index], causal=causal)
        total += len(text)
        if largest is not None and total > largest:
            return []
        data.append((layer, text))
    return data


def _hint(opens: bool) -> str:
    if opens:
        return "Click a head to open it, or move with the arrow keys and press Enter."
    return (
        "These patterns are too large to be opened in a notebook: .to_html(path) writes a page in "
        "which every head opens; so does reading fewer layers."
    )


def _strips(found: Attention, small: np.ndarray) -> list[_Strip]:
    shade = np.round(255 * np.sqrt(small / found.steps)).astype(np.uint8)
    # A short text's few cells are drawn larger, so that the gap between heads stays small.
    shade = shade.repeat(max(1, SIDE // shade.shape[-1]), axis=2)
    shade = shade.repeat(shade.shape[-2] // shade.shape[-1], axis=3)
    framed = np.pad(shade, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP)))
    strips = []
    for index, layer in enumerate(found.layers):
        rows: Any = found.heads[found.heads["layer"] == layer].itertuples()
        words = tuple(
            f"Layer {layer}, head {row.head}: {row.value:.2f} on the first token, "
            f"{row.previous:.2f} on the one before, {row.entropy:.2f} nats"
            for row in rows
        )
        picture = base64.b64encode(png(np.hstack(list(framed[index])))).decode()
        strips.append(_Strip(layer, picture, words))
    return strips
