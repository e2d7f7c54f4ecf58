"""Images of digits: MNIST from its files or the hub, or the small ones that scikit-learn brings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import ArgumentError
from .idx import read_folder

__all__ = ["DigitsData", "load_digits_data"]

CLASSES = 10
HELD_OUT = 500
"""Of scikit-learn's 1,797 digits, how many from the end are the test set."""


@dataclass(frozen=True, eq=False)
class DigitsData:
    """Training and test images of digits, pixels between 0 and 1.

    Attributes:
        name: what results call it.
        images: float32 `[images pixels]`, for training.
        labels: int64 `[images]`.
        test_images: as `images`.
        test_labels: as `labels`.
        shape: height and width.
    """

    name: str
    images: Float[np.ndarray, "images pixels"]
    labels: Int[np.ndarray, " images"]
    test_images: Float[np.ndarray, "tests pixels"]
    test_labels: Int[np.ndarray, " tests"]
    shape: tuple[int, int]

    def of(self, digit: int) -> np.ndarray:
        """Indices of a digit's training images, in their order.

        Raises:
            ArgumentError: there is none.
        """
        found = np.flatnonzero(self.labels == digit)
        if not len(found):
            raise ArgumentError(f"digit {digit} does not occur in the training images.")
        return found

    def facts(self) -> dict[str, Any]:
        """What results store of the data."""
        return {
            "data": self.name,
            "images": len(self.images),
            "test_images": len(self.test_images),
            "shape": list(self.shape),
        }

    def __repr__(self) -> str:
        height, width = self.shape
        return (
            f"DigitsData({self.name}: {len(self.images):,} + {len(self.test_images):,} images of "
            f"{height}×{width})"
        )


def load_digits_data(source: Any = None, *, limit: int | None = None) -> DigitsData:
    """Digits to train and to test on.

    Args:
        source: None for scikit-learn's 8×8 digits, which need no file; a folder with MNIST's four IDX
            files, gzipped or not (flat or as torchvision keeps them); a hub id such as
            `"ylecun/mnist"` or a mapping with `"train"` and `"test"` (both need the package
            `datasets`), rows with an `image` and a `label`.
        limit: most training images, the first ones; the test images stay as they are.

    Raises:
        ArgumentError: no such folder, files that are missing, truncated, swapped or do not match,
            labels out of range, images of different sizes.

    Examples:
        >>> lp.mnist.load_digits_data()
        DigitsData(scikit-learn digits: 1,297 + 500 images of 8×8)
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ArgumentError(f"limit={limit!r}: a positive whole number, or None.")
    if source is None:
        return _checked(*_bundled(), limit)
    if isinstance(source, Mapping):
        return _checked("digits", *_rows(source), limit)
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(
            f"source={source!r}: None, a folder, a hub id, or a mapping with 'train' and 'test'."
        )
    if Path(source).is_dir():
        parts = read_folder(Path(source))
        return _checked("MNIST" if parts[0].shape[1:] == (28, 28) else "digits", *parts, limit)
    return _checked(str(source), *_rows(_from_hub(str(source))), limit)


def _bundled() -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    # Imported where it is used: it takes a second.
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    # Sixteen grey levels, brought to a byte as in MNIST. The last rows: they keep writers together.
    images = loaded.images / 16.0 * 255.0
    labels = loaded.target
    return (
        "scikit-learn digits",
        images[:-HELD_OUT],
        labels[:-HELD_OUT],
        images[-HELD_OUT:],
        labels[-HELD_OUT:],
    )


def _from_hub(name: str) -> Mapping[str, Any]:
    try:
        from datasets import load_dataset

        found: Any = load_dataset(name)
    except Exception as error:
        # Whatever the hub's client raises; there are dozens of classes for "not there".
        raise ArgumentError(
            f"source={name!r}: no such folder, and the hub did not give it ({error})."
        ) from error
    return found


def _rows(source: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        if split not in source:
            raise ArgumentError(
                f"source: it has {', '.join(source)}; 'train' and 'test' are needed."
            )
        rows = source[split]
        try:
            images = [np.asarray(image) for image in rows["image"]]
            labels = np.asarray(rows["label"])
        except (KeyError, TypeError) as error:
            raise ArgumentError(
                f"source: the rows of {split!r} need an image and a label."
            ) from error
        if len({image.shape for image in images}) != 1 or images[0].ndim != 2:
            raise ArgumentError(f"source: the images of {split!r} are not grey ones of one size.")
        parts += [np.stack(images), labels]
    return parts[0], parts[1], parts[2], parts[3]


def _checked(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    limit: int | None,
) -> DigitsData:
    """Pixels from 0 to 1 in rows, and labels that are digits."""
    for what, found in (("training", labels), ("test", test_labels)):
        whole = np.issubdtype(found.dtype, np.integer)
        if not len(found) or not whole or found.min() < 0 or found.max() >= CLASSES:
            odd = sorted(set(found.tolist()) - set(range(CLASSES)))[:3] if len(found) else "none"
            raise ArgumentError(f"source: {what} labels should be 0 to {CLASSES - 1}; found {odd}.")
    if images.shape[1:] != test_images.shape[1:]:
        raise ArgumentError(f"source: images of {images.shape[1:]} and {test_images.shape[1:]}.")
    height, width = images.shape[1:]
    return DigitsData(
        name,
        _scaled(images[:limit]),
        labels[:limit].astype(np.int64),
        _scaled(test_images),
        test_labels.astype(np.int64),
        (int(height), int(width)),
    )


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)
