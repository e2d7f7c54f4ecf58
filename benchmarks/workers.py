"""Several processes against one: tokens a second once all are at work, and what keeping a piece costs.

    python benchmarks/workers.py [--write]

With Ray installed (`make test-ray` installs it), Ray on this machine is one of the rivals.
Every rival reads pieces of the same made-up documents. The clock starts when each worker has given back
its first piece, so that loading the model, told apart, is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record

import lensprobe as lp
from lensprobe.corpus import Corpus
from lensprobe.massive.reading import MassiveReading
from lensprobe.models.adapter import adapter_for
from lensprobe.scanning import Scan
from lensprobe.shards import Folder
from lensprobe.shards.crew import Crew, here
from lensprobe.shards.keeping import PIECE_TOKENS
from lensprobe.shards.line import Done
from lensprobe.shards.pieces import Piece, pieces
from lensprobe.statistics import Bundle
from lensprobe.texts import default_texts

LENGTH, SMALL = 256, 1024
"""Tokens of a document, and of a piece: many pieces, so that all workers end at nearly one time."""


def scan_of(model: Any, reading: Any) -> Scan:
    adapter = adapter_for(model)
    rng = np.random.default_rng(0)
    texts = (rng.integers(0, adapter.d_vocab, LENGTH).tolist() for _ in range(10**9))
    return Scan(adapter, Corpus(adapter, texts, length=LENGTH), reading(adapter))


def nothing_kept(number: int) -> None:
    """What no earlier run has left."""


def speed(scan: Scan, crew: Crew | None, workers: int, count: int) -> tuple[float, float]:
    """Tokens a second when all are at work, and seconds until then."""
    found: Iterator[Piece] = islice(pieces(scan.corpus, SMALL, nothing_kept), count)
    stamps: list[float] = []

    def keep(done: Done) -> None:
        stamps.append(time.perf_counter())

    begin = time.perf_counter()
    read = partial(here, show=lambda *given: None) if crew is None else crew.read
    with closing(read(scan, found, keep)) as done:  # pyright: ignore[reportArgumentType]
        tokens = [each.piece.tally.tokens for each in done]
    seconds = stamps[-1] - stamps[workers - 1]
    return tokens[0] * (len(stamps) - workers) / seconds, stamps[workers - 1] - begin


def keeping(scan: Scan) -> float:
    """Seconds that it takes to keep a piece, read it back as a bundle and add it."""
    found = list(islice(pieces(scan.corpus, SMALL, nothing_kept), 6))
    states = [scan.alone(piece.windows) for piece in found]
    with tempfile.TemporaryDirectory() as place, Folder(Path(place) / "run", {}) as folder:
        begin = time.perf_counter()
        for piece, (state, notes) in zip(found, states, strict=True):
            folder.save(piece.number, {**piece.facts, "notes": notes}, state)
            scan.take(Bundle.from_state(state), piece.tally, notes)
        return (time.perf_counter() - begin) / len(found)


def cutting(model: Any, reading: Any) -> float:
    """Tokens a second that one process cuts from real text, which is what feeds all the others."""
    texts = default_texts() * 20
    adapter = adapter_for(model)
    scan = Scan(adapter, Corpus(adapter, texts, length=1024), reading(adapter))
    begin = time.perf_counter()
    tokens = sum(piece.tally.tokens for piece in pieces(scan.corpus, PIECE_TOKENS, nothing_kept))
    return tokens / (time.perf_counter() - begin)


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = lp.load(given.model)
    layers = tuple(range(adapter_for(model).n_layers))
    reading = partial(
        MassiveReading, layers=layers, site="resid_post", threshold=100.0, ratio=1000.0
    )
    both = torch.get_num_threads()

    def measured(workers: int, engine: Any, threads: int) -> tuple[float, float]:
        torch.set_num_threads(threads)
        crew = None if engine is None else Crew(workers, engine, None, reading, None)
        found = speed(scan_of(model, reading), crew, workers, given.pieces)
        print(f"{workers} x {engine}, {threads} threads: {found[0]:,.0f} tokens/s", flush=True)
        return found

    speed(scan_of(model, reading), None, 1, 3)
    one, _ = measured(1, None, both)
    two, start = measured(2, "local", both)
    single, _ = measured(1, None, 1)
    ray = measured(2, "ray", both) if find_spec("ray") else None
    torch.set_num_threads(both)
    kept = keeping(scan_of(model, reading))
    whole = PIECE_TOKENS / one
    rows: list[tuple[str, float, float | None]] = [
        (f"time of two workers / one process with {both} threads", one / two, 1.0),
        ("time of two workers / one process, one thread each", single / two, 1 / 1.7),
        ("keeping a piece / reading it", kept / whole, 0.02),
    ]
    if ray is not None:
        rows.append(
            (f"time of two on Ray / one process with {both} threads", one / ray[0], 1 / 0.9)
        )
        rows.append(("seconds until Ray's workers are at work", ray[1], None))
    rows += [
        ("seconds until two workers are at work", start, None),
        (f"tokens a second, one process with {both} threads", one, None),
        ("tokens a second, two workers", two, None),
        ("tokens a second that are cut from text", cutting(model, reading), None),
    ]
    record(
        "workers",
        f"All layers of {given.model}, float32; {given.pieces} pieces of {SMALL:,} tokens in documents "
        f"of {LENGTH}; a piece is kept every {PIECE_TOKENS:,} tokens",
        rows,
        write=given.write,
    )


if __name__ == "__main__":
    main()
