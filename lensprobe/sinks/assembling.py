"""The result of a sink scan, from the statistics of each corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..models.adapter import Adapter
from ..scanning import Scan
from ..statistics import Bundle
from ..tokens import token_strings
from .outliers import SAMPLE
from .reading import LEAST_QUERIES, SinkReading
from .result import SinkScan
from .tables import (
    conditions_table,
    heads_table,
    layers_table,
    massive_table,
    profile_table,
    rates_table,
    secondary_table,
)

__all__ = ["assembled"]


def assembled(
    adapter: Adapter,
    reading: SinkReading,
    runs: Mapping[str, Scan],
    *,
    natural: Sequence[str],
    seed: int | None,
    complete: bool,
) -> SinkScan:
    """The result of what was read so far; `natural` names the runs that are texts, not made up."""
    totals = {name: run.total for name, run in runs.items() if run.total is not None}
    texts = [runs[name] for name in natural]
    total = _merged([totals[name] for name in natural])
    tokenizer = getattr(adapter.model, "tokenizer", None)
    heads = heads_table(total, reading)
    common = total["tokens"].common()
    ids = [common[(key,)] for key in range(reading.keys) if (key,) in common]
    sequences = sum(run.done.sequences for run in texts)
    provenance = {
        **_facts(texts, complete),
        "site": "attn.pattern",
        "layers": list(reading.layers),
        "keys": reading.keys,
        "epsilon": reading.epsilon,
        "epsilons": list(reading.epsilons),
        "thresholds": {"magnitude": reading.threshold, "ratio": reading.ratio},
        "conditions": {
            name: {"sequences": run.done.sequences, "tokens": run.done.tokens}
            for name, run in runs.items()
        },
        "seed": seed,
        "chunk": _chunk(total),
        "learned_sinks": reading.learned,
        "definitions": definitions(reading, texts[0].corpus.length, texts[0].corpus.bos),
        "nonfinite": _nonfinite(total, reading),
    }
    provenance["notes"] = _notes(texts, provenance)
    return SinkScan(
        provenance=provenance,
        heads=heads,
        layers=layers_table(heads),
        profile=profile_table(total, reading, adapter),
        key_tokens=token_strings(tokenizer, ids),
        rates=rates_table(totals, reading),
        conditions=conditions_table(totals, reading),
        secondary=secondary_table(total, reading, tokenizer),
        massive=massive_table(total, tokenizer, sequences),
    )


def definitions(reading: SinkReading, length: int, bos: bool) -> dict[str, str]:
    """Each measure in words, with the numbers that it depends on."""
    begin = f"windows of {length} tokens {'that begin with BOS' if bos else 'without BOS'}"
    return {
        "attention": f"mean over queries t >= k, t = k included, of A[t, k]; {begin}",
        "sink_rate": "share of sequences (and heads, over several) whose attention to key k exceeds "
        f"epsilon, {' or '.join(f'{e:g}' for e in reading.epsilons)}",
        "entropy": "of a query's attention over its keys, in nats, mean over queries"
        + (", the learned sink counted as one more outcome" if reading.learned else ""),
        "mass": "attention to all positions with a massive activation, summed, mean over queries from "
        "the first such position on and over the sequences that have one",
        "massive": f"magnitude above {reading.threshold:g} and at least {reading.ratio:g} times the "
        "median of the hidden state, after any scanned layer; beyond "
        f"{SAMPLE} tokens the median of {SAMPLE} evenly spaced ones",
        "secondary": f"key k > 0 with at least {LEAST_QUERIES} queries whose attention exceeds "
        f"{reading.epsilon:g}; share: of the heads and sequences that have that position",
        "dormant": f"mean attention to the first token above {reading.epsilon:g} in that condition",
        "value_norm": "norm of the value vector at key 0; other_norm: mean norm elsewhere",
    }


def _chunk(total: Bundle) -> int | None:
    """The longest range of columns, where any text was read in more than one."""
    columns, ranges = total["passes"].state()["keys"].T
    return int(columns.max()) if (ranges > 1).any() else None


def _merged(totals: Sequence[Bundle]) -> Bundle:
    """All statistics together; the parts stay as they are."""
    whole = Bundle.from_state(totals[0].state())
    for other in totals[1:]:
        whole.merge(other)
    return whole


def _facts(runs: Sequence[Scan], complete: bool) -> dict[str, Any]:
    facts = [run.provenance(complete) for run in runs]
    counts = ("documents", "sequences", "tokens", "short")
    summed = {name: sum(fact[name] for fact in facts) for name in counts}
    notes = dict.fromkeys(note for fact in facts for note in fact["notes"])
    return {**facts[0], **summed, "notes": list(notes)}


def _nonfinite(total: Bundle, reading: SinkReading) -> dict[str, int]:
    broken = total["nonfinite"].result()
    return {str(reading.layers[index]): count for (index,), count in broken.items()}


def _notes(runs: Sequence[Scan], facts: Mapping[str, Any]) -> list[str]:
    notes = list(facts["notes"])
    if facts["nonfinite"]:
        notes.append(
            f"attention was infinite or NaN in layers {', '.join(facts['nonfinite'])}; "
            "such heads are left out of that sequence"
        )
    if facts["short"]:
        notes.append(
            f"{facts['short']} of {facts['sequences']} sequences were shorter than "
            f"{facts['length']} tokens; attention to a key is larger in shorter ones"
        )
    if facts["chunk"]:
        notes.append(f"read in chunks of at most {facts['chunk']} tokens over the cache")
    if facts["learned_sinks"]:
        notes.append(
            "heads have a learned sink: rows of a pattern sum to less than one, and what is missing "
            "is in the column remainder"
        )
    return notes
