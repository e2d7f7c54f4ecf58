"""Many edited runs of one batch for the price of the blocks and tokens in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..edits import Edit
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..models.cache import Cache
from ..positions import Positions, Step
from ..settings import current
from ..tokens import TokenBatch
from .session import Hook, Session, hooked, part, prompt_step

__all__ = ["WHOLE", "Fan", "owned", "times_that_fit", "tokens_that_fit"]

WHOLE = "hooks of your own are attached: every run was a whole pass, and nothing was shared"
"""The note for a result that was measured under the user's hooks."""

BRANCH_BYTES = 192 * 2**20
"""What one branch may take for logits and keys and values of its rows."""


class Fan:
    """A batch read once, plain, from which edited runs branch off.

    A branch starts at the first block that its edits can change and at the first token that any
    edit selects; what lies before is the plain run's. Branches that differ in strength alone ride
    on the batch axis, so that a block's weights are read once for all of them. Every branch equals
    a whole pass of its own.

    Pad the batch on the left: rows then end together, and edits near the prompt's end leave only a
    few columns to compute. Where the user has hooks of their own, whole passes are run, so that
    those hooks see what they would have seen (`shared` is false then; results say `WHOLE`).

    Args:
        adapter: the model.
        batch: the texts, `[batch pos]`.
        edits: what will be run, for its sites, layers and positions; strengths do not matter.
        prompts: prompt lengths `[batch]`; None takes each whole text as the prompt.
        rows: which of the caller's texts each row is, for selectors that go by text; None counts.
        probes: hooks of the plain run, which see its columns from `first` on.
        logits: which columns are unembedded, in the plain run and in the branches.

    Attributes:
        rows: texts in the batch.
        first: the first column that is computed in a branch.
        logits: float `[batch tail d_vocab]` of the plain run from column `first` on (the last one
            alone with `"last"`), or None.
        ends: without logits, float `[batch tail d_model]`, what they would be unembedded from.

    Raises:
        ArgumentError: an edit that moves with the newest token, which no single pass computes.
    """

    def __init__(
        self,
        adapter: Adapter,
        batch: TokenBatch,
        edits: Sequence[Edit],
        *,
        prompts: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        probes: Mapping[str, Hook] | None = None,
        logits: Literal["all", "last"] | None = "all",
    ) -> None:
        bound = [edit.bind(adapter) for edit in edits]
        if any(edit.positions.moves for edit in bound):
            raise ArgumentError("positions=last() moves with every token; one pass cannot hold it.")
        self.adapter = adapter
        self.shared = not adapter.user_hooks()
        self.kept: Literal["all", "last"] | None = logits
        self._whole = prompt_step(batch, prompts=prompts, rows=rows)
        self.rows = len(batch.ids)
        self._ids = batch.ids
        self.first = _first_column(bound, self._whole) if self.shared else 0
        self._step = part(self._whole, self.first, batch.ids.shape[1])
        self._cache: Cache | None = None
        self._residuals: dict[int, Tensor] = {}
        starts = {s for edit in bound for s in _starts(adapter, edit)} if self.shared else set()
        read = self._read_plain(starts - {0}, probes or {})
        self.logits, self.ends = (read, None) if logits else (None, read)

    @property
    def columns(self) -> int:
        """How many columns a branch computes."""
        return self._step.positions.shape[1]

    def start(self, edits: Sequence[Edit]) -> int:
        """The first block that a branch with these edits runs; probes below it stay silent."""
        if not self.shared:
            return 0
        return min(start for edit in edits for start in _starts(self.adapter, edit))

    @torch.no_grad()
    def run(
        self,
        edits: Sequence[Edit],
        *,
        times: int = 1,
        probes: Mapping[str, Hook] | None = None,
        stop: int | None = None,
    ) -> Float[Tensor, "rows tail d_vocab"] | None:
        """One branch: every text `times` times in a row, row `text * times + k` of the batch.

        Args:
            edits: their per-text strengths have `batch * times` entries, in that order.
            times: how many strengths ride on the batch.
            probes: hooks `name -> f(activation)`; activations have `batch * times` rows and, but for
                the keys of a pattern, the columns from `first` on.
            stop: first block that is not run, for what is only read by probes; the answer is then
                the residual there. Where nothing is shared every block runs.

        Raises:
            ArgumentError: strengths for another number of rows.
        """
        start = self.start(edits)
        stop = stop if self.shared else None
        step = _repeated(self._step, times)
        owners = np.repeat(self._step.rows, times)
        edits = [replace(edit, positions=owned(edit.positions, owners)) for edit in edits]
        inputs = self._residuals[start] if start else self._ids[:, self.first :]
        cache = None if self._cache is None else self._cache.repeated(times, start)
        session = Session(self.adapter, self._moved(edits), probes, texts=len(step.rows))
        with session:
            return session.read(
                step,
                inputs.repeat_interleave(times, dim=0),
                cache=cache,
                start=start,
                stop=stop,
                logits=self.kept,
            )

    @torch.no_grad()
    def _read_plain(self, starts: set[int], probes: Mapping[str, Hook]) -> Tensor | None:
        keep = {
            self.adapter.hook_name("resid_pre", start): start
            for start in starts
            if start < self.adapter.n_layers
        }

        def keeper(start: int) -> Hook:
            return lambda activation: self._residuals.__setitem__(start, activation)

        if self.first:
            self._cache = self.adapter.new_cache(len(self._ids))
            front, ids = part(self._whole, 0, self.first), self._ids[:, : self.first]
            Session(self.adapter).read(front, ids, cache=self._cache, logits=None)
        keepers = {name: keeper(start) for name, start in keep.items()}
        tail = self._ids[:, self.first :]
        with Session(self.adapter, (), probes) as session, hooked(self.adapter, keepers):
            stop = None if self.kept else self.adapter.n_layers
            out = session.read(self._step, tail, cache=self._cache, stop=stop, logits=self.kept)
        if self._cache is not None:
            self._cache.drop(tail.shape[1])
        return out

    def _moved(self, edits: Sequence[Edit]) -> list[Edit]:
        """The same edits where a branch can write them: a block's output is the next one's input.

        An output's edits come before those of that input, as they do in a whole pass.
        """
        if not self.shared:
            return list(edits)
        top = self.adapter.n_layers - 1
        outputs, others = [], []
        for edit in edits:
            layers = self.adapter.layers(edit.layers) if edit.site == "resid_post" else ()
            inner = [layer + 1 for layer in layers if layer < top]
            if inner:
                outputs.append(replace(edit, site="resid_pre", layers=inner))
            if top in layers:
                others.append(replace(edit, layers=top))
            if not layers:
                others.append(edit)
        return outputs + others


def times_that_fit(fan: Fan, times: int, *, logits: bool = True) -> int:
    """How many strengths may ride on one branch without taking much memory, from 1 to `times`.

    One, where the user has hooks: they must see the caller's rows, each once. `logits` says whether
    a branch ends in those that the plain run ended in.
    """
    adapter = fan.adapter
    if not fan.shared:
        return 1
    rows, tail = fan.rows, fan.columns
    outputs = {"all": tail, "last": 1, None: 0}[fan.kept if logits else None]
    past = fan.first * 2 * adapter.n_layers * adapter.n_kv_heads * adapter.d_head
    scores = 3 * adapter.n_heads * tail * fan._ids.shape[1]
    inner = 4 * tail * max(adapter.d_mlp, adapter.d_model)
    each = 4 * rows * (3 * outputs * adapter.d_vocab + inner + past + scores)
    return int(np.clip(BRANCH_BYTES // each, 1, times))


def tokens_that_fit(adapter: Adapter, batch_tokens: int | None) -> int:
    """`batch_tokens`, or fewer where every token's logits are wanted and must fit in memory."""
    limit = current("batch_tokens", batch_tokens)
    if not isinstance(limit, int):
        return limit
    return min(limit, max(1, BRANCH_BYTES // (12 * adapter.d_vocab)))


def owned(positions: Positions, owners: np.ndarray) -> Positions:
    """A selector asked about text `owners[row]` where a batch says `row`.

    It is not checked against the batch: the texts themselves were, before.
    """
    rule = positions.rule

    def asked(step: Step) -> np.ndarray:
        return rule(replace(step, rows=owners[step.rows]))

    return replace(positions, rule=asked, needs=None)


def _starts(adapter: Adapter, edit: Edit) -> list[int]:
    """For each layer of an edit, the first block that runs differently under it."""
    after = edit.site == "resid_post"
    top = adapter.n_layers - 1
    return [layer + 1 if after and layer < top else layer for layer in adapter.layers(edit.layers)]


def _first_column(edits: Sequence[Edit], step: Step) -> int:
    masks = [edit.positions.mask(step).any(0) for edit in edits]
    touched = np.flatnonzero(np.any(masks, axis=0)) if masks else np.array([], dtype=int)
    # Something must be left to compute, for the logits of the last column.
    last = step.positions.shape[1] - 1
    return int(touched[0]) if len(touched) else last


def _repeated(step: Step, times: int) -> Step:
    names = ("positions", "tokens", "prompts", "newest")
    many = {name: np.repeat(getattr(step, name), times, axis=0) for name in names}
    roles = [row for row in step.roles for _ in range(times)]
    return replace(step, **many, rows=np.arange(len(many["prompts"])), roles=roles)
