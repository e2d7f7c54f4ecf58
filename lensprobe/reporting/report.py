"""Both scans of one model on one set of texts, as one result and one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from ..errors import ArgumentError, Interrupted, nearest
from ..results import Result, Shown
from ..texts import TITLE, default_texts

if TYPE_CHECKING:
    from ..costs import Plan
    from ..massive import MassiveScan
    from ..settings import OnError, Progress
    from ..sinks import SinkScan
    from .gallery import Gallery

__all__ = ["Report", "report"]

OWN = ("notes", "complete")
"""Facts of the parts that the report words itself."""


@dataclass(frozen=True, repr=False, eq=False)
class Report(Result):
    """Where a model's massive activations are and which of its heads are attention sinks.

    Attributes:
        massive: the scan of the residual stream.
        sinks: the scan of the attention patterns; None when the run was stopped before it.
    """

    kind: ClassVar[str] = "report"

    massive: MassiveScan
    sinks: SinkScan | None

    @property
    def parts(self) -> dict[str, Result]:
        """The results this report is made of, by name."""
        given = {"massive": self.massive, "sinks": self.sinks}
        return {name: part for name, part in given.items() if part is not None}

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables of the parts, such as "massive.findings"; the first is the default."""
        names = [f"{part}.{name}" for part, result in self.parts.items() for name in result.tables]
        return tuple(sorted(names, key=lambda name: name != "massive.findings"))

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A tidy copy of one part's table; the default lists the massive activations.

        Raises:
            ArgumentError: the report has no table of that name.
        """
        names = self.tables
        name = names[0] if table is None else table
        if name not in names:
            raise ArgumentError(
                f"table={table!r}: this report has the tables "
                f"{', '.join(names)}.{nearest(name, names)}"
            )
        part, _, inner = name.partition(".")
        return self.parts[part].to_frame(inner)

    def summary(self) -> dict[str, float | int | str | bool]:
        """The scalars of the parts, each under its part's name: `sinks_sink_rate`."""
        merged: dict[str, float | int | str | bool] = {**super().summary()}
        for name, part in self.parts.items():
            merged |= {f"{name}_{key}": v for key, v in part.summary().items() if key != "model"}
        return merged

    def cite(self) -> str:
        """BibTeX of the papers whose definitions the parts follow, each once."""
        entries = [entry for part in self.parts.values() for entry in part.citations]
        return "\n\n".join(dict.fromkeys(entries))


def report(
    model: Any,
    texts: Any = None,
    *,
    bos: Any = "auto",
    column: str | None = None,
    limit: int | None = None,
    length: int | None = None,
    keys: int = 4,
    batch_tokens: int | None = None,
    on_error: OnError | None = None,
    more: Any = (),
    progress: Progress | None = None,
    dry_run: bool | None = None,
) -> Report | Gallery | Plan:
    """Scan a model for massive activations and attention sinks, ready for `.to_html(path)`.

    Args:
        model: a model from `lp.load`, or a `TransformerBridge` or `HookedTransformer` of your own. Of
            several (a list of names, folders or saved reports, or a mapping of labels to those or to
            models) the report is a `Gallery`: their scans side by side, then each. Named models are
            loaded one at a time; one that fails is told and left out.
        texts: what both scans take: strings, a file, a dataset. None is the short text that ships
            with lensprobe.
        bos: "auto" (the model's own habit), True or False: whether position 0 is a BOS token.
        column: the column of a dataset that holds the text.
        limit: read at most this many documents.
        length: longest window in tokens; longer texts are split and the report says so. None is what
            each scan takes for itself: up to 1,024 for massive activations, 64 for sinks.
        keys: how many of the first key positions the sink scan looks at.
        batch_tokens: most tokens in one forward pass.
        on_error: "raise" (what None is, unless `lp.options` says otherwise) or "skip" at a record that
            cannot be read, which is then counted and named in the notes.
        more: further results to be sections of the same page, such as
            `lp.interpolation.surprise(...)` or `lp.mnist.study(...)`: one, a list, or a mapping of
            headings to results or to the files they were saved to. The report is then a `Gallery`.
        progress: True, False, None for a bar only when it takes long, "json" for lines of JSON.
        dry_run: True to return the `Plan` of both scans instead of running them.

    Raises:
        ArgumentError: several models and `dry_run`; in `more` something that is no result.
        OutputError: in `more` a file that holds no result.
        Interrupted: Ctrl-C; `partial` is the report over what was finished, or None.

    Examples:
        >>> found = lp.report(model, "The cat sat on the mat.")
        >>> facts = found.summary()
        >>> facts["massive_dim"], facts["massive_layer"], facts["sinks_strongest_head"]
        (447, 1, 'L2H1')
    """
    # Here, so that a saved report opens and draws without waiting for torch.
    from .. import massive, sinks
    from ..settings import current

    further = _further(more)
    source = TITLE if texts is None else ""
    texts = default_texts() if texts is None else _again(texts, limit)
    shared = {
        "bos": bos,
        "column": column,
        "limit": limit,
        "length": length,
        "batch_tokens": batch_tokens,
        "on_error": on_error,
        "progress": progress,
    }
    if isinstance(model, Mapping | list | tuple):
        if current("dry_run", dry_run):
            raise ArgumentError("dry_run=True: the plan of one model at a time, please.")
        from .several import several

        found = several(model, lambda one: _both(one, texts, keys, shared, source))
        return _beside(found.results, further, found.title) if further else found
    if current("dry_run", dry_run):
        plans = (
            massive.scan(model, texts, dry_run=True, **shared),
            sinks.scan(model, texts, keys=keys, dry_run=True, **shared),
        )
        return _planned(*plans)
    found = _both(model, texts, keys, shared, source)
    return _beside({found.provenance["model"]: found}, further, "Report") if further else found


def _further(more: Any) -> dict[str, Shown]:
    """The further results by name, opened before anything is read."""
    from .gallery import gallery

    return dict(gallery(more).results) if isinstance(more, Result) or more else {}


def _beside(scans: Mapping[str, Shown], further: Mapping[str, Shown], title: str) -> Gallery:
    from .gallery import free, gallery

    named = dict(scans)
    for name, result in further.items():
        named[free(name, named)] = result
    return gallery(named, title=title)


def _both(model: Any, texts: Any, keys: int, shared: dict[str, Any], source: str) -> Report:
    """One scan after the other."""
    from .. import massive, sinks

    first: Any = None
    try:
        first = massive.scan(model, texts, dry_run=False, **shared)
        second: Any = sinks.scan(model, texts, keys=keys, dry_run=False, **shared)
    except Interrupted as stop:
        parts = (stop.partial, None) if first is None else (first, stop.partial)
        raise Interrupted(str(stop), joined(*parts, source)) from None
    return Report(_facts(first, second, source), first, second)


def _planned(first: Any, second: Any) -> Plan:
    """One after the other: times add up, memory does not."""
    costs = first.costs.copy()
    for name in ("passes", "seconds"):
        costs[name] += second.costs[name]
    costs["memory"] = max(first.memory, second.memory)
    from ..costs import Plan

    return Plan(provenance=first.provenance, costs=costs)


def _again(texts: Any, limit: int | None) -> Any:
    """Both scans read the texts, so what can be read only once is kept."""
    return list(islice(texts, limit)) if isinstance(texts, Iterator) else texts


def joined(massive: Any, sinks: Any, source: str) -> Report | None:
    """A report of finished scans; None where not even the first of them has anything."""
    return None if massive is None else Report(_facts(massive, sinks, source), massive, sinks)


def _facts(massive: Any, sinks: Any, source: str) -> dict[str, Any]:
    """Provenance of both scans; what they share is told once."""
    parts = {"massive": massive.provenance, "sinks": sinks.provenance if sinks else {}}
    shared = {
        key: value
        for key, value in massive.provenance.items()
        if key != "notes" and (sinks is None or sinks.provenance.get(key) == value)
    }
    facts: dict[str, Any] = {**shared, **({"texts": source} if source else {})}
    facts["complete"] = all(given.get("complete", False) for given in parts.values())
    facts["notes"] = [
        f"{name}: {n}" for name, given in parts.items() for n in given.get("notes", [])
    ]
    for name, given in parts.items():
        facts[name] = {k: v for k, v in given.items() if k not in shared and k not in OWN}
    return facts
