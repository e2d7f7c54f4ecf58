"""The plan of a scan, from counting its texts and timing one batch."""

from __future__ import annotations

import pandas as pd

from .corpus import Batch
from .costs import Plan, measured
from .scanning import Scan

__all__ = ["plan"]


def plan(scan: Scan) -> Plan:
    """Count the texts, time the largest batch, and say what the scan would cost.

    The texts are read to the end: a generator is used up by it.

    Raises:
        ArgumentError: an empty or unreadable corpus.
    """
    passes, padded = 0, 0
    largest: Batch | None = None
    for batch in scan.corpus.batches():
        passes += 1
        padded += batch.size
        if largest is None or batch.size > largest.size:
            largest = batch
        scan.done.add(batch.windows, scan.corpus.length)
    assert largest is not None  # an empty corpus has raised
    smallest = Batch.of(scan.adapter, largest.windows[:1])
    seconds, memory = measured(
        lambda: scan.forward(smallest),
        lambda: scan.forward(largest),
        scan.adapter.device,
    )
    read = scan.done
    costs = {
        "documents": read.documents,
        "sequences": read.sequences,
        "tokens": read.tokens,
        "passes": passes,
        "seconds": seconds * padded / largest.size,
        "memory": memory,
    }
    return Plan(provenance=scan.provenance(False), costs=pd.DataFrame([costs]))
