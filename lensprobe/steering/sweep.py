"""One vector or many, at every layer and scale asked for, measured on questions and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..costs import Plan
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..positions import Positions
from ..settings import checked_seed, current
from ..tokens import Bos
from .layered import SteeringVectors
from .subjects import Subject, subjects
from .sweep_result import Sweep, sweep_result
from .sweep_run import MEASURES, Run
from .vector import SteeringVector

__all__ = ["sweep"]

SCALES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)


@torch.no_grad()
def sweep(
    model: Any,
    texts: Any,
    *,
    vector: SteeringVector | Mapping[int, SteeringVector] | None = None,
    layers: Any = "all",
    scales: Sequence[float] = SCALES,
    measure: str | Sequence[str] = "all",
    positions: Positions | None = None,
    bos: Bos = "auto",
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
    seed: int | None = None,
    dry_run: bool | None = None,
) -> Sweep | Plan:
    """What a steering vector does, by layer and scale, with intervals over documents.

    Each layer is edited alone. Everything that runs share is computed once: blocks below the edit,
    tokens before it, and the weights of a block for all scales, which ride on the batch axis.

    Questions are read up to where their two answers part, and the next token's logits say which
    one the model gives (CAA, Rimsky et al. 2312.06681). Texts are scored token by token: the side
    effect of an addition, and with texts on and off topic the perplexity ratios of ActAdd (Turner
    et al. 2308.10248). Texts count from the first edited token on, the part that can change.

    Args:
        model: a TransformerLens model.
        texts: contrast questions (`lp.steering.questions(...)`, or such a `.jsonl` file), texts, or
            a mapping name → either, as in `{"on topic": [...], "off topic": [...]}`.
        vector: one vector, added as it is at every layer of the sweep; or one for each layer. Its
            site is where it is added. Required.
        layers: which layers; `"all"` is all that `vector` has, or with one vector all the model has.
        scales: what the vector is multiplied with; 0 is the plain model.
        measure: "all" that apply, or some of: "probability" and "log_odds" of the matching answer
            against the other one, "kl" from the plain model in nats, "loss" in nats (with its
            perplexity and the "ratio" to the plain one's), "tokens" whose probability moves most
            (only when asked for: it needs a number for each token of the vocabulary).
        positions: where the vector is added. None is the front for a vector with a row for each
            token; else in questions from the end of the question on, in texts everywhere but at
            position 0.
        limit: most documents of each group.
        column: which field of a record is the text.
        seed: of the bootstrap.
        dry_run: True to return the `Plan` instead of running it.

    Raises:
        ArgumentError: no vector, a scale that is not finite, a layer out of range or without a
            vector, a measure that no group of texts has, a vector of another width.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; `.partial` is the sweep over the finished documents.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> found = lp.steering.sweep(model, "The cat sat.", vector=vector, scales=[0, 1], layers=2)
        >>> found.effects.query("measure == 'kl'")[["scale", "value"]].round(2).values.tolist()
        [[0.0, 0.0], [1.0, 1.23]]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.sweep")
    vectors = _vectors(adapter, vector, layers)
    strengths = _scales(scales)
    groups = subjects(adapter, texts, bos=bos, limit=limit, column=column)
    wanted = _measures(measure, groups)
    runs = [
        Run(adapter, group, vectors, strengths, positions, "tokens" in wanted) for group in groups
    ]
    facts = {**adapter.provenance(), "bos": adapter.bos(bos), **_facts(vector, runs)}
    if current("dry_run", dry_run):
        largest = max(runs, key=lambda run: sum(map(len, run.subject.rows)))
        return largest.plan(batch_tokens, facts)
    for run in runs:
        run.read(batch_tokens, progress)
        if not run.outcome.complete:
            break
    return _finished(adapter, runs, wanted, {**facts, "seed": checked_seed(seed) or 0})


def _finished(
    adapter: Adapter, runs: Sequence[Run], wanted: Sequence[str], facts: dict[str, Any]
) -> Sweep:
    done = [run for run in runs if run.outcome.answers]
    if not done:
        raise Interrupted("interrupted before the first documents were finished.")
    result = sweep_result(adapter, done, wanted, {**facts, **_ended(runs)})
    if not result.provenance["complete"]:
        raise Interrupted("interrupted; .partial holds what was finished.", partial=result)
    return result


def _vectors(adapter: Adapter, vector: Any, layers: Any) -> dict[int, SteeringVector]:
    if isinstance(vector, SteeringVector):
        return dict.fromkeys(adapter.layers(layers), vector)
    if not isinstance(vector, Mapping) or not vector:
        raise ArgumentError(
            f"vector={vector!r}: a SteeringVector, or a mapping layer → SteeringVector."
        )
    vectors = vector if isinstance(vector, SteeringVectors) else SteeringVectors(vector)
    chosen = adapter.layers(
        list(vectors) if isinstance(layers, str) and layers == "all" else layers
    )
    missing = [layer for layer in chosen if layer not in vectors]
    if missing:
        raise ArgumentError(f"layers: there is no vector for {missing}; it has {list(vectors)}.")
    return {layer: vectors[layer] for layer in chosen}


def _scales(scales: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(scale) for scale in scales)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"scales={scales!r}: numbers.") from error
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise ArgumentError(f"scales={scales!r}: one or more different finite numbers.")
    return tuple(sorted(found))


def _measures(measure: Any, groups: Sequence[Subject]) -> tuple[str, ...]:
    known = {name for group in groups for name in MEASURES["questions" if group.asks else "texts"]}
    if measure == "all":
        return tuple(sorted(known))
    found = (measure,) if isinstance(measure, str) else tuple(measure or ())
    allowed = sorted({*known, "tokens"})
    if not found or not set(found) <= set(allowed):
        raise ArgumentError(
            f'measure={measure!r}: "all", or some of {", ".join(allowed)} for these texts.'
        )
    return found


def _facts(vector: Any, runs: Sequence[Run]) -> dict[str, Any]:
    first = next(iter(runs[0].vectors.values()))
    single = isinstance(vector, SteeringVector)
    return {
        "site": first.site,
        "vector": "the same at every layer" if single else "each layer its own",
        "vector_of": first.provenance,
        "layers": list(runs[0].vectors),
        "scales": list(runs[0].scales),
        "positions": {run.subject.name: run.positions.describe() for run in runs},
        "texts": {run.subject.name: len(run.subject.rows) for run in runs},
        "asks": [run.subject.name for run in runs if run.subject.asks],
    }


def _ended(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "finished": {run.subject.name: len(run.outcome.answers) for run in runs},
        "complete": all(
            run.outcome.complete and len(run.outcome.answers) == len(run.subject.rows)
            for run in runs
        ),
        "notes": [note for run in runs for note in run.outcome.notes],
    }
