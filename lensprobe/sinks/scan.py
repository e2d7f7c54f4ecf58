"""Find attention sinks in a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..corpus import Corpus
from ..costs import Plan
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..planning import plan
from ..scanning import Scan
from ..settings import current
from ..statistics import Bundle
from ..tokens import Bos, token_strings
from .reading import SinkReading
from .result import SinkScan

__all__ = ["scan"]

LENGTH = 64
"""The window of Gu et al., at which published sink rates are given."""


def scan(
    model: Any,
    texts: Any,
    *,
    keys: int = 4,
    epsilon: float = 0.3,
    length: int | None = None,
    layers: int | Sequence[int] | Literal["all"] = "all",
    bos: Bos = "auto",
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
    dry_run: bool | None = None,
) -> SinkScan | Plan:
    """Attention to the first keys and the sink rate of Gu et al. (2410.10781, section 3).

    The attention of a head to key k in a sequence is the mean over queries t >= k (t = k included)
    of A[t, k]; the sink rate is the share of heads whose attention exceeds `epsilon`, averaged over
    sequences. Both fall as sequences get longer, so `length` is fixed and stored: longer texts are
    split into windows of that many tokens; shorter ones are kept, counted and noted. A sequence
    without a token k does not count for key k. Pads enter nothing. A query's entropy includes all
    its keys; query 0 has only itself and entropy 0.

    Args:
        model: a TransformerLens model.
        texts: text, token ids, chat messages, any iterable of those, a `datasets` dataset, or a
            `.txt` or `.jsonl` file; see `corpus`.
        keys: how many of the first keys.
        epsilon: least attention of a sink, exclusive.
        length: window in tokens, BOS included; None is 64, as in the paper.
        layers: which layers are read; layers above the last of them are not run.
        bos: whether windows begin with BOS; `"auto"` is what the model's own tokenizing does.
        limit: most documents that are read.
        column: which field of a record is the text; None is `text`.
        batch_tokens: most tokens in one forward pass, pads included.
        progress: True, False, or None for a bar when it takes long.
        dry_run: True to return the `Plan` of the scan instead of running it.

    Returns:
        A `SinkScan`, or a `Plan`.

    Raises:
        ArgumentError: an argument out of range, no texts, an empty text, an unreadable file.
        HookPointError: the model has no attention patterns.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; `.partial` is the `SinkScan` of the finished batches.
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.scan")
    chosen = adapter.layers(layers)
    corpus = Corpus(
        adapter,
        texts,
        bos=bos,
        length=length,
        longest=LENGTH,
        limit=limit,
        column=column,
        batch_tokens=batch_tokens,
    )
    _check(keys, epsilon, corpus.length)
    reading = SinkReading(adapter, chosen, keys=keys, epsilon=float(epsilon))
    run = Scan(adapter, corpus, reading)
    if current("dry_run", dry_run):
        return plan(run)
    return run.run(_finish, progress=progress)


def _check(keys: int, epsilon: float, length: int) -> None:
    if isinstance(keys, bool) or not isinstance(keys, int) or not 1 <= keys <= length:
        raise ArgumentError(f"keys={keys!r}: a whole number from 1 to the length, {length}.")
    if isinstance(epsilon, bool) or not isinstance(epsilon, Real) or not 0 <= epsilon < 1:
        raise ArgumentError(f"epsilon={epsilon!r}: an attention, at least 0 and below 1.")


def _finish(run: Scan, complete: bool) -> SinkScan:
    """The result of what was read so far."""
    reading, total = run.reading, run.total
    assert isinstance(reading, SinkReading)
    assert total is not None
    provenance = run.provenance(complete)
    broken = total["nonfinite"].result()
    provenance["nonfinite"] = {
        str(reading.layers[index]): count for (index,), count in broken.items()
    }
    if broken:
        provenance["notes"].append(
            f"attention was infinite or NaN in layers {', '.join(provenance['nonfinite'])}; "
            "such heads are left out of that sequence"
        )
    if run.done.short:
        provenance["notes"].append(
            f"{run.done.short} of {run.done.sequences} sequences were shorter than "
            f"{run.corpus.length} tokens; attention to a key is larger in shorter ones"
        )
    heads = _heads(total, reading)
    common = total["tokens"].common()
    ids = [common[(key,)] for key in range(reading.keys) if (key,) in common]
    return SinkScan(
        provenance={
            **provenance,
            "site": "attn.pattern",
            "layers": list(reading.layers),
            "keys": reading.keys,
            "epsilon": reading.epsilon,
        },
        heads=heads,
        layers=pd.DataFrame(
            heads.groupby(["layer", "key"], as_index=False)[["sink_rate", "value"]].mean()
        ),
        profile=_profile(total, reading, run.adapter),
        key_tokens=token_strings(getattr(run.adapter.model, "tokenizer", None), ids),
    )


def _heads(total: Bundle, reading: SinkReading) -> pd.DataFrame:
    attention, sinks = total["attention"].result(), total["sinks"].result()
    _, heads, keys = attention["mean"].shape
    layer, head, key = np.meshgrid(reading.layers, range(heads), range(keys), indexing="ij")
    return pd.DataFrame(
        {
            "layer": layer.reshape(-1),
            "head": head.reshape(-1),
            "key": key.reshape(-1),
            "value": attention["mean"].reshape(-1),
            "sink_rate": sinks["mean"].reshape(-1),
            "count": attention["count"].reshape(-1),
        }
    )


def _profile(total: Bundle, reading: SinkReading, adapter: Adapter) -> pd.DataFrame:
    entropy = total["entropy"].result()["mean"]
    heads = entropy.shape[1]
    shared = np.arange(heads) // (heads // adapter.n_kv_heads)
    first = total["value"].result()["mean"][:, shared].reshape(-1)
    others = total["others"].result()["mean"][:, shared].reshape(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = first / others
    return pd.DataFrame(
        {
            "layer": np.repeat(reading.layers, heads),
            "head": np.tile(np.arange(heads), len(reading.layers)),
            "entropy": entropy.reshape(-1),
            "value_norm": first,
            "other_norm": others,
            "ratio": ratio,
        }
    )
