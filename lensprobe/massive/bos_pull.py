"""A little more of one dimension in what attention reads at a position: who attends to it more?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Scale
from ..errors import ArgumentError, HookPointError, Interrupted, ModelError
from ..models.adapter import Adapter, adapter_for
from ..positions import at as at_position
from ..results import Result
from ..running.batching import Outcome, each_group
from ..running.fanning import WHOLE, Fan
from ..running.session import Hook
from ..settings import current, drawn_seed
from ..statistics import interval
from ..tokens import Bos, Encoded, TokenBatch
from .place import scored_rows
from .pull_counts import Counted, counted
from .result import SUN, Finding, MassiveScan
from .subject import Subject, subject
from .target import Group, named

__all__ = ["BosPull", "bos_pull"]

ENDS = ("share", "low", "high")


@dataclass(frozen=True, repr=False, eq=False)
class BosPull(Result):
    """How queries answer to a larger number at one position, layer by layer.

    Queries are the tokens after the position; masked ones do not count. Every layer is asked on its
    own, its input plain, so that nothing but the key at the position has changed.

    Attributes:
        layers: one row a `kind` ("dim", or "random": other dimensions, a mean over draws) and `layer`:
            `share` of (head, query) whose score for the position rises, with `low`, `high` (95%
            bootstrap over documents), the share that `falls`, and `value`, the mean change in
            attention to it.
        heads: one row a `layer` and `head`: the same for the dimension itself, and the signs of query ·
            key, after rotation where there is one: `positive` is the share of queries with a positive
            product, `side` the larger of that share and the rest, a mean over sequences (0.5: the
            queries lie on both sides of the key, 1: on one, so that half of the query space is not
            used). `next_positive` and `next_side` are the same for the next position's key: the
            control. NaN where a sequence has no query behind it.
    """

    kind: ClassVar[str] = "massive.bos_pull"
    citations: ClassVar[tuple[str, ...]] = (SUN,)

    layers: pd.DataFrame
    heads: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Model, coordinate, shares over all layers, and how one-sided queries are."""
        shares = {
            kind: float(np.nanmean(self.layers.loc[self.layers["kind"] == kind, "share"]))
            for kind in ("dim", "random")
        }
        facts = {
            **super().summary(),
            **named(self.provenance),
            "amount": float(self.provenance["amount"]),
            "share": shares["dim"],
            "random": shares["random"],
            "side": float(self.heads["side"].mean()),
            "next_side": float(self.heads["next_side"].mean()),
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


@torch.no_grad()
def bos_pull(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    amount: float = 0.1,
    repeats: int = 4,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> BosPull:
    """Add to one dimension behind the first norm of each block, at one position, and ask every query.

    In GPT-2, 0.1 more of dimension 447 there raises the attention to the first token in nearly every
    head and query of layers 4 to 11: those queries share a positive product with that key, so one
    direction of their space is half used up. The sign of every product is counted too, beside that
    of the key that comes next.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.massive.scan` takes; every text must go on after the position.
        at, dim, position: which coordinate, as in `lp.massive.rescale`.
        amount: what is added to the normed stream, where a typical coordinate is about 1.
        repeats: how many random other dimensions get the same amount, as a control.
        bos, length, limit, column: as in `lp.massive.scan`.
        seed: of the random dimensions and the bootstrap; None draws one and stores it.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: an amount that is 0 or not finite, a dimension or position out of range, a text
            that ends at the position, nothing massive where nothing was named.
        HookPointError: the model keeps no attention scores, or its attention reads through no norm.
        ModelError: an encoder-decoder; a norm that multiplies one of the dimensions by 0.
        Interrupted: Ctrl-C; `.partial` is the `BosPull` of the finished sequences.

    Examples:
        >>> found = lp.massive.bos_pull(model, "The cat sat on the mat.", dim=447, seed=0)
        >>> round(found.summary()["share"], 2)  # of heads and queries that attend more
        0.15
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.bos_pull")
    _check(amount, repeats, adapter)
    drawn = drawn_seed(seed)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    target = about.targets.group
    kept = scored_rows(about, target.position)
    run = _Run(adapter, target, float(amount), _random_dims(adapter, target, repeats, drawn))

    def work(index: list[int]) -> list[Counted]:
        return run.read([about.rows[kept[i]] for i in index])

    outcome = each_group(
        [about.rows[i] for i in kept],
        work,
        # Every sequence is there once plain and once for each dimension.
        batch_tokens=_shared(current("batch_tokens", batch_tokens), repeats + 2),
        progress=progress,
    )
    return _finished(run, about, kept, outcome, drawn)


def _random_dims(adapter: Adapter, target: Group, repeats: int, seed: int) -> list[tuple[int, ...]]:
    """As many other dimensions, several times, none of them twice."""
    others, count = np.setdiff1d(np.arange(adapter.d_model), target.dims), len(target.dims)
    if repeats * count > len(others):
        raise ArgumentError(f"repeats={repeats}: the model has {len(others)} other dimensions.")
    drawn = np.random.default_rng(seed).choice(others, repeats * count, replace=False)
    return [tuple(map(int, part)) for part in drawn.reshape(repeats, count)]


def _check(amount: Any, repeats: Any, adapter: Adapter) -> None:
    number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if not number or not np.isfinite(amount) or amount == 0:
        raise ArgumentError(f"amount={amount!r}: a finite number other than 0.")
    whole = isinstance(repeats, int) and not isinstance(repeats, bool)
    if not whole or not 1 <= repeats < adapter.d_model:
        raise ArgumentError(f"repeats={repeats!r}: a whole number from 1 to {adapter.d_model - 1}.")


def _shared(batch_tokens: Any, times: int) -> Any:
    return max(1, batch_tokens // times) if isinstance(batch_tokens, int) else batch_tokens


class _Run:
    """What is added where; and the points at which it is."""

    def __init__(
        self, adapter: Adapter, target: Group, amount: float, others: Sequence[tuple[int, ...]]
    ) -> None:
        self.adapter = adapter
        self.target = target
        self.amount = amount
        self.dims = [target.dims, *others]
        layers = range(adapter.n_layers)
        self.norms = [adapter.norm_point(n) for n in layers]
        self.scores = [f"{adapter.writer.blocks}.{n}.attn.hook_attn_scores" for n in layers]
        adapter.points(self.scores)
        self.patterns = [adapter.hook_name("attn.pattern", n) for n in layers]
        for n, (_, gain) in enumerate(self.norms):
            every = [dim for dims in self.dims for dim in dims]
            flat = [] if gain is None else [dim for dim in every if float(gain[dim]) == 0]
            if flat:
                raise ModelError(f"the norm of layer {n} multiplies dimension {flat[0]} by 0.")

    def read(self, rows: Sequence[Encoded]) -> list[Counted]:
        """Every layer of some sequences, from one plain run and one run of each block."""
        batch = TokenBatch.pad(self.adapter, rows)
        whole = bool(self.adapter.user_hooks())
        fan = Fan(self.adapter, batch, [self._anchor("all")], logits="last" if whole else None)
        layers = []
        for n in range(self.adapter.n_layers):
            scores, pattern = self._answers(fan, n)
            place, times = self.target.position, len(self.dims) + 1
            layers.append(counted(scores, pattern, batch.mask, place, times))
        return [Counted.stack([layer[i] for layer in layers]) for i in range(len(rows))]

    def _answers(self, fan: Fan, layer: int) -> list[Tensor]:
        """Scores and pattern of a layer, each row plain and then with each dimension shifted."""
        changes: list[tuple[int, ...]] = [(), *self.dims]
        if fan.shared:
            return self._pass(fan, layer, changes)
        # The user's hooks must see the caller's rows, each once.
        each = [self._pass(fan, layer, [change]) for change in changes]
        return [torch.stack(parts, 1).flatten(0, 1) for parts in zip(*each, strict=True)]

    def _pass(self, fan: Fan, layer: int, changes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        seen: dict[str, Tensor] = {}
        hooks: dict[str, Hook] = {
            self.norms[layer][0]: self._writer(fan.first, layer, changes, seen),
            self.scores[layer]: lambda x: seen.__setitem__("scores", x.detach()),
            self.patterns[layer]: lambda x: seen.__setitem__("pattern", x.detach()),
        }
        fan.run([self._anchor(layer)], times=len(changes), probes=hooks, stop=layer + 1)
        if list(seen) != ["norm", "scores", "pattern"]:
            # A norm behind attention may have the same name, and comes too late.
            raise HookPointError(
                f"layer {layer}: no norm, attention scores and pattern one after another; found "
                f"{', '.join(seen) or 'none'}."
            )
        return [seen["scores"], seen["pattern"]]

    def _anchor(self, layers: Any) -> Scale:
        """Changes nothing, and says where a branch begins."""
        where = at_position(self.target.position)
        return Scale(factor=1.0, layers=layers, site="resid_pre", positions=where)

    def _writer(
        self, first: int, layer: int, changes: Sequence[tuple[int, ...]], seen: dict[str, Tensor]
    ) -> Hook:
        column, gain = self.target.position - first, self.norms[layer][1]

        def write(normed: Tensor) -> Tensor:
            seen["norm"] = normed
            added = normed.new_zeros(len(changes), normed.shape[-1])
            for row, dims in enumerate(changes):
                for dim in dims:
                    added[row, dim] = self.amount / (1.0 if gain is None else float(gain[dim]))
            own = normed[:, column] + added.repeat(len(normed) // len(changes), 1)
            return torch.cat([normed[:, :column], own[:, None], normed[:, column + 1 :]], 1)

        return write


def _finished(
    run: _Run, about: Subject, kept: Sequence[int], outcome: Outcome[Counted], seed: int
) -> BosPull:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    adapter = run.adapter
    whole = [WHOLE] if adapter.user_hooks() else []
    order = sorted(outcome.answers)
    found = [outcome.answers[i] for i in order]
    names, place = np.unique([about.documents[kept[i]] for i in order], return_inverse=True)
    result = BosPull(
        provenance={
            **adapter.provenance(),
            **about.facts,
            **run.target.provenance(),
            "amount": run.amount,
            "random_dims": [list(dims) for dims in run.dims[1:]],
            "seed": seed,
            "finished": len(found),
            "complete": outcome.complete,
            "notes": [*about.facts["notes"], *outcome.notes, *whole],
        },
        layers=_layers(found, len(names), place, seed),
        heads=_heads(found),
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(found)} of {len(kept)} sequences.", partial=result
        )
    return result


def _layers(found: Sequence[Counted], documents: int, place: np.ndarray, seed: int) -> pd.DataFrame:
    """`[layer change head]` counts of each sequence → shares by layer."""

    def by_document(values: np.ndarray) -> np.ndarray:
        total = np.zeros((documents, *values.shape[1:]))
        np.add.at(total, place, values)
        return np.moveaxis(total, 0, -1)

    queries = by_document(np.stack([one.queries.sum(-1) for one in found]))
    frames = []
    for kind, changes in (("dim", slice(0, 1)), ("random", slice(1, None))):
        # Random dimensions count together: a mean over draws.
        ups, downs, moved = (
            by_document(np.stack([getattr(one, name)[:, changes].mean(1).sum(-1) for one in found]))
            for name in ("rises", "falls", "moved")
        )
        ends = interval(ups, queries, seed=seed)
        total = queries.sum(-1)
        with np.errstate(invalid="ignore"):
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "layer": np.arange(len(total)),
                        **dict(zip(ENDS, ends, strict=True)),
                        "falls": downs.sum(-1) / total,
                        "value": moved.sum(-1) / total,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _heads(found: Sequence[Counted]) -> pd.DataFrame:
    queries = sum(one.queries for one in found)
    assert isinstance(queries, np.ndarray)
    layer, head = (index.reshape(-1) for index in np.indices(queries.shape))
    with np.errstate(invalid="ignore"):
        shares = {
            name: sum(getattr(one, key)[:, 0] for one in found) / queries
            for name, key in (("share", "rises"), ("falls", "falls"), ("value", "moved"))
        }
    signs = {}
    for name in ("positive", "next_positive"):
        each = np.stack([getattr(one, name) for one in found])
        # A sequence that ends at the next position has no query behind it.
        known = np.isfinite(each)
        count = np.where(known.any(0), known.sum(0), np.nan)
        signs[name] = np.where(known, each, 0.0).sum(0) / count
        side = np.where(known, np.maximum(each, 1 - each), 0.0).sum(0) / count
        signs[name.replace("positive", "side")] = side
    columns = {name: np.asarray(part).reshape(-1) for name, part in {**shares, **signs}.items()}
    return pd.DataFrame({"layer": layer, "head": head, **columns})
