"""Find massive activations in a corpus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Any, Literal, TypedDict

import numpy as np
from typing_extensions import Unpack, overload

from ..corpus import Corpus
from ..costs import Plan
from ..errors import ArgumentError
from ..models.adapter import adapter_for
from ..models.sites import DEFAULT_SITE
from ..planning import plan
from ..scanning import Scan
from ..settings import OnError, Progress, current
from ..shards.crew import Engine, Part
from ..shards.keeping import keeper
from ..tokens import Bos, token_strings
from .reading import MassiveReading
from .result import MassiveScan
from .tables import (
    findings_table,
    kinds_table,
    layers_table,
    nonfinite_table,
    trajectories_table,
)

__all__ = ["scan"]

LONGEST = 1024
"""The default window: what Sun et al. read of GPT-2."""


class _Options(TypedDict, total=False):
    """What `scan` takes whatever it returns: which of the three that is, `part` and `dry_run` say.

    An option that `lp.options` sets is not seen here.
    """

    layers: int | Sequence[int] | Literal["all"]
    site: str
    threshold: float
    ratio: float
    bos: Bos
    length: int | None
    limit: int | None
    column: str | None
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
) -> MassiveScan: ...
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
) -> MassiveScan | Plan | None: ...
def scan(
    model: Any,
    texts: Any,
    *,
    layers: int | Sequence[int] | Literal["all"] = "all",
    site: str = DEFAULT_SITE,
    threshold: float = 100.0,
    ratio: float = 1000.0,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    part: Part | None = None,
    on_error: OnError | None = None,
    progress: Progress | None = None,
    dry_run: bool | None = None,
) -> MassiveScan | Plan | None:
    """Massive activations after Sun et al. (2402.17762, section 2.2), layer by layer.

    An activation is massive where its magnitude is above `threshold` and at least `ratio` times the
    median magnitude of that layer's whole hidden state of that sequence. Medians are exact (the
    lower one, as in `torch.median`); pads enter nothing; statistics are in float32 or wider;
    infinite and NaN numbers are counted by layer and position and enter nothing else. Position 0 is
    the first token of a window, BOS where it is on.

    The texts stream through in batches: memory does not depend on how many there are, only on how
    many different (dimension, token) pairs are massive, which very low thresholds make many.

    Args:
        model: a TransformerLens model.
        texts: text, token ids, chat messages, any iterable of those, a `datasets` dataset, or text,
            JSONL or Parquet files, compressed ones too; see `documents`. Longer texts are split into
            windows.
        layers: which layers are read; layers above the last of them are not run.
        site: one number per token and dimension is read there (not `attn.pattern`).
        bos: whether windows begin with BOS; `"auto"` is what the model's own tokenizing does.
        threshold: least magnitude, exclusive.
        ratio: least multiple of the median, inclusive.
        length: longest window in tokens, BOS included; None is the model's context, at most 1,024.
        limit: most documents that are read.
        column: which field of a record is the text; None is `text`.
        batch_tokens: most tokens in one forward pass, pads included.
        out: a folder for what is finished. The same call with the same folder goes on where the
            last one ended, however it ended, and gives the same numbers, bit for bit; at its end
            the result is there too, for `lp.open(out)`.
        workers: how many processes read, each with a model of its own; None is 1, this process, unless
            `lp.options` says otherwise. The result is that of one process with `out`, bit for bit, at
            equal threads in each. The model must be one that `lp.load` finds by its name.
        engine: "local" (what None is) for processes of this machine, "ray" for those of a Ray cluster.
        part: `(i, n)` reads share i of n, from 0 on, and keeps it in `out`; runs of other shares may
            work beside it. The same call without `part` then adds up all of them.
        on_error: "raise" (what None is, unless `lp.options` says otherwise) or "skip" at a record that
            cannot be read; what was skipped, and where it was, is in `.provenance["notes"]`.
        progress: True, False, None for a bar when it takes long, "json" for lines of JSON.
        dry_run: True to return the `Plan` of the scan instead of running it.

    Returns:
        A `MassiveScan`, or a `Plan`; None with `part`.

    Raises:
        ArgumentError: an argument out of range, no texts, an empty text, an unreadable file.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder model.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` is the `MassiveScan` of the finished batches.

    Examples:
        >>> scan = lp.massive.scan(model, "The cat sat on the mat.")
        >>> scan.strongest.dim, scan.strongest.position, round(scan.strongest.value)
        (447, 0, 3000)
        >>> scan.findings[["first", "last"]].values.tolist()  # layers
        [[1, 3]]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.scan")
    _check(site, threshold, ratio)
    chosen = adapter.layers(layers)
    reading = partial(
        MassiveReading,
        layers=chosen,
        site=site,
        threshold=float(threshold),
        ratio=float(ratio),
    )
    options = {"layers": chosen, "site": site, "threshold": threshold, "ratio": ratio}
    kept = keeper(
        "massive.scan", options, reading, out=out, workers=workers, engine=engine, part=part
    )
    corpus = Corpus(
        adapter,
        texts,
        bos=bos,
        length=length,
        longest=LONGEST,
        limit=limit,
        column=column,
        batch_tokens=batch_tokens,
        on_error=on_error,
    )
    run = Scan(adapter, corpus, reading(adapter))
    if current("dry_run", dry_run):
        return plan(run)
    result = run.run(_finish if part is None else _no_result, progress=progress, keeper=kept)
    return result if kept is None else kept.stored(result)


def _check(site: str, threshold: float, ratio: float) -> None:
    if site == "attn.pattern":
        raise ArgumentError("site='attn.pattern' has no dimensions; use lp.sinks.scan.")
    for name, value in (("threshold", threshold), ("ratio", ratio)):
        if isinstance(value, bool) or not isinstance(value, Real) or not value >= 0:
            raise ArgumentError(f"{name}={value!r}: a number, at least 0.")


def _no_result(run: Scan, complete: bool) -> None:
    """What a share is."""


def _finish(run: Scan, complete: bool) -> MassiveScan:
    """The result of what was read so far."""
    reading, total = run.reading, run.total
    assert isinstance(reading, MassiveReading)
    assert total is not None
    tokenizer = getattr(run.adapter.model, "tokenizer", None)
    layers, site = reading.layers, reading.site
    findings = findings_table(total, layers, tokenizer, run.done.sequences)
    layer = int(findings["layer"].iloc[0]) if len(findings) else layers[-1]
    # After an interrupt the first text may not have had its turn.
    first = total["landscape"].result()
    values = first.get("values", np.zeros((len(layers), 0, total["origin"].shape[-1]), np.float32))
    return MassiveScan(
        provenance={
            **run.provenance(complete),
            "site": site,
            "layers": list(layers),
            "thresholds": {"magnitude": reading.threshold, "ratio": reading.ratio},
        },
        layers=layers_table(total, layers, site),
        findings=findings,
        kinds=kinds_table(total, layers, site),
        nonfinite=nonfinite_table(total, layers, site),
        trajectories=trajectories_table(total, findings, layers, site),
        landscape=values[layers.index(layer)],
        landscape_tokens=token_strings(tokenizer, first.get("ids", np.zeros(0, np.int64)).tolist()),
        landscape_layer=layer,
    )
