"""One group of documents under every layer and scale of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..costs import Plan
from ..edits import Add
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..positions import Positions, Step
from ..running.batching import Outcome, each_group, plan_groups
from ..running.fanning import WHOLE, Fan, times_that_fit, tokens_that_fit
from ..running.measures import kl, log_probs
from ..running.readout import compared_runs, unembedded
from ..running.session import all_prompts, prompt_step
from ..settings import current
from ..tokens import TokenBatch
from .subjects import Row, Subject
from .vector import SteeringVector

__all__ = ["MEASURES", "Run"]

MEASURES = {"questions": ("probability", "log_odds", "kl"), "texts": ("loss", "kl")}
"""What is measured on each kind of document; a loss also gives its perplexity and ratio."""


@dataclass
class Run:
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
        if not isinstance(self.positions, Positions):
            raise ArgumentError(f"positions={self.given!r}: a selector such as lp.positions.all().")
        if self.positions.moves:
            raise ArgumentError(
                "positions=last() moves with every token; see lp.steering.compare_persistence."
            )
        template = first.add(1.0, self.positions, layers=list(self.vectors))
        self.template = template.bind(self.adapter)
        rows = self.subject.rows
        prompts = all_prompts(self.adapter, [r.tokens for r in rows], [r.prompt for r in rows])
        self.template.positions.check(prompts)
        if not self.subject.asks and not any(map(self._reaches, range(len(rows)))):
            raise ArgumentError(
                f"positions={self.positions.describe()} selects nothing that a later token of "
                f"{self.subject.name} could show: nothing would be scored."
            )
        self.zero = [k for k, scale in enumerate(self.scales) if scale == 0]
        self.nonzero = [k for k, scale in enumerate(self.scales) if scale != 0]
        self.names = MEASURES["questions" if self.subject.asks else "texts"]

    def _reaches(self, index: int) -> bool:
        """Whether a text has a token to be scored after an edited one."""
        row = self.subject.rows[index]
        batch = TokenBatch.pad(self.adapter, [row.tokens])
        place = {"prompts": np.array([row.prompt]), "rows": np.array([index])}
        mask = self.template.positions.mask(prompt_step(batch, **place))
        return bool(mask[:, :-1].any())

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

    def plan(self, batch_tokens: int | None, provenance: dict[str, Any]) -> Plan:
        """What `read` would cost."""
        return plan_groups(
            [row.tokens for row in self.subject.rows],
            self.work,
            batch_tokens=self.batch_tokens(batch_tokens),
            device=self.adapter.device,
            provenance={**provenance, "complete": False},
        )

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
        plain = reading.plain_sums()
        cells = np.zeros((*plain.shape[:2], len(self.vectors), len(self.scales)))
        # Scale 0 is the plain run, which is there already.
        cells[:, :, :, self.zero] = plain[:, :, None]
        after = _probabilities(reading.plain[:, None, -1])[0] if self.tokens else np.zeros(0)
        moved = np.tile(after, (len(self.vectors), len(self.scales), 1))
        for at, (layer, vector) in enumerate(self.vectors.items()):
            for part in _parts(self.nonzero, self._at_once(fan)):
                ends = self._branch(fan, vector, layer, [self.scales[k] for k in part])
                cells[:, :, at, part] = reading.sums(ends)
                if self.tokens:
                    moved[at, part] = _probabilities(reading.last(ends))
        # Last, and all at once: a batch that ran out of memory is read again in halves.
        self.moved = moved if self.moved is None else self.moved + moved
        self.after = after if self.after is None else self.after + after
        return [
            {"cells": cells[i], "plain": plain[i, :, 0], "counts": reading.counts[i]}
            for i in range(len(rows))
        ]

    def _at_once(self, fan: Fan) -> int:
        return times_that_fit(fan, len(self.scales), logits=self.subject.asks)

    def _branch(
        self, fan: Fan, vector: SteeringVector, layer: int, scales: Sequence[float]
    ) -> Tensor:
        """Logits of questions `[row scale 1 d_vocab]`; of texts what they are unembedded from."""
        rows = fan.rows
        strengths = torch.tensor(scales).repeat(rows)
        edit: Add = vector.add(strengths, self.positions, layers=layer)
        stop = None if self.subject.asks else self.adapter.n_layers
        out = fan.run([edit], times=len(scales), stop=stop)
        assert out is not None
        return out.unflatten(0, (rows, len(scales)))


class _Reading:
    """What is read off the logits of one batch."""

    def __init__(self, run: Run, rows: list[Row], batch: TokenBatch, step: Step, fan: Fan) -> None:
        assert fan.logits is not None
        self.fan = fan
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
        self.log_plain = [
            log_probs(scores[:-1][mask])
            for scores, mask in zip(self.plain, self.scored, strict=True)
        ]
        self.counts = np.repeat(reached.sum(1)[:, None], len(run.names), axis=1).astype(float)

    def plain_sums(self) -> np.ndarray:
        """Each row's totals of the plain run, float64 `[row measure 1]`."""
        if self.asks:
            return self.sums(self.plain[:, None])
        found = np.zeros((len(self.plain), 2, 1))
        for row, log_plain in enumerate(self.log_plain):
            targets = self.targets[row][self.scored[row]]
            found[row, 0] = float(-log_plain.gather(-1, targets[:, None]).double().sum())
        return found

    def sums(self, ends: Tensor) -> np.ndarray:
        """Each row's totals, float64 `[row measure scale]`, of what a branch left."""
        if self.asks:
            scores = ends[:, :, -1].float()
            index = self.answers[:, None].expand(-1, scores.shape[1], -1)
            pair = scores.gather(-1, index)
            odds = pair[..., 0] - pair[..., 1]
            plain = self.plain[:, None, -1].expand_as(scores)
            found = [odds.sigmoid(), odds, kl(scores, plain)]
            return torch.stack(found, dim=1).cpu().double().numpy()
        sums = []
        for row, runs in enumerate(ends):
            mask = self.scored[row]
            found = compared_runs(
                self.fan.adapter,
                runs[:, :-1][:, mask],
                self.targets[row][mask],
                self.log_plain[row],
                logits=not self.fan.shared,
            )
            sums.append(torch.stack(found).cpu().numpy())
        return np.stack(sums)

    def last(self, ends: Tensor) -> Tensor:
        """Logits after each row, `[row scale d_vocab]`."""
        newest = ends[:, :, -1]
        if self.asks or not self.fan.shared:
            return newest
        return unembedded(self.fan.adapter, newest.flatten(0, 1)).unflatten(0, newest.shape[:2])


def _probabilities(logits: Tensor) -> np.ndarray:
    """Next-token probabilities `[row scale d_vocab]` summed over rows, float32 `[scale d_vocab]`."""
    return logits.float().softmax(-1).sum(0).cpu().numpy()


def _parts(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[begin : begin + size]) for begin in range(0, len(indices), size)]
