"""Figures as files for a paper: PNG, SVG and PDF at their printed size, drawn by a Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..errors import ArgumentError, OutputError, nearest
from ..results import Shown, writing
from .views import views

__all__ = ["write"]

FORMATS = ("png", "svg", "pdf", "jpg", "webp")
DOTS = 4
"""Dots of a bitmap for each of the figure's 96 to the inch."""
SECONDS = 90
DATA = ("y", "z", "values", "r", "cells", "x")


def write(
    result: Shown,
    path: str | os.PathLike[str],
    *,
    view: str | None,
    theme: str,
    width_mm: float,
    title: str | None,
    overwrite: bool,
    options: dict[str, Any],
) -> Path:
    """Draw one view of a result into a file; see `Result.to_image`."""
    form = _format(path)
    if theme == "paper" and title is None:
        # What a figure is, a paper says in the caption below it.
        title = ""
    known = views(result)
    if view is not None and view not in known.names:
        raise ArgumentError(
            f"view={view!r}: the views are {', '.join(known.names)}.{nearest(str(view), known.names)}"
        )
    draw = known if view is None else getattr(known, view)
    figure = draw(theme=theme, width_mm=width_mm, title=title, **options)
    if not any(_numbers(trace) for trace in figure.data):
        raise ArgumentError(
            f"view={view or known.names[0]!r} has nothing to draw. {figure.layout.meta['finding']}"
        )
    # Opening the file first means a path that cannot be written costs no drawing.
    with writing(path, overwrite=overwrite) as handle:
        handle.write(_drawn(figure, form, path))
    return Path(path)


def _format(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower().removeprefix(".")
    form = "jpg" if suffix == "jpeg" else suffix
    if form not in FORMATS:
        raise ArgumentError(
            f"path={str(path)!r}: the ending says what is written, one of .{', .'.join(FORMATS)}."
        )
    return form


def _numbers(trace: Any) -> bool:
    """Whether a trace has anything in it that is drawn."""
    return any(
        value is not None and value == value
        for name in DATA
        if name in trace and trace[name] is not None
        for value in _flat(trace[name])
    )


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple | np.ndarray):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def _drawn(figure: go.Figure, form: str, path: str | os.PathLike[str]) -> bytes:
    """The bytes of the picture; nothing is asked of any host."""
    try:
        import kaleido
        from choreographer.errors import ChromeNotFoundError
    except ImportError as error:
        raise OutputError(
            f"path={str(path)!r}: pictures are drawn by kaleido: pip install 'lensprobe[image]'. "
            ".to_html(path) needs nothing more."
        ) from error
    layout: Any = figure.layout
    size = {"width": int(layout.width), "height": int(layout.height)}
    scale = DOTS if form in ("png", "jpg", "webp") else 1
    try:
        return kaleido.calc_fig_sync(
            figure,
            opts={"format": form, "scale": scale, **size},
            # Formulas would be fetched from a host; no figure has any.
            kopts={"mathjax": False, "timeout": SECONDS},
        )
    except ChromeNotFoundError as error:
        raise OutputError(
            f"path={str(path)!r}: kaleido draws with Chromium and found none; install chromium or "
            "Chrome, or name its program in the environment variable BROWSER_PATH."
        ) from error
    except Exception as error:
        # A browser can fail in any way.
        raise OutputError(
            f"path={str(path)!r}: Chromium could not draw the figure "
            f"({type(error).__name__}: {error})."
        ) from error
