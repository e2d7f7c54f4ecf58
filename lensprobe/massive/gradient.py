"""Whether the loss would have one number larger, document by document, and through which heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import Outcome, each_group
from ..running.fanning import WHOLE, tokens_that_fit
from ..settings import checked_seed
from ..tokens import Bos, Encoded
from .gradient_result import Gradient, gradient_tables
from .paths import Cut, Slopes, constant_weights
from .place import births, numbers, scored_rows
from .result import Finding, MassiveScan
from .subject import Subject, subject
from .target import Group

__all__ = ["gradient"]


def gradient(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    factors: float | Sequence[float] = 1.0,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Gradient:
    """Differentiate the loss by one coordinate of the residual stream, and split the derivative.

    For the number to reach 3,000 it was once at 2,950, and the gradient pushed it higher: `factors`
    asks at which of its sizes the loss still falls when it grows, documents say how surely (a sign
    test), and the split says why. In a causal model the number reaches later tokens only through the
    keys and values of its position, so the derivative is an exact sum over layers and heads of what
    goes through the key (it moves attention to the position), what goes through the value (it moves
    what heads write there), and the position's own prediction. Several coordinates grow together:
    then the number is the length of their vector.

    Args:
        model: a TransformerLens model. Its weights' `requires_grad` is off during the call.
        texts: whatever `lp.massive.scan` takes; every text must go on after the position.
        at, dim, position: which coordinate, as in `lp.massive.rescale`.
        layer: the derivative is by the coordinate in this layer's output. None is where it is born.
        factors: multiples of the number at which it is taken; 1 is the model as it is.
        bos, length, limit, column: as in `lp.massive.scan`. Memory grows with the square of the
            length, because attention patterns are kept for the backward pass.
        seed: of the bootstrap.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: as `lp.massive.rescale`.
        HookPointError: the model keeps no keys, values or attention patterns.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Gradient` of the finished sequences.

    Examples:
        >>> found = lp.massive.gradient(model, "The cat sat on the mat.", dim=447)
        >>> round(found.summary()["slope"], 4)  # a larger value lowers the loss
        -0.0014
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.gradient")
    chosen = numbers("factors", factors)
    given = None if layer is None else adapter.layer(layer)
    for site in ("attn.k", "attn.v", "attn.pattern", "attn.z"):
        adapter.hook_name(site, adapter.n_layers - 1)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    target = about.targets.group
    kept = scored_rows(about, target.position)
    place, born = births(adapter, about, batch_tokens) if given is None else (given, [])

    rows = [about.rows[i] for i in kept]
    outcome = each_group(
        rows,
        lambda index: _slopes(adapter, [rows[i] for i in index], target, place, chosen),
        batch_tokens=tokens_that_fit(adapter, batch_tokens),
        progress=progress,
    )
    facts = {
        **about.facts,
        **target.provenance(),
        "layer": place,
        "site": "resid_post",
        "factors": list(chosen),
        "seed": checked_seed(seed) or 0,
        "notes": [*about.facts["notes"], *born],
    }
    return _finished(adapter, about, kept, outcome, facts)


def _slopes(
    adapter: Adapter, rows: Sequence[Encoded], target: Group, layer: int, factors: Sequence[float]
) -> list[list[Slopes]]:
    """Each sequence's slopes at each factor."""
    # A caller's inference mode would make tensors that no gradient goes through.
    with torch.inference_mode(False), constant_weights(adapter.model):
        cut = Cut(adapter, rows, target, layer)
        found = [cut.slopes(factor).rows() for factor in factors]
    return [list(of_row) for of_row in zip(*found, strict=True)]


def _finished(
    adapter: Adapter,
    about: Subject,
    kept: Sequence[int],
    outcome: Outcome[list[Slopes]],
    facts: dict[str, Any],
) -> Gradient:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    notes = [*facts["notes"], *outcome.notes, *([WHOLE] if adapter.user_hooks() else [])]
    if adapter.model.training:
        notes.append("the model is in training mode: dropout makes the parts miss the total")
    tables = gradient_tables(
        outcome.answers,
        [about.documents[i] for i in kept],
        facts["factors"],
        facts["layer"],
        seed=facts["seed"],
    )
    result = Gradient(
        provenance={
            **adapter.provenance(),
            **facts,
            "finished": len(outcome.answers),
            "complete": outcome.complete,
            "notes": notes,
        },
        **tables,
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(kept)} sequences.", partial=result
        )
    return result
