"""The few weights that carry a massive activation, taken away: what is left of it, and of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..models.weights import Weights
from ..running.batching import buckets
from ..running.score import Score, score
from ..running.session import Hook, hooked
from ..running.silencing import other_neurons, silence_neurons, silence_weights
from ..tokens import Encoded, TokenBatch
from .target import Target

__all__ = ["ablations"]

ALONE = 8
"""Single weights that are also zeroed one at a time, the largest contributions first."""


def ablations(
    weights: Weights,
    rows: Sequence[Encoded],
    target: Target,
    layer: int,
    carriers: pd.DataFrame,
    *,
    seed: int,
    batch_tokens: int | None,
) -> pd.DataFrame:
    """Rows of `Anatomy.ablations` for one coordinate; `carriers` are its rows of `weights`."""
    neurons = [(int(a), int(b)) for a, b in zip(carriers["layer"], carriers["neuron"], strict=True)]
    entries = [(n, neuron, target.dim) for n, neuron in neurons]
    tried: list[tuple[str, int, int, int, Mapping[str, Hook]]] = [("plain", -1, -1, 0, {})]
    if neurons:
        count, others = len(neurons), other_neurons(weights, neurons, seed)
        tried += [
            ("neurons", -1, -1, count, silence_neurons(weights, neurons)),
            ("weights", -1, -1, count, silence_weights(weights, entries)),
            ("random neurons", -1, -1, len(others), silence_neurons(weights, others)),
        ]
        tried += [
            ("weight", n, neuron, 1, silence_weights(weights, [(n, neuron, target.dim)]))
            for n, neuron in neurons[:ALONE]
        ]
    found = []
    for kind, n, neuron, count, hooks in tried:
        value, loss = _measure(weights, rows, target, layer, hooks, batch_tokens)
        found.append(
            {
                "dim": target.dim,
                "position": target.position,
                "kind": kind,
                "layer": n,
                "neuron": neuron,
                "count": count,
                "value": value,
                "share": value / found[0]["value"] if found and found[0]["value"] else 1.0,
                "loss": loss,
            }
        )
    return pd.DataFrame(found)


def _measure(
    weights: Weights,
    rows: Sequence[Encoded],
    target: Target,
    layer: int,
    hooks: Mapping[str, Hook],
    batch_tokens: int | None,
) -> tuple[float, float]:
    """The mean value after `layer` and the mean loss in nats under some hooks."""
    adapter = weights.adapter
    values: list[np.ndarray] = []

    def read(residual: Tensor) -> None:
        value = residual[:, target.position, target.dim]
        values.append(value.detach().double().cpu().numpy())

    point = adapter.hook_name("resid_post", layer)
    with torch.no_grad(), hooked(adapter, hooks):
        for group in buckets(rows, batch_tokens):
            batch = TokenBatch.pad(adapter, [rows[index] for index in group])
            mask = batch.mask if batch.ragged else None
            with hooked(adapter, {point: read}):
                adapter.run(batch.ids, mask=mask, stop=layer + 1)
        loss = _loss(adapter.model, rows, batch_tokens)
    return float(np.concatenate(values).mean()), loss


def _loss(model: Any, rows: Sequence[Encoded], batch_tokens: int | None) -> float:
    scored = [row for row in rows if len(row) > 1]
    if not scored:
        return float("nan")
    found = score(model, scored, batch_tokens=batch_tokens, progress=False, dry_run=False)
    assert isinstance(found, Score)
    return found.loss
