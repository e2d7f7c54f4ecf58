"""What the commands are asked for: arguments, options, and the values that they take."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import typer

from .errors import LensprobeError

__all__ = [
    "COLUMN",
    "DEBUG",
    "DEVICE",
    "ENGINE",
    "LENGTH",
    "LIMIT",
    "MODEL",
    "ON_ERROR",
    "OUT",
    "OVERWRITE",
    "PARQUET",
    "PART",
    "PROGRESS",
    "QUIET",
    "TEXTS",
    "WORKERS",
    "Engine",
    "OnError",
    "Shown",
    "Theme",
    "What",
    "crew",
    "given",
    "kept",
]


class What(str, Enum):
    """What a scan looks for."""

    massive = "massive"
    sinks = "sinks"
    all = "all"


class OnError(str, Enum):
    """What happens at a record that cannot be read."""

    fail = "raise"
    skip = "skip"


class Shown(str, Enum):
    """How progress is shown."""

    bar = "bar"
    json = "json"
    none = "none"


class Engine(str, Enum):
    """What starts the processes that read."""

    local = "local"
    ray = "ray"


class Theme(str, Enum):
    """Colours of a page."""

    auto = "auto"
    light = "light"
    dark = "dark"


def _there(texts: Path | None) -> Path | None:
    from .textfiles import named_files

    if texts is not None:
        try:
            named_files(texts, "--texts")
        except LensprobeError as error:
            raise typer.BadParameter(str(error)) from error
    return texts


MODEL = typer.Argument(
    metavar="MODEL",
    help="A hub id (`gpt2`), a folder, a `.gguf` file, `smollm2-135m`, or `planted`.",
)
TEXTS = typer.Option(
    "--texts",
    metavar="FILE",
    callback=_there,
    help="A `.txt` file (a blank line between documents), `.jsonl` or `.parquet`, the first two also "
    "compressed (`.gz`, `.bz2`, `.xz`, `.zst`); or a pattern in quotes, `'data/*.jsonl.gz'`. Without "
    "it, a short public-domain text that ships with lensprobe.",
)
COLUMN = typer.Option("--column", metavar="NAME", help="The field of a record that is the text.")
ON_ERROR = typer.Option(
    "--on-error", help="At a record that cannot be read: stop, or skip it and say where it was."
)
PROGRESS = typer.Option(
    "--progress",
    help="A bar; lines of JSON on standard error, at most one a second (with --out or --workers one "
    "for each piece of about 65,000 tokens); or nothing.",
)
OUT = typer.Option(
    "--out",
    metavar="FOLDER",
    help="Keep what is finished there; the same call goes on where one that was killed ended.",
)
PART = typer.Option(
    "--part",
    metavar="I/N",
    help="Read share I of N, from 0 on, into the folder of --out; without it, add up all shares.",
)
WORKERS = typer.Option("--workers", min=1, metavar="N", help="Read with N processes.")
ENGINE = typer.Option("--engine", help="Processes of this machine, or of a Ray cluster.")
LIMIT = typer.Option("--limit", min=1, metavar="N", help="Read at most N documents.")
LENGTH = typer.Option("--length", min=2, metavar="N", help="Longest window, in tokens.")
DEVICE = typer.Option("--device", help="`cpu`, `cuda`, `mps`; without it the best there is.")
OVERWRITE = typer.Option("--overwrite", help="Replace the output file if it exists.")
QUIET = typer.Option("--quiet", "-q", help="No progress bars.")
PARQUET = typer.Option(
    "--parquet", metavar="FOLDER", help="Write every table there as a Parquet file."
)
DEBUG = typer.Option("--debug", help="Show the traceback of an error.")


def crew(workers: int, engine: Engine) -> dict[str, Any]:
    """Who reads, as `lp.options` takes it."""
    return {"workers": workers, "engine": engine.value}


def kept(what: What, out: Path | None, part: str | None) -> dict[str, Any]:
    """Where one scan keeps what is finished, and which share of it this is."""
    if part is not None and out is None:
        raise typer.BadParameter("a share is kept in a folder: give --out as well.")
    if out is None:
        return {}
    if what is What.all:
        raise typer.BadParameter("--out keeps one scan: give --what massive or --what sinks.")
    if part is None:
        return {"out": out}
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise typer.BadParameter(f"--part {part}: I/N with 0 <= I < N, such as 0/8.")
    return {"out": out, "part": (int(index), int(count))}


def given(
    limit: int | None,
    length: int | None,
    column: str | None,
    on_error: OnError,
    progress: Shown,
    quiet: bool,
) -> dict[str, Any]:
    """What a scan is given; only what was asked for, so that the rest is decided there."""
    options: dict[str, Any] = {"limit": limit, "length": length}
    if column is not None:
        options["column"] = column
    if on_error is not OnError.fail:
        options["on_error"] = on_error.value
    if quiet or progress is Shown.none:
        options["progress"] = False
    elif progress is Shown.json:
        options["progress"] = "json"
    return options
