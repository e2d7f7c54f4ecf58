"""The command line. Torch and the models are imported only by the commands that need them."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .cli_options import (
    COLUMN,
    DEBUG,
    DEVICE,
    ENGINE,
    LENGTH,
    LIMIT,
    MODEL,
    ON_ERROR,
    OUT,
    OVERWRITE,
    PARQUET,
    PART,
    PROGRESS,
    QUIET,
    TEXTS,
    WORKERS,
    Engine,
    OnError,
    Shown,
    Theme,
    What,
    crew,
    given,
    kept,
)
from .errors import Interrupted, LensprobeError

__all__ = ["app", "main"]

INTERRUPTED = 130

app = typer.Typer(
    name="lensprobe",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(given: bool) -> None:
    if given:
        typer.echo(f"lensprobe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    """Find massive activations and attention sinks in a language model.

    Start with a model whose answers are known, no download needed:

    - `lensprobe report` writes report.html; open it in any browser, offline

    Then take a real one:

    - `lensprobe report gpt2 -o gpt2.html`
    - `lensprobe scan gpt2 --what sinks` prints a table
    - `lensprobe models` says what can be loaded here

    Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted.
    """
    context.obj = {"debug": debug}


@app.command(short_help="Write one HTML page with all figures and tables.")
def report(
    context: typer.Context,
    model: Annotated[str, MODEL] = "planted",
    texts: Annotated[Path | None, TEXTS] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    overwrite: Annotated[bool, OVERWRITE] = False,
    limit: Annotated[int | None, LIMIT] = None,
    length: Annotated[int | None, LENGTH] = None,
    theme: Annotated[Theme, typer.Option(help="Colours; auto follows the reader.")] = Theme.auto,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page.")] = False,
    device: Annotated[str | None, DEVICE] = None,
    column: Annotated[str | None, COLUMN] = None,
    on_error: Annotated[OnError, ON_ERROR] = OnError.fail,
    workers: Annotated[int, WORKERS] = 1,
    engine: Annotated[Engine, ENGINE] = Engine.local,
    progress: Annotated[Shown, PROGRESS] = Shown.bar,
    quiet: Annotated[bool, QUIET] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    """Scan a model and write one self-contained HTML page.

    The page needs no network and no second file. Examples:

    - `lensprobe report` (the calibration model, no download)
    - `lensprobe report gpt2 --texts my.txt -o gpt2.html --open`
    - `lensprobe report ./my-checkpoint --limit 100 --overwrite`

    Ctrl-C ends a long run early; the page is then written from what was read, and says so.
    """
    with _errors(context, debug):
        from .results import writable

        writable(output, overwrite=overwrite)
        options = given(limit, length, column, on_error, progress, quiet)
        try:
            found = _scanned(What.all, model, texts, device, options, crew(workers, engine))
        except Interrupted as stop:
            if stop.partial is not None:
                stop.partial.to_html(output, theme=theme.value, overwrite=overwrite)
                _say(f"Stopped early; {output} holds what was read so far.")
            raise
        path = found.to_html(output, theme=theme.value, overwrite=overwrite)
        _say(_sentences(found))
        _warn(found)
        typer.echo(path)
        if open_page:
            webbrowser.open(path.resolve().as_uri())


@app.command(short_help="Print what a scan finds, and save the result.")
def scan(
    context: typer.Context,
    model: Annotated[str, MODEL] = "planted",
    what: Annotated[What, typer.Option(help="What to look for.")] = What.all,
    texts: Annotated[Path | None, TEXTS] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the result for `lp.open`."),
    ] = None,
    parquet: Annotated[Path | None, PARQUET] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    limit: Annotated[int | None, LIMIT] = None,
    length: Annotated[int | None, LENGTH] = None,
    device: Annotated[str | None, DEVICE] = None,
    column: Annotated[str | None, COLUMN] = None,
    on_error: Annotated[OnError, ON_ERROR] = OnError.fail,
    out: Annotated[Path | None, OUT] = None,
    part: Annotated[str | None, PART] = None,
    workers: Annotated[int, WORKERS] = 1,
    engine: Annotated[Engine, ENGINE] = Engine.local,
    progress: Annotated[Shown, PROGRESS] = Shown.bar,
    quiet: Annotated[bool, QUIET] = False,
    debug: Annotated[bool, DEBUG] = False,
) -> None:
    """Print massive activations and the strongest sink heads as tables.

    Examples:
    - `lensprobe scan gpt2`
    - `lensprobe scan gpt2 --what massive --texts my.jsonl --limit 200`
    - `lensprobe scan gpt2 --what sinks -o gpt2.sinks` (read back with `lp.open("gpt2.sinks")`)
    - `lensprobe scan gpt2 --what massive --out run --workers 4` (killed, it goes on where it was)
    """
    folder = kept(what, out, part)
    with _errors(context, debug):
        from .parquet import free
        from .results import writable

        if output is not None:
            writable(output, overwrite=overwrite)
        if parquet is not None:
            free(parquet, overwrite=overwrite)
        options = folder | given(limit, length, column, on_error, progress, quiet)
        try:
            found = _scanned(what, model, texts, device, options, crew(workers, engine))
        except Interrupted as stop:
            if stop.partial is not None:
                _tell(stop.partial, output, parquet, overwrite)
            raise
        if part is not None:
            _say(f"Share {part} is in {out}; the same call without --part adds up all shares.")
            return
        _tell(found, output, parquet, overwrite)


@app.command(short_help="What can be loaded here, and how to get the rest.")
def models(context: typer.Context, debug: Annotated[bool, DEBUG] = False) -> None:
    """List the models that are on this machine and say how to get others. Asks no network."""
    with _errors(context, debug):
        from .models.inventory import inventory

        rows = inventory()
        width = max(len(row.name) for row in rows)
        for here in (True, False):
            typer.echo("On this machine" if here else "\nNot on this machine")
            for row in rows:
                if row.here == here:
                    typer.echo(f"  {row.name:<{width}}  {row.words}")
        typer.echo(
            "\nAny hub id, folder or .gguf file works as well:\n"
            "  lensprobe report owner/model\n"
            "  lensprobe report ./folder\n"
            "  lensprobe report ./model.gguf"
        )


def _scanned(
    what: What,
    name: str,
    texts: Path | None,
    device: str | None,
    options: dict[str, Any],
    crew: dict[str, Any],
) -> Any:
    """Load the model and run what was asked for."""
    _say(f"Loading {name} ...")
    import lensprobe as lp

    from .texts import default_texts

    model = lp.load(name, device=device) if device else lp.load(name)
    with lp.options(**crew):
        if what is What.all:
            return lp.report(model, texts, **options)
        room = lp.massive if what is What.massive else lp.sinks
        return room.scan(model, default_texts() if texts is None else texts, **options)


def _tell(found: Any, output: Path | None, parquet: Path | None, overwrite: bool) -> None:
    """The tables on standard output, the sentences on standard error."""
    for part in _parts(found):
        typer.echo(_table(part))
    _say(_sentences(found))
    _warn(found)
    if output is not None:
        found.save(output, overwrite=overwrite)
        _say(f'Saved to {output}; lensprobe.open("{output}") reads it back.')
    if parquet is not None:
        found.to_parquet(parquet, overwrite=overwrite)
        _say(f"Tables are in {parquet}.")


def _parts(found: Any) -> list[Any]:
    return list(found.parts.values()) if hasattr(found, "parts") else [found]


def _table(part: Any) -> str:
    from .plot.tokens import visible

    if part.kind == "massive.scan":
        title, frame = "Massive activations, strongest first", part.to_frame("findings").head(20)
        if frame.empty:
            return f"{title}\nnone\n"
        frame["token"] = [visible(str(token)) for token in frame["token"]]
    else:
        title, heads = "Strongest sink heads (attention to the first token)", part.to_frame("heads")
        heads = heads[heads["key"] == 0].sort_values("value", ascending=False).head(20)
        frame = heads.drop(columns="key")
    return f"{title}\n{frame.to_string(index=False, float_format=lambda v: f'{v:,.4g}')}\n"


def _sentences(found: Any) -> str:
    from .reporting.sections import leads

    return "\n".join(leads(part) for part in _parts(found))


def _warn(found: Any) -> None:
    """What was skipped is said, once where several scans skipped the same."""
    notes = [note for part in _parts(found) for note in part.provenance.get("notes", [])]
    for note in dict.fromkeys(note for note in notes if " skipped: " in note):
        _say(f"lensprobe: {note}.")


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _errors(context: typer.Context, debug: bool) -> Iterator[None]:
    """One line on standard error instead of a traceback, and the exit code that goes with it."""
    debug = debug or bool((context.obj or {}).get("debug"))
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        _say(_line(stop) if isinstance(stop, Interrupted) else "lensprobe: interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            raise
        hint = "" if isinstance(error, LensprobeError) else " (--debug shows where)"
        _say(_line(error) + hint)
        raise typer.Exit(1) from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # The one argument that errors tell users to pass, as it is spelled here.
    text = text.replace("pass overwrite=True", "pass --overwrite")
    return f"lensprobe: {text}"


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    sys.exit(main())
