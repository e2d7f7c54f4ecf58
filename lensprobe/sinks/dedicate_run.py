"""Runs of texts and repeats behind a virtual sink or not, and what is measured of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import Interrupted
from ..models.adapter import Adapter
from ..running.batching import buckets
from ..running.measures import losses
from ..running.session import Hook
from ..tokens import Encoded, TokenBatch
from .comparing import compared
from .front import Front, read_behind
from .onset import FOOLED, Onset

__all__ = ["Measured", "Run", "Variant", "own_tokens"]


def own_tokens(row: Encoded, bos: bool) -> Encoded:
    """The text's own tokens."""
    return Encoded(row.ids[1:]) if bos else Encoded(row.ids)


@dataclass(frozen=True)
class Variant:
    """One run: which sequences, behind what, with what taken away."""

    group: str
    condition: str
    kind: str


@dataclass(frozen=True)
class Measured:
    """What one run of some sequences did, float64 `[row]`."""

    loss: np.ndarray
    count: np.ndarray
    attention: np.ndarray
    sink_rate: np.ndarray
    first_rate: np.ndarray
    massive: np.ndarray
    largest: np.ndarray


@dataclass
class Run:
    """What all variants share.

    Attributes:
        data: sequences of each group, and which document each is a piece of.
        fronts: what stands in front in each condition; None is the text as it is.
        kinds: hooks that take something away.
        bos: whether every sequence begins with BOS, which a virtual sink replaces.
    """

    adapter: Adapter
    data: Mapping[str, tuple[list[Encoded], list[int]]]
    fronts: Mapping[str, Front | None]
    kinds: Mapping[str, Mapping[str, Hook]]
    onset: Onset
    bos: bool
    epsilon: float
    batch_tokens: int

    @torch.no_grad()
    def measured(self, plan: Variant) -> Measured:
        """All sequences of a group in one run."""
        rows, _ = self.data[plan.group]
        front = self.fronts[plan.condition]
        own = rows if front is None else [own_tokens(row, self.bos) for row in rows]
        parts, order = [], []
        for group in buckets(own, self.batch_tokens):
            batch = TokenBatch.pad(self.adapter, [own[i] for i in group])
            seen = _Seen(self, batch, front is not None)
            logits = read_behind(
                self.adapter, batch, front, hooks={**self._written(plan, seen), **seen.patterns}
            )
            parts.append(seen.measured(logits))
            order += group
        back = np.argsort(order)
        return Measured(
            **{
                f.name: np.concatenate([getattr(part, f.name) for part in parts])[back]
                for f in fields(Measured)
            }
        )

    def _written(self, plan: Variant, seen: _Seen) -> dict[str, Hook]:
        """The hooks that take away, and behind them the one that reads what is left."""
        hooks = dict(self.kinds[plan.kind])
        point = self.adapter.hook_name("resid_post", self.onset.layer)
        write = hooks.pop(point, None)

        def both(residual: Tensor) -> Tensor | None:
            written = None if write is None else write(residual)
            seen.residual(residual if written is None else written)
            return written

        return {**hooks, point: both}

    def effects(
        self, plan: Sequence[Variant], found: Sequence[Measured], seed: int
    ) -> pd.DataFrame:
        """`Dedicate.effects` of the finished runs."""
        frames = []
        for group, (_, documents) in self.data.items():
            own = [(one, run) for one, run in zip(plan, found, strict=False) if one.group == group]
            if not own:
                continue
            labels = {
                "condition": [one.condition for one, _ in own],
                "kind": [one.kind for one, _ in own],
                "group": [group] * len(own),
            }
            each = np.ones(len(documents))
            sums = {"loss": (np.stack([run.loss for _, run in own]), own[0][1].count)}
            for name in ("attention", "sink_rate", "first_rate", "massive", "largest"):
                sums[name] = np.stack([getattr(run, name) for _, run in own]), each
            frames.append(compared(sums, documents, labels, base=[0] * len(own), seed=seed))
        if not frames:
            raise Interrupted("interrupted before the first run was done.")
        return pd.concat(frames, ignore_index=True)


class _Seen:
    """What the hooks of one pass have left so far.

    Columns of the batch before a text's first own token: one, where BOS stands there. Keys before
    it: BOS or the virtual sink.
    """

    def __init__(self, run: Run, batch: TokenBatch, behind: bool) -> None:
        self.run = run
        self.batch = batch
        self.lead = int(run.bos and not behind)
        self.first = int(run.bos or behind)
        self.later = batch.mask[:, self.lead + 1 :]
        self.attention: dict[int, Tensor] = {}
        self.values = torch.empty(0)

    @property
    def patterns(self) -> dict[str, Hook]:
        """Hooks at every layer's attention."""
        adapter = self.run.adapter

        def probe(layer: int) -> Hook:
            def see(pattern: Tensor) -> None:
                paid = pattern[:, :, self.lead + 1 :, [0, self.first]].float()
                real = self.later.to(paid.device)[:, None, :, None]
                # where, because rows of pads may hold anything, NaN too.
                total = torch.where(real, paid, 0.0).double().sum(2) / real.sum(2)
                self.attention[layer] = total.cpu()

            return see

        layers = range(adapter.n_layers)
        return {adapter.hook_name("attn.pattern", layer): probe(layer) for layer in layers}

    def residual(self, residual: Tensor) -> None:
        """What the coordinate is at every token."""
        self.values = residual[..., self.run.onset.dim].detach().abs().double().cpu()

    def measured(self, logits: Tensor) -> Measured:
        """The numbers of this batch."""
        begin = self.lead
        # [row layer head front-or-first]
        attention = torch.stack([self.attention[n] for n in sorted(self.attention)], 1).numpy()
        above = (attention > self.run.epsilon).mean((1, 2))
        lost = torch.stack(
            [
                losses(row[begin:-1], ids[begin + 1 :])
                for row, ids in zip(logits, self.batch.ids, strict=True)
            ]
        )
        lost = torch.where(self.later, lost, 0.0).double().sum(1)
        real = self.batch.mask.cpu()
        values = torch.where(real, self.values, 0.0)
        massive = (values >= FOOLED * self.run.onset.value).double().sum(1) / real.sum(1)
        return Measured(
            loss=lost.cpu().numpy(),
            count=self.later.sum(1).cpu().numpy().astype(float),
            attention=attention[..., 0].mean((1, 2)),
            sink_rate=above[:, 0],
            first_rate=above[:, 1],
            massive=massive.numpy(),
            largest=values.amax(1).numpy(),
        )
