"""The value every analysis returns: tables and arrays with the facts needed to trust them later.

A result never holds a live model, a graph or a torch tensor. It prints itself as a small table, gives
tidy DataFrames, and saves to one zip file (JSON, `.npy` and Parquet inside) that is read back without
ever unpickling anything.
"""

from __future__ import annotations

import dataclasses
import html
import importlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from .errors import ArgumentError, OutputError, nearest
from .parquet import as_plain, write_folder
from .small_table import small_table

__all__ = ["Result", "Shown", "open_result", "writable", "writing"]

FORMAT = 1
ROOMS = (
    "costs",
    "running",
    "massive",
    "sinks",
    "steering",
    "interpolation",
    "mnist",
    "comparing",
    "explore",
    "reporting",
)
"""Where result types are defined."""
VECTORS = (".safetensors", ".gguf")
"""Files that hold steering vectors."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
_KINDS: dict[str, type[Result]] = {}
R = TypeVar("R", bound="Result")


class Shown:
    """What results and steering vectors share: how they print, plot and cite themselves."""

    kind: ClassVar[str] = ""
    """Names the type in saved files and finds its figures in `lensprobe.plot`."""
    citations: ClassVar[tuple[str, ...]] = ()
    """BibTeX entries of the papers whose definitions the numbers follow."""
    provenance: dict[str, Any]
    """Where the numbers come from: model, revision, dtype, BOS policy, site, seed, versions, counts."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names that `to_frame(table)` takes; the first is the default."""
        return ()

    def summary(self) -> dict[str, float | int | str | bool]:
        """Flat scalars for an experiment tracker or a printed line."""
        return {"model": str(self.provenance.get("model", "?"))}

    def cite(self) -> str:
        """BibTeX of the papers whose definitions this result follows."""
        return "\n\n".join(self.citations)

    @property
    def plot(self) -> Any:
        """Call it for the default figure; its attributes are the other views (`.plot.heads()`)."""
        return importlib.import_module("lensprobe.plot").views(self)

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A tidy copy of one table, one row an observation. `table=None` is the first of `.tables`.

        Raises:
            ArgumentError: there is no table of that name.
        """
        raise ArgumentError(f"table={table!r}: there are no tables.")

    def to_parquet(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write every table as a Parquet file of its name, and the provenance as `provenance.json`.

        For pandas, Polars, DuckDB and their like; `.save` is for `lp.open`.

        Args:
            folder: made if it is not there.
            overwrite: replace files that are there already.

        Raises:
            OutputError: one of the files exists (and `overwrite` is false) or cannot be written.
        """
        tables = {name: self.to_frame(name) for name in self.tables}
        return write_folder(folder, tables, self.provenance, overwrite=overwrite)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        js: str = "inline",
        theme: str = "auto",
        overwrite: bool = False,
    ) -> Path:
        """Write one self-contained page: the figures with what they show, the tables, the provenance.

        Args:
            path: the HTML file to write. It appears only when it is complete.
            js: "inline" puts plotly.js into the page (about 5 MB, opens anywhere, asks no host for
                anything), "directory" writes it once beside the page, "cdn" loads it from plotly.
            theme: "auto" follows the reader's system, with a switch on the page; or "light", "dark".
            overwrite: replace a file that is there already.

        Raises:
            ArgumentError: an unknown `js` or `theme`.
            OutputError: the file exists (and `overwrite` is false) or cannot be written.
        """
        page = importlib.import_module("lensprobe.reporting.page")
        return page.write(self, path, js=js, theme=theme, overwrite=overwrite)

    def to_image(
        self,
        path: str | os.PathLike[str],
        *,
        view: str | None = None,
        theme: str = "paper",
        width_mm: float = 85,
        title: str | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> Path:
        """Write one figure at its printed size: `.png`, `.svg`, `.pdf`, `.jpg` or `.webp`.

        Needs `pip install "lensprobe[image]"` and a Chromium or Chrome, which draws it.

        Args:
            path: the file to write; its ending says what it is.
            view: one of `.plot.names`; None is the default one.
            theme: "paper" (black on white, small letters), "light" or "dark".
            width_mm: printed width; 85 is a column of two, 170 a page.
            title: None leaves it out in "paper", where a caption stands below; else the figure's own.
            overwrite: replace a file that is there already.
            **options: of that view.

        Raises:
            ArgumentError: an unknown ending, view, theme or option; a figure with nothing in it.
            OutputError: the file exists (and `overwrite` is false) or cannot be written, or kaleido
                or a browser is missing.
        """
        image = importlib.import_module("lensprobe.plot.image")
        return image.write(
            self,
            path,
            view=view,
            theme=theme,
            width_mm=width_mm,
            title=title,
            overwrite=overwrite,
            options=options,
        )

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={_short(value)}" for key, value in self.summary().items())
        return f"{type(self).__name__}({facts})"

    def _repr_html_(self) -> str:
        """A small calm table; inherits the notebook's colours, so it reads in light and dark."""
        rows = [(str(key), _short(value)) for key, value in self.summary().items()]
        tables = html.escape(", ".join(self.tables))
        below = f"<p><small>tables: {tables}</small></p>" if tables else ""
        return small_table(rows, type(self).__name__) + below


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Result(Shown):
    """Base of every result. Subclasses are frozen dataclasses with DataFrame, array and JSON fields."""

    provenance: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            _KINDS[cls.kind] = cls

    @property
    def tables(self) -> tuple[str, ...]:
        """Names that `to_frame(table)` takes; the first is the default."""
        return tuple(
            f.name
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), pd.DataFrame)
        )

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A tidy copy of one table, one row an observation. `table=None` is the first of `.tables`.

        Raises:
            ArgumentError: the result has no table of that name.
        """
        names = self.tables
        name = names[0] if table is None else table
        if name not in names:
            raise ArgumentError(
                f"table={table!r}: this result has the tables {', '.join(names)}.{nearest(name, names)}"
            )
        return getattr(self, name).copy()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write everything to one file that `lp.open` reads back.

        Raises:
            OutputError: the file exists (and `overwrite` is false) or cannot be written.
        """
        with writing(path, overwrite=overwrite) as handle:
            self._pack(handle)
        return Path(path)

    def _pack(self, target: Any) -> None:
        """Write the zip file into an open binary file. A result inside a result is a zip inside it."""
        with zipfile.ZipFile(target, "w", compression=zipfile.ZIP_DEFLATED) as archive:
            plain: dict[str, Any] = {}
            for field in dataclasses.fields(self):
                value = getattr(self, field.name)
                buffer = io.BytesIO()
                if isinstance(value, pd.DataFrame):
                    archive.writestr(f"{field.name}.parquet", value.to_parquet(index=False))
                elif isinstance(value, np.ndarray):
                    np.save(buffer, value, allow_pickle=False)
                    archive.writestr(f"{field.name}.npy", buffer.getvalue())
                elif isinstance(value, Result):
                    value._pack(buffer)
                    archive.writestr(f"{field.name}.zip", buffer.getvalue())
                else:
                    plain[field.name] = value
            header = {"format": FORMAT, "kind": self.kind, "fields": plain}
            archive.writestr("result.json", json.dumps(header, indent=1, default=as_plain))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def open_result(path: str | os.PathLike[str]) -> Any:
    """Read what `.save` wrote. Exposed as `lp.open`.

    Args:
        path: the file; or the folder that a scan was given as `out`.

    Returns:
        The `Result`; of a `.safetensors` or `.gguf` file the `SteeringVector` or `SteeringVectors`.

    Raises:
        OutputError: no such file, a damaged one, or one that lensprobe did not write. Pickles
            (`.pt`, `.bin`, `.pkl` and their like) are refused: reading one runs what it holds.

    Examples:
        >>> path = lp.massive.scan(model, "The cat sat on the mat.").save("scan.zip")
        >>> lp.open(path).strongest.dim
        447
    """
    if Path(path).is_dir():
        path = _finished(Path(path))
    suffix = Path(path).suffix.lower()
    if suffix in VECTORS:
        return importlib.import_module("lensprobe.steering.files").read(path)
    if suffix in PICKLES:
        raise OutputError(
            f"path={str(path)!r}: a {suffix} file is a pickle, which runs what it holds when it is "
            "read; save the tensors as .safetensors instead."
        )
    try:
        return _unpack(path, path)
    except FileNotFoundError as error:
        raise OutputError(f"path={str(path)!r}: no such file.") from error
    except OutputError:
        raise
    except Exception as error:
        # Damage can surface anywhere in the zip, JSON, npy and Parquet readers.
        raise OutputError(
            f"path={str(path)!r} is not a result saved by lensprobe, or is damaged ({error})."
        ) from error


def _finished(folder: Path) -> Path:
    """The result in the folder of a scan."""
    keeping = importlib.import_module("lensprobe.shards.keeping")
    names = (keeping.RESULT, keeping.VECTORS)
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        count = len(list(folder.rglob("shard-*.npz")))
        raise OutputError(
            f"path={str(folder)!r}: a folder with {count} finished shards and no result yet; "
            "make the call that began it once more, and it goes on there."
        )
    return file


def _unpack(source: Any, path: str | os.PathLike[str]) -> Result:
    with zipfile.ZipFile(source) as archive:
        header = json.loads(archive.read("result.json"))
        cls = _known(header, path)
        values: dict[str, Any] = dict(header["fields"])
        for name in archive.namelist():
            stem, _, suffix = name.rpartition(".")
            if suffix == "parquet":
                values[stem] = pd.read_parquet(io.BytesIO(archive.read(name)))
            elif suffix == "npy":
                values[stem] = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
            elif suffix == "zip":
                values[stem] = _unpack(io.BytesIO(archive.read(name)), path)
    return cls(**values)


def _known(header: dict[str, Any], path: str | os.PathLike[str]) -> type[Result]:
    # Result types register themselves on import, and `lensprobe` imports its rooms only when they
    # are used: every room that defines one is imported first.
    for room in ROOMS:
        importlib.import_module(f"lensprobe.{room}")
    if header["format"] > FORMAT or header["kind"] not in _KINDS:
        raise OutputError(
            f"path={str(path)!r} holds a {header['kind']!r} result in format {header['format']}; this "
            f"version of lensprobe reads format {FORMAT} and the kinds {', '.join(sorted(_KINDS))}."
        )
    return _KINDS[header["kind"]]


def writable(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """The path, if a file may appear there: asked before an hour of work, not after it.

    Raises:
        OutputError: the target exists (and `overwrite` is false), or its folder cannot take it.
    """
    try:
        # Through links: what a link points to is replaced, never the link.
        target = Path(path).resolve()
        special = target.exists() and not target.is_file()
    except (OSError, ValueError) as error:
        raise OutputError(f"path={str(path)!r} is no name for a file ({error}).") from error
    if target.is_dir():
        raise OutputError(f"path={str(path)!r} is a folder; name a file.")
    if special:
        # A device or a pipe would be renamed away, as root even /dev/null.
        raise OutputError(f"path={str(path)!r} is not an ordinary file and is left alone.")
    if target.exists() and not overwrite:
        raise OutputError(f"path={str(path)!r} exists already; pass overwrite=True to replace it.")
    if not target.parent.is_dir():
        raise OutputError(
            f"path={str(path)!r} cannot be written: there is no folder {str(target.parent)!r}."
        )
    if not os.access(target.parent, os.W_OK):
        raise OutputError(
            f"path={str(path)!r} cannot be written: {str(target.parent)!r} is read-only."
        )
    return target


@contextmanager
def writing(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Any]:
    """A binary file that appears under its name only when it is complete.

    Raises:
        OutputError: the target exists (and `overwrite` is false) or its folder cannot be written.
    """
    target = writable(path, overwrite=overwrite)
    try:
        number, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.", suffix=".part"
        )
    except OSError as error:
        raise OutputError(
            f"path={str(path)!r} cannot be written: {error.strerror or error}."
        ) from error
    try:
        with os.fdopen(number, "wb") as handle:
            yield handle
        # mkstemp makes private files; give the result the permissions of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except OSError as error:
        raise OutputError(
            f"path={str(path)!r} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)
