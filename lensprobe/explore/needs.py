"""The packages that widgets need and nothing else does."""

from __future__ import annotations

import importlib

from ..errors import MissingPackageError

__all__ = ["require_widgets"]

PACKAGES = ("ipywidgets", "anywidget")


def require_widgets(what: str) -> None:
    """Refuse where a package of the extra is missing.

    Raises:
        MissingPackageError: it is, and how to get it.
    """
    missing = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise MissingPackageError(
            f"{what} shows widgets, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'lensprobe[explore]'."
        )
