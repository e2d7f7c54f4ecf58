"""IDX, the format of MNIST's four files: big-endian header, then one byte a number."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from ..errors import ArgumentError

__all__ = ["read_folder"]

KINDS = {2051: "images", 2049: "labels"}
"""Magic numbers: unsigned bytes (0x08) in three dimensions, or in one."""
PLACES = (".", "MNIST/raw", "raw")
"""Where the files lie in a folder: flat, or as torchvision keeps them."""
SPLITS = {"train": "train", "test": "t10k"}


def read_folder(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels; uint8 `[images height width]`, `[images]`.

    Raises:
        ArgumentError: a file is missing, truncated, swapped with another, or does not match it.
    """
    parts: list[np.ndarray] = []
    for split in SPLITS.values():
        images = _read(_find(folder, split, "images", 3), "images")
        labels = _read(_find(folder, split, "labels", 1), "labels")
        if len(images) != len(labels):
            raise ArgumentError(
                f"source={str(folder)!r}: {len(images)} {split} images and {len(labels)} labels."
            )
        parts += [images, labels]
    if parts[0].shape[1:] != parts[2].shape[1:]:
        raise ArgumentError(
            f"source={str(folder)!r}: training images are {parts[0].shape[1:]}, "
            f"test images {parts[2].shape[1:]}."
        )
    return parts[0], parts[1], parts[2], parts[3]


def _find(folder: Path, split: str, kind: str, dims: int) -> Path:
    names = [f"{split}-{kind}{dash}idx{dims}-ubyte" for dash in ("-", ".")]
    for place in PLACES:
        for name in (*names, *(f"{name}.gz" for name in names)):
            if (folder / place / name).is_file():
                return folder / place / name
    raise ArgumentError(
        f"source={str(folder)!r}: there is no {names[0]} (or {names[0]}.gz) in it, "
        "nor in MNIST/raw below it."
    )


def _read(path: Path, kind: str) -> np.ndarray:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise ArgumentError(f"{str(path)!r} is truncated or damaged ({error}).") from error
    if len(data) < 8:
        raise ArgumentError(f"{str(path)!r} is truncated: it has no whole header.")
    (magic,) = struct.unpack(">I", data[:4])
    found = KINDS.get(magic)
    if found != kind:
        what = f"it holds {found}" if found else f"its magic number is {magic}"
        raise ArgumentError(f"{str(path)!r} should hold {kind}; {what}.")
    dims = 3 if kind == "images" else 1
    begin = 4 + 4 * dims
    if len(data) < begin:
        raise ArgumentError(f"{str(path)!r} is truncated: it has no whole header.")
    shape = struct.unpack(f">{dims}I", data[4:begin])
    size, said = len(data) - begin, int(np.prod(shape, dtype=np.int64))
    if size != said:
        why = "it is truncated" if size < said else "there is more behind them"
        raise ArgumentError(f"{str(path)!r} says {said} numbers and holds {size}: {why}.")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
