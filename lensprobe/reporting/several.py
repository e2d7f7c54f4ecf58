"""A report of several models: their scans side by side, then each of them."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from ..comparing.compare import compared
from ..comparing.over import listed
from ..errors import ArgumentError, Interrupted, ModelError
from ..models.turns import used
from ..results import Result, open_result
from .gallery import Gallery, free, gallery
from .report import Report
from .words import TITLES

__all__ = ["several"]

TITLE = "Massive activations and attention sinks"


def several(models: Any, make: Callable[[Any], Report]) -> Gallery:
    """Both scans of each model, side by side where two or more went well.

    Args:
        models: what `lp.over` takes, saved reports, or reports; a mapping gives them names.
        make: the report of a model.

    Raises:
        ArgumentError: nothing that names a model, or a saved result that is no report.
        ModelError: none of them could be read; what was wrong with each.
        Interrupted: Ctrl-C; `.partial` is the gallery of the models that were finished, or None.
    """
    reports: dict[str, Report] = {}
    failed: dict[str, tuple[str, str]] = {}
    names = listed(_labelled(models))
    for label, given in names.items():
        saved = _saved(given)
        if saved is not None:
            reports[label] = _checked(label, saved)
            continue
        try:
            reports[label] = used(given, make)
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"interrupted after {len(reports)} of {len(names)} models.",
                _joined(reports, failed) if reports else None,
            ) from stop
        except Exception as error:
            failed[label] = (str(given), f"{type(error).__name__}: {error}")
    if not reports:
        raise ModelError("; ".join(f"{label}: {error}" for label, (_, error) in failed.items()))
    return _joined(reports, failed)


def _joined(reports: dict[str, Report], failed: dict[str, tuple[str, str]]) -> Gallery:
    """The reports, their comparisons in front."""
    shown: dict[str, Result] = {}
    for part in ("massive", "sinks"):
        parts = {
            label: found.parts[part] for label, found in reports.items() if part in found.parts
        }
        if len(parts) + len(failed) > 1 and parts:
            both = compared(parts, table=None, seed=None, failed=failed)
            _warn(both.provenance["notes"])
            shown[f"{TITLES[next(iter(parts.values())).kind]}, side by side"] = both
    return gallery({**shown, **reports}, title=TITLE)


def _labelled(models: Any) -> Any:
    """Reports in a list go by the name of their model."""
    if isinstance(models, Mapping):
        return models
    if not any(isinstance(one, Report) for one in models):
        return models
    found: dict[str, Any] = {}
    for one in models:
        report = isinstance(one, Report)
        name = str(one.provenance.get("model", "?")) if report else os.fspath(one)
        found[free(name, found) if report else name] = one
    return found


def _saved(given: Any) -> Any:
    """What was saved under this name; None where it names a model."""
    if isinstance(given, Result):
        return given
    if isinstance(given, str) and os.path.isfile(given) and zipfile.is_zipfile(given):
        return open_result(given)
    return None


def _checked(label: str, found: Any) -> Report:
    if not isinstance(found, Report):
        raise ArgumentError(
            f"model: {label!r} is a {type(found).__name__}, not a report; "
            "lp.compare and lp.gallery take any result."
        )
    return found


def _warn(notes: list[str]) -> None:
    told = [note for note in notes if " differs: " in note]
    if told:
        warnings.warn(" ".join(told), UserWarning, stacklevel=4)
