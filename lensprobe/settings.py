"""Defaults for the running options, set once instead of in every call.

>>> import lensprobe as lp
>>> with lp.options(progress=False, batch_tokens=4096):
...     lp.options()["batch_tokens"]
4096
"""

from __future__ import annotations

import operator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal

import numpy as np
from typing_extensions import Self

from .errors import ArgumentError, nearest

__all__ = ["OnError", "Progress", "checked_seed", "current", "drawn_seed", "options", "skips"]

Progress = bool | Literal["json"]
OnError = Literal["raise", "skip"]
ON_ERROR = ("raise", "skip")

DEFAULTS: dict[str, Any] = {
    "batch_tokens": 2048,
    "progress": None,
    "seed": None,
    "dry_run": False,
    "length": None,
    "chunk": None,
    "workers": 1,
    "engine": "local",
    "num_gpus": None,
    "on_error": "raise",
}
"""`None` means: decided by the call (progress shows itself when a call takes long, and so on)."""

_STATE: ContextVar[dict[str, Any]] = ContextVar("lensprobe_options", default=DEFAULTS)


class _Options(dict):
    """The options in force. As a context manager it puts the earlier ones back at the end."""

    def __init__(self, values: dict[str, Any], before: dict[str, Any]) -> None:
        super().__init__(values)
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _STATE.set(self._before)


def options(**values: Any) -> _Options:
    """Set running options for all later calls, or inside a `with` block only.

    Args:
        batch_tokens: most tokens (pads included) in one forward pass.
        progress: True, False, or None to show a bar only when a call takes long; "json" for a line of
            JSON on standard error about once a second instead, for other programs.
        seed: for whatever is sampled; None draws one and stores it in the result.
        dry_run: return the plan of a call instead of running it.
        length: longest window of a scan, in tokens.
        chunk: most new tokens in one pass over the cache; None is chosen from memory.
        workers: how many processes a scan reads with.
        engine: what starts them: "local", or "ray" for those of a Ray cluster.
        num_gpus: GPUs of each worker on Ray; None is as many as the model is on here.
        on_error: what happens at a record that cannot be read (a line that is no JSON, a field that is
            missing or no text, bytes that are not UTF-8, a damaged file): "raise", or "skip" it, count
            it and say in `.provenance["notes"]` where it was.

    Returns:
        The options in force, usable as a context manager.

    Raises:
        ArgumentError: an option of another name.

    Examples:
        >>> with lp.options(progress=False, batch_tokens=4096):
        ...     lp.options()["batch_tokens"]
        4096
    """
    for name in values:
        if name not in DEFAULTS:
            raise ArgumentError(
                f"options({name}=...): the options are {', '.join(DEFAULTS)}.{nearest(name, DEFAULTS)}"
            )
    before = _STATE.get()
    _STATE.set({**before, **values})
    return _Options(_STATE.get(), before)


def current(name: str, given: Any = None) -> Any:
    """What a call was given, or the option in force where it was given None."""
    return _STATE.get()[name] if given is None else given


def skips(on_error: Any = None) -> bool:
    """Whether a record that cannot be read is stepped over.

    Raises:
        ArgumentError: neither "raise" nor "skip".
    """
    value = current("on_error", on_error)
    if value not in ON_ERROR:
        raise ArgumentError(f"on_error={value!r}: {' or '.join(map(repr, ON_ERROR))}.")
    return value == "skip"


def checked_seed(given: Any = None) -> int | None:
    """The seed in force, as an int; NumPy's whole numbers count as such.

    Raises:
        ArgumentError: anything but a whole number from 0 on, or None.
    """
    seed = current("seed", given)
    if seed is None:
        return None
    try:
        whole = operator.index(seed)
    except TypeError:
        whole = -1
    if whole < 0 or isinstance(seed, bool):
        raise ArgumentError(f"seed={seed!r}: a whole number from 0 on, or None.")
    return whole


def drawn_seed(given: Any = None) -> int:
    """The seed in force, or where there is none a new one, for a result to store.

    Raises:
        ArgumentError: see `checked_seed`.
    """
    seed = checked_seed(given)
    return int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
