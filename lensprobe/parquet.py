"""Tables as a folder of Parquet files, which every data tool reads, and their provenance as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import OutputError

__all__ = ["as_plain", "free", "read_folder", "write_folder"]

PROVENANCE = "provenance.json"


def write_folder(
    folder: str | os.PathLike[str],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, Any],
    *,
    overwrite: bool,
    narrow: bool = False,
) -> Path:
    """One Parquet file a table and the provenance as JSON, which is written last.

    Args:
        folder: made if it is not there.
        tables: by name; an empty one is a file too.
        provenance: JSON values; of others what `as_plain` makes of them.
        overwrite: replace files that are there already.
        narrow: keep long tables in float32, which is enough to draw their figures again.

    Raises:
        OutputError: one of the files is there and `overwrite` is false, or it cannot be written.
    """
    path = free(folder, tuple(tables), overwrite=overwrite)
    files = {path / f"{name}.parquet": frame for name, frame in tables.items()}
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A folder without it is not whole.
        (path / PROVENANCE).unlink(missing_ok=True)
        for file, frame in files.items():
            kept = _narrow(frame) if narrow else frame
            kept.to_parquet(file, index=False, compression="zstd")
        text = json.dumps(provenance, indent=1, default=as_plain, ensure_ascii=False)
        (path / PROVENANCE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"folder={str(path)!r} cannot be written: {error}.") from error
    return path


def free(folder: str | os.PathLike[str], tables: tuple[str, ...] = (), *, overwrite: bool) -> Path:
    """The folder, if tables of these names may be written there: asked before an hour of work.

    Raises:
        OutputError: it holds such a file (and `overwrite` is false), or is none itself.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise OutputError(f"folder={str(path)!r} cannot be written: it is a file.")
    files = (*(f"{name}.parquet" for name in tables), PROVENANCE)
    there = [name for name in files if (path / name).exists()]
    if there and not overwrite:
        raise OutputError(
            f"folder={str(path)!r} holds a result ({there[0]}); pass overwrite=True to replace it."
        )
    return path


def as_plain(value: Any) -> Any:
    """Provenance may hold numbers of numpy's and paths; in a file they are plain."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _narrow(frame: pd.DataFrame) -> pd.DataFrame:
    """Half the bytes, where that is worth it."""
    if len(frame) < 5_000:
        return frame
    wide = [name for name in frame if frame[name].dtype == "float64"]
    return frame.astype(dict.fromkeys(wide, "float32"))


def read_folder(
    folder: str | os.PathLike[str], tables: tuple[str, ...]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """What `write_folder` wrote: tables and provenance.

    Raises:
        OutputError: no such result, or one that is not whole.
    """
    path = Path(folder)
    try:
        provenance = json.loads((path / PROVENANCE).read_text("utf-8"))
        frames = {name: pd.read_parquet(path / f"{name}.parquet") for name in tables}
    except (OSError, ValueError) as error:
        raise OutputError(
            f"folder={str(path)!r} holds no result that can be read ({error})."
        ) from error
    return frames, provenance
