"""Many texts as few forward passes: bucketed by length, cut into chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd
import torch

from ..costs import Plan, measured
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..settings import Progress, current
from ..tokens import Encoded
from .progress import progress_bar

__all__ = [
    "Outcome",
    "buckets",
    "chunks",
    "each_group",
    "out_of_memory",
    "plan_groups",
    "progress_bar",
]

PASS_BYTES = 64 * 2**20
"""What one chunk may take for attention scores and logits; weights and cache are not counted."""

T = TypeVar("T")


def buckets(texts: Sequence[Encoded], batch_tokens: int | None) -> list[list[int]]:
    """Indices of texts grouped so that a padded group holds at most `batch_tokens` tokens.

    Sorted by length, so that rows of a group are nearly equal; a text longer than the limit is a
    group of its own.

    Raises:
        ArgumentError: `batch_tokens` is not a positive whole number.
    """
    limit = current("batch_tokens", batch_tokens)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ArgumentError(f"batch_tokens={limit!r}: a positive whole number.")
    groups: list[list[int]] = []
    for index in sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)):
        if groups and len(texts[index]) * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def chunks(
    adapter: Adapter, rows: int, length: int, chunk: int | None, logits: bool
) -> list[tuple[int, int]]:
    """Column ranges `(begin, end)` in which a batch of `rows x length` tokens is read.

    One range where everything fits in `PASS_BYTES` (or where the user has hooks of their own, which
    must see whole passes). The bridge's attention always builds batch x head x T x T.

    Raises:
        ArgumentError: `chunk` is not a positive whole number.
    """
    size = current("chunk", chunk)
    if size is None:
        # Scores, their softmax and the masked copy; logits and the copy a softmax makes of them.
        column = 4 * rows * (3 * adapter.n_heads * length + 2 * adapter.d_vocab * logits)
        size = max(16, PASS_BYTES // column)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(f"chunk={size!r}: a positive whole number.")
    if adapter.user_hooks():
        size = length
    return [(begin, min(begin + size, length)) for begin in range(0, length, size)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text
    )


@dataclass
class Outcome(Generic[T]):
    """What a run over many texts left: an answer for each finished text, by its index."""

    answers: dict[int, T] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    complete: bool = True


def each_group(
    texts: Sequence[Encoded],
    work: Callable[[list[int]], Sequence[T]],
    *,
    batch_tokens: int | None,
    progress: Progress | None,
) -> Outcome[T]:
    """Run `work` on groups of text indices; it returns an answer for each.

    A group that runs out of memory is split in two, which is noted; a single text that does not fit
    raises as it is. Ctrl-C ends the run with what is finished, `complete=False`.
    """
    outcome: Outcome[T] = Outcome()
    waiting = list(reversed(buckets(texts, batch_tokens)))
    with progress_bar("text", progress, total=len(texts)) as bar:
        try:
            while waiting:
                group = waiting.pop()
                try:
                    answers = work(group)
                except Exception as error:
                    if not out_of_memory(error) or len(group) == 1:
                        raise
                    outcome.notes.append(f"memory ran out at {len(group)} texts in a batch; halved")
                    half = len(group) // 2
                    waiting += [group[half:], group[:half]]
                    continue
                outcome.answers.update(zip(group, answers, strict=True))
                bar.update(len(group))
        except KeyboardInterrupt:
            outcome.complete = False
    return outcome


def plan_groups(
    texts: Sequence[Encoded],
    work: Callable[[list[int]], object],
    *,
    batch_tokens: int | None,
    device: torch.device,
    provenance: dict[str, Any],
) -> Plan:
    """What `each_group` would cost, from counting the texts and timing the largest group."""
    groups = buckets(texts, batch_tokens)
    sizes = [len(group) * max(len(texts[index]) for index in group) for group in groups]
    largest = groups[sizes.index(max(sizes))]
    seconds, memory = measured(lambda: work(largest[:1]), lambda: work(largest), device)
    costs = {
        "documents": len(texts),
        "sequences": len(texts),
        "tokens": sum(map(len, texts)),
        "passes": len(groups),
        "seconds": seconds * sum(sizes) / max(sizes),
        "memory": memory,
    }
    return Plan(provenance=provenance, costs=pd.DataFrame([costs]))
