"""One analysis over several models, each loaded in its turn."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, Interrupted, nearest
from ..models.turns import used
from ..results import Result
from ..running.batching import progress_bar
from ..settings import checked_seed
from ..texts import default_texts
from .compare import compared
from .result import Comparison

__all__ = ["listed", "over"]


def over(
    models: Any,
    analysis: Callable[..., Any],
    texts: Any = None,
    *,
    table: str | None = None,
    device: Any = None,
    dtype: Any = "auto",
    seed: int | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Comparison:
    """Load one model after another, run an analysis on each, let it go, and compare the results.

    A model that cannot be loaded or analysed becomes a row of `models` with its error.

    Args:
        models: names, folders or files as `lp.load` takes them, a hub id with its revision as
            "name@revision"; or a mapping of labels to those or to models in memory. The first is
            what the others are compared with.
        analysis: a function of a model and texts that returns a result, as `lp.massive.scan`.
        texts: handed to the analysis; what can be read only once is kept. None is the short text
            that ships with lensprobe.
        table: which of the result's tables is compared, as in `lp.compare`.
        device: as in `lp.load`.
        dtype: as in `lp.load`.
        seed: handed to the analysis if it takes one, and that of the bootstrap.
        progress: True, False, or None for a bar when it takes long.
        **options: handed to the analysis.

    Raises:
        ArgumentError: no models, or something that names none; an `analysis` that is no function or
            takes no such option; a table that its result does not have.
        Interrupted: Ctrl-C; `.partial` holds the models that were finished.

    Examples:
        >>> found = lp.over({"one": model, "two": model}, lp.massive.scan, "The cat sat.")
        >>> found.models[["model", "dim", "layer"]].values.tolist()
        [['one', 447, 1], ['two', 447, 1]]
    """
    names = listed(models)
    checked_seed(seed)
    options = _options(analysis, options, seed)
    if texts is None:
        texts = default_texts()
    elif isinstance(texts, Iterable) and not hasattr(texts, "__len__"):
        texts = list(texts)
    turns = _Turns(analysis, texts, options, table, seed)
    with progress_bar("model", progress, total=len(names)) as bar:
        for label, name in names.items():
            bar.set_postfix_str(label)
            try:
                turns.take(label, name, device, dtype)
            except KeyboardInterrupt as interrupt:
                raise Interrupted(
                    f"interrupted after {turns.done} of {len(names)} models.",
                    partial=turns.result(complete=False),
                ) from interrupt
            bar.update(1)
    return turns.result(complete=True)


class _Turns:
    """What the models so far have left: results and errors, no model."""

    def __init__(
        self,
        analysis: Callable[..., Any],
        texts: Any,
        options: Mapping[str, Any],
        table: str | None,
        seed: int | None,
    ) -> None:
        self.analysis = analysis
        self.texts = texts
        self.options = dict(options)
        self.table = table
        self.seed = seed
        self.given: dict[str, Result] = {}
        self.failed: dict[str, tuple[str, str]] = {}

    @property
    def done(self) -> int:
        return len(self.given) + len(self.failed)

    def take(self, label: str, name: Any, device: Any, dtype: Any) -> None:
        """One model's turn; whatever goes wrong with it is its row."""
        try:
            result = used(name, self._analysed, device=device, dtype=dtype)
        except KeyboardInterrupt:
            # An analysis that says what it had so far is an exception of both kinds.
            raise
        except Exception as error:
            source = name if isinstance(name, str) else type(name).__name__
            self.failed[label] = (source, f"{type(error).__name__}: {error}")
            return
        # A wrong analysis or table is the caller's mistake, and told with the first model.
        if not isinstance(result, Result):
            raise ArgumentError(f"analysis: it returned {type(result).__name__}, not a result.")
        if self.table is not None:
            result.to_frame(self.table)
        self.given[label] = result

    def _analysed(self, model: Any) -> Any:
        return self.analysis(model, self.texts, **self.options)

    def result(self, *, complete: bool) -> Comparison:
        """What there is by now."""
        return compared(
            self.given, table=self.table, seed=self.seed, failed=self.failed, complete=complete
        )


def listed(models: Any) -> dict[str, Any]:
    """Labels and what they stand for, in order.

    Raises:
        ArgumentError: nothing, or something without a name.
    """
    if isinstance(models, str | os.PathLike):
        models = [models]
    if isinstance(models, Mapping):
        pairs = [(label, name) for label, name in models.items()]
    elif isinstance(models, Iterable):
        pairs = [(None, name) for name in models]
    else:
        pairs = []
    if not pairs:
        raise ArgumentError("models: names or folders of models, at least one.")
    found: dict[str, Any] = {}
    for label, name in pairs:
        if isinstance(name, str | os.PathLike):
            name = os.fspath(name)
        elif label is None:
            raise ArgumentError(
                f"models: a {type(name).__name__} in memory needs a label, as {{'mine': model}}."
            )
        label = _label(name) if label is None else label
        if not isinstance(label, str) or not label.strip() or label in found:
            raise ArgumentError(f"models: the label {label!r} is no name of its own.")
        found[label] = name
    return found


def _label(name: str) -> str:
    """A folder goes by its last name, anything else by all of it."""
    return Path(name).name if Path(name).exists() else name


def _options(analysis: Any, options: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """The options that the analysis gets, if it takes them: told before any model is loaded."""
    if not callable(analysis):
        raise ArgumentError(
            f"analysis={analysis!r}: a function of a model and texts, such as lp.sinks.scan."
        )
    try:
        known = inspect.signature(analysis).parameters.values()
    except (TypeError, ValueError):
        return options
    named = [p.name for p in known if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return options
    for name in options:
        if name not in named:
            raise ArgumentError(
                f"over({name}=...): the analysis has the options {', '.join(named)}."
                f"{nearest(name, named)}"
            )
    return {**options, "seed": seed} if seed is not None and "seed" in named else options
