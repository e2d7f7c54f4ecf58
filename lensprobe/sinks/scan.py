"""Find attention sinks in a corpus."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
from typing_extensions import Unpack, overload

from ..corpus import Corpus
from ..costs import Plan
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..planning import plan
from ..scanning import Scan
from ..settings import OnError, Progress, checked_seed, current
from ..shards.crew import Engine, Part
from ..shards.keeping import Keeper, keeper
from ..tokens import Bos
from .assembling import assembled
from .checks import EPSILONS, at_least_zero, checked_epsilons, checked_keys
from .corpora import made_up, named, wanted
from .long import Columns
from .reading import SinkReading
from .result import SinkScan

__all__ = ["scan"]

LENGTH = 64
"""The window of Gu et al., at which published sink rates are given."""


class _Options(TypedDict, total=False):
    """What `scan` takes whatever it returns: which of the three that is, `part` and `dry_run` say.

    An option that `lp.options` sets is not seen here.
    """

    keys: int
    epsilon: float | Sequence[float]
    conditions: str | Sequence[str]
    threshold: float
    ratio: float
    layers: int | Sequence[int] | Literal["all"]
    bos: Bos
    length: int | None
    limit: int | None
    column: str | None
    seed: int | None
    chunk: int | None
    batch_tokens: int | None
    out: str | os.PathLike[str] | None
    workers: int | None
    engine: Engine | None
    on_error: OnError | None
    progress: Progress | None


@overload
def scan(
    model: Any,
    texts: Any,
    *,
    part: None = None,
    dry_run: Literal[False] | None = None,
    **options: Unpack[_Options],
) -> SinkScan: ...
@overload
def scan(
    model: Any, texts: Any, *, dry_run: Literal[True], part: Any = None, **options: Unpack[_Options]
) -> Plan: ...
@overload
def scan(
    model: Any,
    texts: Any,
    *,
    part: Part,
    dry_run: Literal[False] | None = None,
    **options: Unpack[_Options],
) -> None: ...
@overload
def scan(
    model: Any,
    texts: Any,
    *,
    part: Part | None = None,
    dry_run: bool | None = None,
    **options: Unpack[_Options],
) -> SinkScan | Plan | None: ...
def scan(
    model: Any,
    texts: Any,
    *,
    keys: int = 4,
    epsilon: float | Sequence[float] = EPSILONS,
    conditions: str | Sequence[str] = (),
    threshold: float = 100.0,
    ratio: float = 1000.0,
    length: int | None = None,
    layers: int | Sequence[int] | Literal["all"] = "all",
    bos: Bos = "auto",
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    chunk: int | None = None,
    batch_tokens: int | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    part: Part | None = None,
    on_error: OnError | None = None,
    progress: Progress | None = None,
    dry_run: bool | None = None,
) -> SinkScan | Plan | None:
    """Attention to the first keys and the sink rate of Gu et al. (2410.10781, section 3).

    The attention of a head to key k in a sequence is the mean over queries t >= k (t = k included)
    of A[t, k]; the sink rate is the share of heads whose attention exceeds `epsilon`, averaged over
    sequences. Both fall as sequences get longer, so `length` is fixed and stored: longer texts are
    split into windows of that many tokens; shorter ones are kept, counted and noted. A sequence
    without a token k does not count for key k. Pads enter nothing. A query's entropy includes all
    its keys; query 0 has only itself and entropy 0.

    A sink may be spread over several positions, so the attention to all positions with a massive
    activation (Sun et al. 2402.17762, after any scanned layer) is summed too, and so is what later
    keys get: one that exceeds `epsilon` over at least 16 queries is a secondary sink. In models with
    a learned sink (gpt-oss) the rows of a pattern sum to less than one; what is missing is kept
    apart, and counts as one more outcome in the entropy.

    Args:
        model: a TransformerLens model.
        texts: text, token ids, chat messages, any iterable of those, a `datasets` dataset, or text,
            JSONL or Parquet files, compressed ones too; see `documents`. A mapping of names to any of
            these is read corpus by corpus: heads that rest on the first token in one of them and work
            in another show.
        keys: how many of the first keys.
        epsilon: least attention of a sink, exclusive. Of several, `sink_rate` in most tables goes by
            the first, and `rates` has them all.
        conditions: "random" (tokens drawn evenly from the vocabulary) and "repeated" (one such token
            again and again), read beside the texts at the same length and with the same BOS.
        threshold, ratio: of a massive activation: least magnitude, least multiple of the median.
        length: window in tokens, BOS included; None is 64, as in the paper.
        layers: which layers are read; layers above the last of them are not run.
        bos: whether windows begin with BOS; `"auto"` is what the model's own tokenizing does.
        limit: most documents that are read, of each corpus.
        column: which field of a record is the text; None is `text`.
        seed: of the random and repeated tokens; None draws one and stores it in the result.
        chunk: most tokens of each row in one pass over the cache; None is chosen from memory, so that
            no pattern of length x length is ever built.
        batch_tokens: most tokens in one forward pass, pads included.
        out: a folder for what is finished, as in `lp.massive.scan`; each corpus has its own inside.
            Random and repeated tokens then need a `seed`, so that a later call draws them again.
        workers, engine, part: who reads, and which share, as in `lp.massive.scan`.
        on_error: "raise" (what None is, unless `lp.options` says otherwise) or "skip" at a record that
            cannot be read; what was skipped, and where it was, is in `.provenance["notes"]`.
        progress: True, False, None for a bar when it takes long, "json" for lines of JSON.
        dry_run: True to return the `Plan` of the scan instead of running it.

    Returns:
        A `SinkScan`, or a `Plan`; None with `part`.

    Raises:
        ArgumentError: an argument out of range, no texts, an empty text, an unreadable file, a chunk
            for which memory would run out; `out` with conditions and no seed.
        HookPointError: the model has no attention patterns.
        ModelError: an encoder-decoder model.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` is the `SinkScan` of the finished batches.

    Examples:
        >>> scan = lp.sinks.scan(model, "The cat sat on the mat.")
        >>> scan.sink_rate(), scan.summary()["strongest_head"]
        (0.125, 'L2H1')
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.scan")
    chosen = adapter.layers(layers)
    extra, corpora = wanted(conditions), named(texts)
    given = checked_seed(seed)
    drawn = int(np.random.SeedSequence().generate_state(1)[0]) if given is None else given
    options = {"bos": bos, "length": length, "longest": LENGTH, "batch_tokens": batch_tokens}
    sources = {
        name: Corpus(adapter, source, limit=limit, column=column, on_error=on_error, **options)
        for name, source in corpora.items()
    }
    first = next(iter(sources.values()))
    reading = partial(
        SinkReading,
        layers=chosen,
        keys=checked_keys(keys, first.length),
        epsilons=checked_epsilons(epsilon),
        threshold=at_least_zero("threshold", threshold),
        ratio=at_least_zero("ratio", ratio),
    )
    made = reading(adapter)
    # Other processes do not know the options in force here.
    size = current("chunk", chunk)
    columns = partial(Columns, chunk=size)
    facts = {"chunk": size, "corpora": list(sources), "conditions": extra, "seed": given}
    kept = keeper(
        "sinks.scan",
        {**made.facts, **facts},
        reading,
        columns,
        out=out,
        workers=workers,
        engine=engine,
        part=part,
    )
    runs = _Runs(adapter, made, columns(adapter), sources, extra, drawn, options)
    if current("dry_run", dry_run):
        return runs.plan()
    if kept is None:
        return runs.run(progress, None)
    if out is not None and extra and given is None:
        raise ArgumentError(
            f"out={str(out)!r}: {' and '.join(extra)} tokens need a seed, so that a run that goes on "
            "later draws the same ones."
        )
    with kept.folder(adapter, first):
        return kept.stored(runs.run(progress, kept))


class _Runs:
    """The corpora of one scan, one after the other; the made-up ones last, as many as the others."""

    def __init__(
        self,
        adapter: Adapter,
        reading: SinkReading,
        columns: Columns,
        sources: Mapping[str, Corpus],
        extra: Sequence[str],
        seed: int,
        options: Mapping[str, Any],
    ) -> None:
        self.adapter = adapter
        self.reading = reading
        self.columns = columns
        self.sources = sources
        self.extra = extra
        self.seed = seed
        self.options = options
        self.done: dict[str, Scan] = {}
        self.share = False

    def run(self, progress: Progress | None, keeper: Keeper | None) -> SinkScan | None:
        """Read everything; what is finished is kept corpus by corpus. Of a share there is no result."""
        result = None
        self.share = keeper is not None and keeper.part is not None
        for name, corpus in self._corpora():
            self.done[name] = Scan(self.adapter, corpus, self.reading, self.columns)
            try:
                result = self.done[name].run(
                    lambda _, complete: self._result(complete),
                    progress=progress,
                    keeper=None if keeper is None else keeper.within(name),
                )
            except Interrupted as interrupt:
                if interrupt.partial is None and len(self.done) > 1:
                    del self.done[name]
                    partial = self._result(False)
                    raise Interrupted(str(interrupt), partial=partial) from interrupt
                raise
        return result

    def plan(self) -> Plan:
        """What it would cost, all corpora together."""
        plans: list[Plan] = []
        for name, corpus in self._corpora():
            self.done[name] = Scan(self.adapter, corpus, self.reading, self.columns)
            plans.append(plan(self.done[name]))
        costs = pd.concat([each.costs for each in plans]).sum().to_frame().T
        costs["memory"] = max(each.memory for each in plans)
        whole = {n: costs[n].astype(np.int64) for n in costs.columns if n != "seconds"}
        return replace(plans[0], costs=costs.assign(**whole))

    def _corpora(self) -> Iterator[tuple[str, Corpus]]:
        yield from self.sources.items()
        # Of a share, too, as many as the whole has.
        sequences = sum(run.corpus.read.sequences for run in self.done.values())
        first = next(iter(self.sources.values()))
        for name in self.extra:
            rows = made_up(
                self.adapter,
                name,
                sequences=sequences,
                length=first.length,
                bos=first.bos,
                seed=self.seed,
            )
            yield name, Corpus(self.adapter, rows, **self.options)

    def _result(self, complete: bool) -> SinkScan | None:
        if self.share:
            return None
        return assembled(
            self.adapter,
            self.reading,
            self.done,
            natural=[name for name in self.done if name in self.sources],
            seed=self.seed if self.extra else None,
            complete=complete,
        )
