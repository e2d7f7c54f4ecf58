"""What must be the same for two runs to be one: the model, the options, how texts are cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..models.adapter import Adapter
from .files import fingerprint
from .run import Source

__all__ = ["identity", "weights_fingerprint"]

FORMAT = 2
"""Of the states in a folder; a folder of another format is another run."""
ENDS = 256
"""Numbers at either end of each weight that stand for it: exact enough to tell two trainings apart."""


def identity(
    adapter: Adapter, corpus: Source, analysis: str, options: Mapping[str, Any], tokens: int
) -> dict[str, Any]:
    """JSON values that name a run; batches are among them, for their shapes decide the last bits.

    Args:
        adapter: the model.
        corpus: how its texts are cut; the texts themselves are compared piece by piece.
        analysis: its name, such as "massive.scan".
        options: those of its options that the statistics depend on.
        tokens: how many make a piece.
    """
    model = adapter.provenance()
    names = ("model", "revision", "dtype", "coordinates", "quantisation", "adapter")
    return {
        "format": FORMAT,
        "analysis": analysis,
        **{name: model[name] for name in names if name in model},
        "weights": weights_fingerprint(adapter.model),
        "lensprobe": model["versions"]["lensprobe"],
        "options": dict(options),
        "bos": corpus.bos,
        "length": corpus.length,
        "overlap": corpus.overlap,
        "batch_tokens": corpus.batch_tokens,
        "piece_tokens": tokens,
    }


@torch.no_grad()
def weights_fingerprint(model: Any) -> str:
    """A short name for a model's weights, of their names, shapes and both ends."""
    parts = []
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        ends = torch.cat([flat[:ENDS], flat[-ENDS:]]).float().cpu()
        parts.append(f"{name} {tuple(weight.shape)}".encode() + ends.numpy().tobytes())
    return fingerprint(*sorted(parts))
