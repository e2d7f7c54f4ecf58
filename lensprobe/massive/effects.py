"""What edited runs are compared in: losses, divergence, and how heads use one position.

A `Comparison` reads a batch once, plain, and lets edited runs branch off it (`running.fanning`). Every
number is kept by sequence, so that intervals can be over documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..edits import Edit
from ..errors import ModelError
from ..models.adapter import Adapter
from ..models.weights import weights_of
from ..running.fanning import Fan
from ..running.measures import log_probs
from ..running.readout import compared_runs, unembedded_in_pieces
from ..running.session import Hook
from ..tokens import Encoded, TokenBatch

__all__ = ["EPSILON", "Comparison", "Measured", "Meter", "joined_runs"]

EPSILON = 0.3
"""Least attention of a sink, as in Gu et al. (2410.10781)."""
BY_RUN = ("loss", "kl", "attention", "value_norm", "other_norm")
UNREAD = "the weights cannot be read as numbers, so that the norms of v · W_O are left out"


@dataclass(frozen=True)
class Measured:
    """Some runs of some sequences, float64.

    Attributes:
        loss, kl: `[row run]`, nats summed over the predicted tokens.
        count: `[row]`, how many tokens that is.
        attention: `[row run layer head]`, mean over queries from the position on.
        value_norm, other_norm: `[row run layer head]`, norm of v · W_O at the position, and its mean
            over the tokens after it.
    """

    loss: np.ndarray
    kl: np.ndarray
    count: np.ndarray
    attention: np.ndarray
    value_norm: np.ndarray
    other_norm: np.ndarray

    def run(self, index: int) -> Measured:
        """One of the runs, its axis kept."""
        return replace(self, **{k: vars(self)[k][:, index : index + 1] for k in BY_RUN})

    def rows(self) -> list[Measured]:
        """The sequences one by one, without their axis."""
        return [Measured(**{k: v[i] for k, v in vars(self).items()}) for i in range(len(self.loss))]


def joined_runs(parts: Sequence[Measured]) -> Measured:
    """Runs of the same sequences side by side."""
    joined = {k: np.concatenate([vars(p)[k] for p in parts], 1) for k in BY_RUN}
    return Measured(count=parts[0].count, **joined)


class Meter:
    """Where heads are read, and what turns a value vector into what a head writes of it.

    Attributes:
        notes: what could not be read.
    """

    def __init__(self, adapter: Adapter, position: int) -> None:
        self.adapter = adapter
        self.position = position
        layers = range(adapter.n_layers)
        self.patterns = {n: adapter.hook_name("attn.pattern", n) for n in layers}
        self.values = {n: adapter.hook_name("attn.v", n) for n in layers}
        self.notes: list[str] = []
        try:
            weights = weights_of(adapter)
            self.outputs = [weights.output_norms(n) for n in layers]
        except ModelError:
            self.outputs = None
            self.notes.append(UNREAD)

    def watch(self, batch: TokenBatch, times: int) -> _Watch:
        """The hooks of one pass over a batch whose rows are there `times` times each."""
        return _Watch(self, batch, times)


class _Watch:
    """What the hooks of one pass have left so far: arrays `[row head]` by layer."""

    def __init__(self, meter: Meter, batch: TokenBatch, times: int) -> None:
        self.meter = meter
        self.times = times
        self.width = batch.ids.shape[1]
        self.real = batch.mask.repeat_interleave(times, 0)
        self.attention: dict[int, Tensor] = {}
        self.norms: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def hooks(self) -> dict[str, Hook]:
        """For `Fan` and its branches."""
        found: dict[str, Hook] = {}
        for n, name in self.meter.patterns.items():
            found[name] = lambda x, n=n: self._pattern(n, x)
        if self.meter.outputs is not None:
            for n, name in self.meter.values.items():
                found[name] = lambda x, n=n: self._value(n, x)
        return found

    def _counted(self, columns: int, begin: int, device: torch.device) -> Tensor:
        """Which of the last `columns` tokens are real and stand at `begin` or after."""
        place = torch.arange(self.width - columns, self.width, device=device)
        return self.real.to(device)[:, self.width - columns :] & (place >= begin)

    def _pattern(self, layer: int, pattern: Tensor) -> None:
        paid = pattern.detach()[..., self.meter.position].float()
        counted = self._counted(paid.shape[2], self.meter.position, paid.device)
        # where, because rows of pads may hold anything, NaN too.
        total = torch.where(counted[:, None], paid, 0.0).sum(2)
        self.attention[layer] = (total / counted.sum(1)[:, None]).double().cpu()

    def _value(self, layer: int, value: Tensor) -> None:
        adapter, position = self.meter.adapter, self.meter.position
        assert self.meter.outputs is not None
        v = value.detach().flatten(2).unflatten(-1, (adapter.n_kv_heads, -1)).float()
        v = v.repeat_interleave(adapter.n_heads // adapter.n_kv_heads, dim=2)
        written = torch.einsum("rthd,hwd->rthw", v, self.meter.outputs[layer].to(v.device))
        norms = written.norm(dim=-1)
        own = norms[:, position - self.width + v.shape[1]]
        later = self._counted(v.shape[1], position + 1, v.device)
        others = torch.where(later[..., None], norms, 0.0).sum(1) / later.sum(1)[:, None]
        self.norms[layer] = own.double().cpu(), others.double().cpu()

    def heads(self, plain: Measured | None) -> dict[str, np.ndarray]:
        """`[row run layer head]`; layers that did not run are the plain run's."""
        rows, heads = len(self.real) // self.times, self.meter.adapter.n_heads
        names = ("attention", "value_norm", "other_norm")
        shape = (len(self.real), len(self.meter.patterns), heads)
        found = {name: np.full(shape, np.nan) for name in names}
        for n in self.meter.patterns:
            if n in self.attention:
                found["attention"][:, n] = self.attention[n].numpy()
            if n in self.norms:
                found["value_norm"][:, n], found["other_norm"][:, n] = (
                    x.numpy() for x in self.norms[n]
                )
        split = {k: v.reshape(rows, self.times, *shape[1:]) for k, v in found.items()}
        for name in names if plain is not None else ():
            below = [n for n in self.meter.patterns if n not in self.attention]
            split[name][:, :, below] = vars(plain)[name][:, :, below]
        return split


class Comparison:
    """A batch read plain, and the same batch under edits.

    Only predictions from `position` on are scored: no edit there can change those before it.

    Args:
        meter: what is read of heads.
        rows: the sequences.
        edits: what will be run; see `Fan`.
        probes: further hooks of the plain run.

    Attributes:
        plain: the plain run, one run a row.
        fan: what branches off it.
    """

    def __init__(
        self,
        meter: Meter,
        rows: Sequence[Encoded],
        edits: Sequence[Edit],
        *,
        probes: Mapping[str, Hook] | None = None,
    ) -> None:
        self.meter = meter
        # On the right, so that the position is the same column in every row.
        self.batch = TokenBatch.pad(meter.adapter, rows)
        watch = meter.watch(self.batch, 1)
        self.fan = Fan(
            meter.adapter,
            self.batch,
            edits,
            probes={**watch.hooks, **(probes or {})},
            # Runs end before the final norm, and are unembedded some tokens at a time; but the
            # user's hooks must see whole passes.
            logits="all" if meter.adapter.user_hooks() else None,
        )
        first = self.fan.first
        self.targets = self.batch.ids[:, first + 1 :]
        place = torch.arange(first, self.batch.ids.shape[1] - 1, device=self.targets.device)
        self.scored = self.batch.mask[:, first + 1 :] & (place >= meter.position)
        ends = self.fan.logits if self.fan.ends is None else self.fan.ends
        assert ends is not None
        self.log_plain = [
            self._log_probs(runs[:-1][mask]) for runs, mask in zip(ends, self.scored, strict=True)
        ]
        self.plain = self._measured(ends, watch, None)

    def _log_probs(self, ends: Tensor) -> Tensor:
        """Of one text's tokens, unembedded in the pieces in which a branch is."""
        if self.fan.ends is None:
            return log_probs(ends)
        return torch.cat(
            [log_probs(part) for part in unembedded_in_pieces(self.meter.adapter, ends)]
        )

    def run(
        self, edits: Sequence[Edit], *, times: int = 1, hooks: Mapping[str, Hook] | None = None
    ) -> Measured:
        """One branch; see `Fan.run`. `hooks` may write too, from the edits' first block on."""
        watch = self.meter.watch(self.batch, times)
        ends = self.fan.run(
            edits,
            times=times,
            probes={**watch.hooks, **(hooks or {})},
            stop=self.fan.adapter.n_layers,
        )
        assert ends is not None
        return self._measured(ends, watch, self.plain)

    def _measured(self, ends: Tensor, watch: _Watch, plain: Measured | None) -> Measured:
        adapter, rows, times = self.meter.adapter, self.fan.rows, watch.times
        loss, kl = np.zeros((rows, times)), np.zeros((rows, times))
        for row, runs in enumerate(ends.unflatten(0, (rows, times))):
            mask = self.scored[row]
            log_plain, targets = self.log_plain[row], self.targets[row, mask]
            if plain is None:
                loss[row] = float(-log_plain.gather(-1, targets[:, None]).double().sum())
                continue
            own = runs[:, :-1][:, mask]
            found = compared_runs(adapter, own, targets, log_plain, logits=not self.fan.shared)
            loss[row], kl[row] = (values.cpu().numpy() for values in found)
        count = self.scored.sum(1).cpu().numpy().astype(float)
        return Measured(loss=loss, kl=kl, count=count, **watch.heads(plain))
