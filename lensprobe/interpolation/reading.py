"""What a model made of the tokens that came: log-probability, entropy and rank, from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.adapter import Adapter
from ..running.batching import chunks, each_group
from ..running.measures import log_probs, ranks
from ..running.session import Session, part, prompt_step
from ..tokens import Encoded, TokenBatch

__all__ = ["chosen_measures", "plain_measures"]


def chosen_measures(
    scores: Float[Tensor, "tokens d_vocab"], chosen: Int[Tensor, " tokens"]
) -> dict[str, list[Any]]:
    """`logprob`, `entropy` (nats) and `rank` of one chosen token in each row."""
    logs = log_probs(scores)
    # Where a token is impossible its share of the entropy is 0, not 0 times minus infinity.
    parts = torch.where(logs.isfinite(), logs.exp() * logs, 0.0)
    return {
        "logprob": logs.gather(-1, chosen[:, None])[:, 0].tolist(),
        "entropy": (-parts.sum(-1)).tolist(),
        "rank": ranks(scores, chosen).tolist(),
    }


@torch.no_grad()
def plain_measures(
    adapter: Adapter, rows: Sequence[Encoded], starts: Sequence[int], chunk: int | None
) -> list[dict[str, list[Any]]]:
    """What the plain model makes of each row's tokens from its start on, in one pass over them.

    Args:
        adapter: the model's.
        rows: whole texts.
        starts: the first token of each that is measured, at least 1.
        chunk: most tokens of a row in one pass over the cache; None is chosen from memory.
    """

    def work(group: list[int]) -> list[dict[str, list[Any]]]:
        batch = TokenBatch.pad(adapter, [rows[index] for index in group])
        found: list[dict[str, list[Any]]] = [{} for _ in group]
        with Session(adapter) as session:
            step = prompt_step(batch)
            count, width = batch.ids.shape
            ranges = chunks(adapter, count, width, chunk, True)
            cache = session.new_cache(count) if len(ranges) > 1 else None
            if cache is not None:
                cache.expect(width)
            for begin, end in ranges:
                out = session.read(part(step, begin, end), batch.ids[:, begin:end], cache=cache)
                assert out is not None
                for row, index in enumerate(group):
                    first, last = max(starts[index], begin + 1), min(len(rows[index]), end + 1)
                    if first < last:
                        scores = out[row, first - 1 - begin : last - 1 - begin].float()
                        _extend(found[row], chosen_measures(scores, batch.ids[row, first:last]))
        return found

    outcome = each_group(rows, work, batch_tokens=None, progress=False)
    return [outcome.answers[index] for index in range(len(rows))]


def _extend(found: dict[str, list[Any]], more: dict[str, list[Any]]) -> None:
    for name, values in more.items():
        found.setdefault(name, []).extend(values)
