"""One vector or many, at every layer and scale asked for, measured on questions and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..costs import Plan
from ..edits import Add
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..positions import Positions, Step
from ..running.batching import Outcome, each_group, plan_groups
from ..running.fanning import WHOLE, Fan, times_that_fit, tokens_that_fit
from ..running.session import all_prompts, prompt_step
from ..settings import current
from ..tokens import Bos, TokenBatch
from .layered import SteeringVectors
from .measures import kl, losses
from .subjects import Row, Subject, subjects
from .sweep_result import MEASURES, Sweep, sweep_result
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
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.sweep")
    vectors = _vectors(adapter, vector, layers)
    strengths = _scales(scales)
    groups = subjects(adapter, texts, bos=bos, limit=limit, column=column)
    wanted = _measures(measure, groups)
    runs = [
        _Run(adapter, group, vectors, strengths, positions, "tokens" in wanted) for group in groups
    ]
    facts = {**adapter.provenance(), "bos": adapter.bos(bos), **_facts(vector, runs)}
    if current("dry_run", dry_run):
        largest = max(runs, key=lambda run: sum(map(len, run.subject.rows)))
        return plan_groups(
            [row.tokens for row in largest.subject.rows],
            largest.work,
            batch_tokens=largest.batch_tokens(batch_tokens),
            device=adapter.device,
            provenance={**facts, "complete": False},
        )
    seed = current("seed", seed) or 0
    for run in runs:
        run.read(batch_tokens, progress)
        if not run.outcome.complete:
            break
    done = [run for run in runs if run.outcome.answers]
    if not done:
        raise Interrupted("interrupted before the first documents were finished.")
    result = sweep_result(adapter, done, wanted, {**facts, **_ended(runs), "seed": seed})
    if not result.provenance["complete"]:
        raise Interrupted("interrupted; .partial holds what was finished.", partial=result)
    return result


@dataclass
class _Run:
    """One group of rows under every layer and scale.

    Attributes:
        outcome: for each finished row, float64 `[measure layer scale]` sums, the plain `[measure]`
            sums, and `[measure]` counts, measures as in `names`.
        moved: with `tokens`, summed next-token probabilities after the finished rows, float32
            `[layer scale d_vocab]`; `after` those of the plain model, `[d_vocab]`.
    """

    adapter: Adapter
    subject: Subject
    vectors: dict[int, SteeringVector]
    scales: tuple[float, ...]
    given: Positions | None
    tokens: bool
    outcome: Outcome[dict[str, np.ndarray]] = field(default_factory=lambda: Outcome())
    moved: np.ndarray | None = None
    after: np.ndarray | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        first = next(iter(self.vectors.values()))
        self.positions = self.subject.positions(self.given, first)
        if self.positions.moves:
            raise ArgumentError(
                "positions=last() moves with every token; see lp.steering.compare_persistence."
            )
        template = first.add(1.0, self.positions, layers=list(self.vectors))
        self.template = template.bind(self.adapter)
        rows = self.subject.rows
        prompts = all_prompts(self.adapter, [r.tokens for r in rows], [r.prompt for r in rows])
        self.template.positions.check(prompts)
        self.zero = [k for k, scale in enumerate(self.scales) if scale == 0]
        self.nonzero = [k for k, scale in enumerate(self.scales) if scale != 0]
        self.names = MEASURES["questions" if self.subject.asks else "texts"]

    def batch_tokens(self, given: int | None) -> int:
        """Tokens of one pass: the logits of a text's every token must fit in memory."""
        if self.subject.asks:
            return current("batch_tokens", given)
        return tokens_that_fit(self.adapter, given)

    def read(self, batch_tokens: int | None, progress: bool | None) -> None:
        """Fill `outcome`."""
        self.outcome = each_group(
            [row.tokens for row in self.subject.rows],
            self.work,
            batch_tokens=self.batch_tokens(batch_tokens),
            progress=progress,
        )
        if not self.shared:
            self.outcome.notes.append(WHOLE)

    def work(self, index: list[int]) -> list[dict[str, np.ndarray]]:
        """The numbers of some rows, read as one batch."""
        rows = [self.subject.rows[i] for i in index]
        batch = TokenBatch.pad(self.adapter, [row.tokens for row in rows], side="left")
        prompts = np.array([row.prompt for row in rows])
        kept = "last" if self.subject.asks else "all"
        step = prompt_step(batch, prompts=prompts, rows=np.asarray(index))
        fan = Fan(
            self.adapter, batch, [self.template], prompts=prompts, rows=step.rows, logits=kept
        )
        self.shared = self.shared and fan.shared
        reading = _Reading(self, rows, batch, step, fan)
        plain = reading.sums(reading.plain[:, None])
        cells = np.zeros((*plain.shape[:2], len(self.vectors), len(self.scales)))
        # Scale 0 is the plain run, which is there already.
        cells[:, :, :, self.zero] = plain[:, :, None]
        after = reading.next(reading.plain[:, None])[0] if self.tokens else np.zeros(0)
        moved = np.tile(after, (len(self.vectors), len(self.scales), 1))
        for at, (layer, vector) in enumerate(self.vectors.items()):
            for part in _parts(self.nonzero, times_that_fit(fan, len(self.scales))):
                logits = self._branch(fan, vector, layer, [self.scales[k] for k in part])
                cells[:, :, at, part] = reading.sums(logits)
                if self.tokens:
                    moved[at, part] = reading.next(logits)
        # Last, and all at once: a batch that ran out of memory is read again in halves.
        self.moved = moved if self.moved is None else self.moved + moved
        self.after = after if self.after is None else self.after + after
        return [
            {"cells": cells[i], "plain": plain[i, :, 0], "counts": reading.counts[i]}
            for i in range(len(rows))
        ]

    def _branch(
        self, fan: Fan, vector: SteeringVector, layer: int, scales: Sequence[float]
    ) -> Tensor:
        """Logits `[row scale column d_vocab]`."""
        rows = fan.rows
        strengths = torch.tensor(scales, dtype=torch.float64).repeat(rows)
        edit: Add = vector.add(strengths, self.positions, layers=layer)
        out = fan.run([edit], times=len(scales))
        assert out is not None
        return out.unflatten(0, (rows, len(scales)))


class _Reading:
    """What is read off the logits of one batch."""

    def __init__(self, run: _Run, rows: list[Row], batch: TokenBatch, step: Step, fan: Fan) -> None:
        assert fan.logits is not None
        self.asks = run.subject.asks
        self.plain: Tensor = fan.logits
        device = self.plain.device
        if self.asks:
            pairs = [row.answers for row in rows]
            self.answers = torch.tensor(pairs, device=device)
            self.counts = np.ones((len(rows), len(run.names)))
            return
        selected = run.template.positions.mask(step)
        # From a row's first edited token on, whatever else the batch holds.
        reached = (selected.cumsum(1) > 0)[:, fan.first : -1] & (step.positions >= 0)[
            :, fan.first : -1
        ]
        self.scored = torch.from_numpy(reached).to(device)
        self.targets = batch.ids[:, fan.first + 1 :]
        self.counts = np.repeat(reached.sum(1)[:, None], len(run.names), axis=1).astype(float)

    def sums(self, logits: Tensor) -> np.ndarray:
        """Each row's totals, float64 `[row measure scale]`, of `[row scale column d_vocab]`."""
        if self.asks:
            scores = logits[:, :, -1].float()
            index = self.answers[:, None].expand(-1, scores.shape[1], -1)
            pair = scores.gather(-1, index).double()
            odds = pair[..., 0] - pair[..., 1]
            plain = self.plain[:, None, -1].expand_as(scores)
            found = [odds.sigmoid(), odds, kl(scores, plain)]
            return torch.stack([part.double() for part in found], dim=1).cpu().numpy()
        found = np.zeros((len(logits), 2, logits.shape[1]))
        # Row by row: the float32 copies of all logits at once would be most of the memory.
        for row, (steered, base) in enumerate(zip(logits, self.plain, strict=True)):
            for k, scores in enumerate(steered[:, :-1]):
                mask = self.scored[row]
                picked = scores[mask]
                found[row, 0, k] = losses(picked, self.targets[row][mask]).double().sum().item()
                found[row, 1, k] = kl(picked, base[:-1][mask]).double().sum().item()
        return found

    def next(self, logits: Tensor) -> np.ndarray:
        """Next-token probabilities after the rows, summed over them, float32 `[scale d_vocab]`."""
        return logits[:, :, -1].float().softmax(-1).sum(0).cpu().numpy()


def _parts(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[begin : begin + size]) for begin in range(0, len(indices), size)]


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
    found = (measure,) if isinstance(measure, str) else tuple(measure)
    allowed = sorted({*known, "tokens"})
    if not found or not set(found) <= set(allowed):
        raise ArgumentError(
            f'measure={measure!r}: "all", or some of {", ".join(allowed)} for these texts.'
        )
    return found


def _facts(vector: Any, runs: Sequence[_Run]) -> dict[str, Any]:
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


def _ended(runs: Sequence[_Run]) -> dict[str, Any]:
    return {
        "finished": {run.subject.name: len(run.outcome.answers) for run in runs},
        "complete": all(
            run.outcome.complete and len(run.outcome.answers) == len(run.subject.rows)
            for run in runs
        ),
        "notes": [note for run in runs for note in run.outcome.notes],
    }
