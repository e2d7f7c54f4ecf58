"""Take a massive activation apart: which component, which neurons, which weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..models.weights import weights_of
from ..running.batching import Outcome, each_group
from ..settings import drawn_seed
from ..tokens import Bos
from .anatomy_result import Anatomy
from .anatomy_tables import CARRIES, Tables, joined
from .carriers import ablations
from .decomposition import Decomposition
from .result import Finding, MassiveScan
from .subject import Subject, subject

__all__ = ["anatomy"]


@torch.no_grad()
def anatomy(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    threshold: float = 0.05,
    ablate: bool = False,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Anatomy:
    """Decompose a coordinate of the residual stream exactly, down to neurons and single weights.

    The residual is the sum of what was added to it (Elhage et al. 2021): token embedding, position
    embedding, and in each layer the heads (through `W_O`), the MLP, and their biases. An MLP's part is
    the sum over neurons of activation times `W_out[neuron, dim]`, a head's the sum over positions of
    attention times the value's way through `W_O`. Where a block norms what it adds, the parts go
    through that norm at the scale of this pass. Sums are in float64 over what the model computed.

    Args:
        model: a TransformerLens model.
        texts: one text or many, whatever `lp.massive.scan` takes; every one must have the position.
        at: a finding of a scan, a list of them, or the scan, which stands for its strongest finding.
        dim: a dimension of the residual stream, instead of `at`. Without both, the texts are scanned
            first and the strongest massive activation is taken.
        position: of the token, from 0; with `dim` alone it is 0.
        layer: the coordinate is taken apart after this layer, and none above it is run. None is the
            layer of its largest value, and all layers are read, so that erasers are seen.
        threshold: least share of the value from which a layer counts as writing or erasing, and is
            opened into neurons or sources; 0 opens every layer.
        ablate: zero the smallest set of neurons and of weights that carries 95% of the value
            (super weights, Yu et al. 2411.07191), beside as many random neurons, and measure the
            value and the loss: up to two dozen further passes over the texts. No tensor of the
            model is changed.
        bos, length, limit, column: as in `lp.massive.scan`.
        seed: of the random neurons; None draws one and stores it in the result.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: a dimension, position or layer out of range, a position that a text lacks, no
            texts, nothing massive where nothing was named.
        ModelError: packed weights, LoRA layers that are not merged, an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Anatomy` of the finished sequences.

    Examples:
        >>> found = lp.massive.anatomy(model, "The cat sat on the mat.", dim=447)
        >>> found.neurons[["neuron", "value"]].head(3).round().values.tolist()
        [[11.0, 2000.0], [42.0, 900.0], [97.0, 100.0]]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.anatomy")
    weights = weights_of(adapter)
    chosen = None if layer is None else adapter.layer(layer)
    _check_threshold(threshold)
    drawn = drawn_seed(seed)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    last = adapter.n_layers - 1 if chosen is None else chosen
    plan = Decomposition(adapter, weights, about.each, last)
    outcome = _read(plan, about, batch_tokens, progress)
    tables = [Tables(plan, index, chosen, float(threshold)) for index in range(len(about.each))]
    result = _result(tables, about, outcome, float(threshold))
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(about.rows)} sequences.",
            partial=result,
        )
    return _ablated(result, tables, about, weights, drawn, batch_tokens) if ablate else result


def _check_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not threshold >= 0:
        raise ArgumentError(f"threshold={threshold!r}: a share of the value, at least 0.")


def _read(
    plan: Decomposition, about: Subject, batch_tokens: int | None, progress: bool | None
) -> Outcome[None]:
    # A user's hook at a later layer, or on the logits, must still see the pass.
    whole = bool(plan.adapter.user_hooks())

    def work(group: list[int]) -> list[None]:
        plan.read([about.rows[index] for index in group], whole=whole)
        return [None] * len(group)

    outcome = each_group(about.rows, work, batch_tokens=batch_tokens, progress=progress)
    if not plan.parts:
        raise Interrupted("interrupted before the first sequences were read.")
    if whole:
        note = "hooks of the user's own are attached: whole forward passes were run"
        outcome.notes.append(note)
    return outcome


def _result(
    tables: Sequence[Tables], about: Subject, outcome: Outcome[None], threshold: float
) -> Anatomy:
    facts = {
        **tables[0].plan.adapter.provenance(),
        **about.facts,
        "threshold": threshold,
        "carries": CARRIES,
        "finished": len(outcome.answers),
        "complete": outcome.complete,
        "notes": [
            *about.facts["notes"],
            *outcome.notes,
            *(note for table in tables for note in table.notes()),
        ],
    }
    return Anatomy(
        provenance=facts,
        components=joined("components", [table.components() for table in tables]),
        values=joined("values", [table.values() for table in tables]),
        layers=joined("layers", [table.layers for table in tables]),
        neurons=joined("neurons", [table.neurons() for table in tables]),
        sources=joined("sources", [table.sources(about.rows) for table in tables]),
        weights=joined("weights", [table.weights() for table in tables]),
        ablations=joined("ablations", []),
    )


def _ablated(
    result: Anatomy,
    tables: Sequence[Tables],
    about: Subject,
    weights: Any,
    seed: int,
    batch_tokens: int | None,
) -> Anatomy:
    """The result with its `ablations`."""
    frames: list[pd.DataFrame] = []
    complete = True
    try:
        for table in tables:
            frames.append(
                ablations(
                    weights,
                    about.rows,
                    table.target,
                    table.layer,
                    table.weights(),
                    seed=seed,
                    batch_tokens=batch_tokens,
                )
            )
    except KeyboardInterrupt:
        complete = False
    facts = {**result.provenance, "seed": seed, "complete": complete}
    done = replace(result, provenance=facts, ablations=joined("ablations", frames))
    if not complete:
        raise Interrupted("interrupted while weights were being ablated.", partial=done)
    return done
