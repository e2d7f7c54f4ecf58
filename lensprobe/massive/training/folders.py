"""A result as a folder of small Parquet files, for a repository that keeps what a long run found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import OutputError

__all__ = ["read_folder", "write_folder"]

PROVENANCE = "provenance.json"


def write_folder(
    folder: str | os.PathLike[str],
    tables: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Path:
    """One Parquet file a table and the provenance as JSON. Long tables are kept in float32.

    Raises:
        OutputError: the folder holds a result and `overwrite` is false, or it cannot be written.
    """
    path = Path(folder)
    if (path / PROVENANCE).exists() and not overwrite:
        raise OutputError(
            f"folder={str(path)!r} holds a result; pass overwrite=True to replace it."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, frame in tables.items():
            _slim(frame).to_parquet(path / f"{name}.parquet", index=False, compression="zstd")
        text = json.dumps(provenance, indent=1, default=str, ensure_ascii=False)
        (path / PROVENANCE).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"folder={str(path)!r} cannot be written: {error}.") from error
    return path


def _slim(frame: pd.DataFrame) -> pd.DataFrame:
    """Half the bytes for tables of which only the figures need to be drawn again."""
    if len(frame) < 5_000:
        return frame
    narrow = {name: "float32" for name in frame if frame[name].dtype == "float64"}
    return frame.astype(narrow)


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
