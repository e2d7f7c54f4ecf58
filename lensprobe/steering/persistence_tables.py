"""Completions read under kept, moving and no additions → the tables of a persistence comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Add
from ..models.adapter import Adapter
from ..statistics import interval
from ..tokens import Encoded, token_strings
from .forced import PLAIN, Reading, read_again, walk
from .measures import kl, losses, parting, perplexity, repetition
from .study import Completions, Condition, text_of

__all__ = [
    "CONTROL_STEPS",
    "PAIRS",
    "Read",
    "control_table",
    "divergence_table",
    "parting_table",
    "read_all",
    "texts_table",
    "tokens_table",
]

PAIRS = (("kept", PLAIN), ("moving", PLAIN), ("moving", "kept"))
"""Which distributions are compared: KL of the first from the second."""

CONTROL_TEXTS, CONTROL_STEPS = 2, 12
"""Recomputing everything at each step is slow: the control reads a few prompts for a few tokens."""


@dataclass(frozen=True)
class Read:
    """One completion as all three conditions see it.

    Attributes:
        condition: whose completion it is.
        reading: its tokens.
        kl: float64 `[pairs tokens]`.
        loss: mean loss under the plain model.
    """

    condition: str
    reading: Reading
    kl: np.ndarray
    loss: float


def read_all(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    conditions: Sequence[Condition],
    own: Sequence[Completions],
    progress: bool | None,
) -> list[Read]:
    """All completions of all conditions, read under all conditions.

    Raises:
        Interrupted: Ctrl-C.
    """
    whose = [one.name for one in conditions for _ in prompts]
    readings = [
        Reading(prompt, ids, index)
        for completions, _ in own
        for index, (prompt, ids) in enumerate(zip(prompts, completions, strict=True))
    ]

    def reduce(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> Read:
        pairs = torch.stack([kl(logits[one], logits[other]) for one, other in PAIRS])
        loss = losses(logits[PLAIN], targets).cpu().double().mean()
        return Read(whose[index], readings[index], pairs.cpu().double().numpy(), float(loss))

    edits = {one.name: one.edits for one in conditions}
    return read_again(adapter, readings, edits, reduce, progress=progress)


def divergence_table(read: Sequence[Read]) -> pd.DataFrame:
    """See `PersistenceComparison.divergence`."""
    parts = []
    for name in dict.fromkeys(one.condition for one in read):
        mine = [one for one in read if one.condition == name]
        steps = max(one.kl.shape[1] for one in mine)
        grid = np.full((len(PAIRS), steps, len(mine)), np.nan)
        for text, one in enumerate(mine):
            grid[:, : one.kl.shape[1], text] = one.kl
        value, low, high = interval(grid)
        for place, (steered, reference) in enumerate(PAIRS):
            cells = {"value": value[place], "low": low[place], "high": high[place]}
            pair = {"condition": name, "steered": steered, "reference": reference}
            count = np.isfinite(grid[place]).sum(-1)
            parts.append(pd.DataFrame({**pair, "step": np.arange(steps), **cells, "count": count}))
    return pd.concat(parts, ignore_index=True)


def tokens_table(adapter: Adapter, read: Sequence[Read]) -> pd.DataFrame:
    """See `PersistenceComparison.tokens`."""
    tokenizer = getattr(adapter.model, "tokenizer", None)
    parts = []
    for one in read:
        start, steps = len(one.reading.prompt), np.arange(one.kl.shape[1])
        known = {
            "condition": one.condition,
            "text": one.reading.owner,
            "step": steps,
            "position": start + steps,
            "token": token_strings(tokenizer, one.reading.completion),
        }
        for place, (steered, reference) in enumerate(PAIRS):
            pair = {"steered": steered, "reference": reference, "kl": one.kl[place]}
            parts.append(pd.DataFrame({**known, **pair}))
    return pd.concat(parts, ignore_index=True)


def texts_table(adapter: Adapter, own: Sequence[Completions], read: Sequence[Read]) -> pd.DataFrame:
    """See `PersistenceComparison.texts`."""
    tokenizer = getattr(adapter.model, "tokenizer", None)
    words = [text for _, texts in own for text in texts]
    return pd.DataFrame(
        {
            "condition": [one.condition for one in read],
            "text": [one.reading.owner for one in read],
            "prompt": [text_of(tokenizer, one.reading.prompt.ids) for one in read],
            "completion": words,
            "perplexity": perplexity([one.loss for one in read]),
            "repetition": [repetition(one.reading.completion) for one in read],
            "count": [len(one.reading.completion) for one in read],
        }
    )


def parting_table(conditions: Sequence[Condition], own: Sequence[Completions]) -> pd.DataFrame:
    """See `PersistenceComparison.parting`."""
    ids = {one.name: rows for one, (rows, _) in zip(conditions, own, strict=True)}
    rows = []
    for steered, reference in PAIRS:
        for text, (one, other) in enumerate(zip(ids[steered], ids[reference], strict=True)):
            step = parting(one, other)
            place = np.nan if step is None else float(step)
            rows.append({"steered": steered, "reference": reference, "text": text, "step": place})
    return pd.DataFrame(rows)


def control_table(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    conditions: Sequence[Condition],
    front: Add,
    plain: Completions,
) -> pd.DataFrame:
    """Keeping against recomputing, read token after token on the plain model's completions.

    See `PersistenceComparison.control`.
    """
    shortest = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    chosen = sorted(shortest[:CONTROL_TEXTS])
    readings = [Reading(prompts[index], plain[0][index][:CONTROL_STEPS], index) for index in chosen]
    kept, moving = (one.edits for one in conditions[:2])
    parts = []
    for kind, keep, recompute in (("front", (front,), (front,)), ("newest", kept, moving)):
        both = (
            walk(adapter, readings, keep),
            walk(adapter, readings, recompute, cached=False),
        )
        for reading, held, anew in zip(readings, *both, strict=True):
            cells = {
                "kl": kl(anew, held).cpu().double().numpy(),
                "value": (anew - held).abs().amax(-1).cpu().double().numpy(),
            }
            known = {"kind": kind, "text": reading.owner, "step": np.arange(len(held))}
            parts.append(pd.DataFrame({**known, **cells}))
    return pd.concat(parts, ignore_index=True)
