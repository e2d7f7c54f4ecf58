"""Steering vectors from many contrasts: what the two sides differ in, on average."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..corpus import Tally
from ..costs import Plan, measured
from ..edits import EDITABLE
from ..errors import ArgumentError, Interrupted, nearest
from ..interrupts import uninterrupted
from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..running.batching import out_of_memory, progress_bar
from ..running.fanning import WHOLE
from ..settings import OnError, Progress, checked_seed, current
from ..shards.keeping import VECTORS, Keeper
from ..shards.run import Seen, unseen
from ..statistics import Bundle
from ..tokens import Bos
from .estimators import ESTIMATORS, Estimator
from .layered import SteeringVectors
from .making import made_on
from .reading import Pair, Reader
from .sides import Read, Sides
from .vector import SteeringVector

__all__ = ["difference"]

Method = Literal["mean", "pca", "logistic", "lda"]


def difference(
    model: Any,
    positive: Any,
    negative: Any = None,
    *,
    layers: int | Sequence[int] | Literal["all"] = "all",
    site: str = DEFAULT_SITE,
    read: Read | None = None,
    method: Method = "mean",
    bos: Bos = "auto",
    column: str | None = None,
    limit: int | None = None,
    batch_tokens: int | None = None,
    out: str | os.PathLike[str] | None = None,
    on_error: OnError | None = None,
    progress: Progress | None = None,
    seed: int | None = None,
    dry_run: bool | None = None,
) -> SteeringVector | SteeringVectors | Plan:
    """A steering vector for each layer, from contrast questions or from two sets of texts.

    The data streams through: memory does not depend on how many texts there are (for `"pca"` and
    `"lda"` it does on layers × width²). A pair's common beginning is read once, nothing after the
    token that is read is computed, and no block above the deepest layer runs.

    Args:
        model: a TransformerLens model.
        positive: contrast questions (see `questions`: the value, a `.jsonl` file or records), whose
            matching answers are the positive side and whose other answers the negative; or texts:
            anything that `lp.massive.scan` takes.
        negative: None with questions; otherwise the texts of the other side. Equally many texts are
            pairs in their order.
        layers: an int for one vector; a sequence or `"all"` for a mapping layer → vector.
        read: which token's activation: `"answer"`, the answer's letter (CAA, Rimsky et al.
            2312.06681: token -2 of `" (A)"`, the one token of `" Yes"`); `"last"`; or a position,
            negative from the end. None is `"answer"` for questions and `"last"` for texts.
        method: `"mean"`, the mean difference (CAA). `"pca"`, the first principal component of the
            pairs' differences, about zero, its sign along the mean difference. `"logistic"`, the
            logistic-regression direction (scikit-learn). `"lda"`, the mean difference whitened by
            the pooled covariance, shrunk after Ledoit and Wolf. All but the mean are as long as the
            mean difference's projection on them, so that scales can be compared.
        bos: whether texts begin with BOS; `"auto"` is what the model's own tokenizing does.
        column: which field of a record is the text; None is `text`.
        limit: most questions, or most texts of each side.
        batch_tokens: most tokens in one forward pass, pads included.
        out: a folder for what is finished. The same call with the same folder goes on where the last
            one ended, however it ended, and gives the same numbers, bit for bit; at its end the
            vectors are there too, for `lp.open(out)`.
        on_error: "raise" (what None is, unless `lp.options` says otherwise) or "skip" at a record that
            cannot be read, or is too long; what stands beside it on the other side goes with it.
        progress: True, False, None for a bar when it takes long, "json" for lines of JSON.
        seed: for the sample that `"logistic"` is fitted on beyond 8,192 texts a side or 512 MB;
            None is 0.
        dry_run: True to return the `Plan` instead; a generator is used up by it.

    Returns:
        A `SteeringVector`, a `SteeringVectors`, or a `Plan`.

    Raises:
        ArgumentError: a side without texts, one side only, unequal counts where pairs are needed, a
            position that a text does not have, an unknown method, a layer out of range.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder model.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` is the result over the finished batches, if there is one.

    Examples:
        >>> vector = lp.steering.difference(model, ["cat z", "dog z"], ["cat e", "dog e"], layers=2)
        >>> vector.layer, vector.values.shape, round(vector.norm, 2)
        (2, (768,), 32.0)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.difference")
    kind, chance = _checked(method, site, seed)
    chosen = adapter.layers(layers)
    sides = Sides(
        adapter,
        positive,
        negative,
        read=read,
        bos=bos,
        column=column,
        limit=limit,
        paired=kind.paired,
        batch_tokens=batch_tokens,
        on_error=on_error,
    )
    run = _Run(
        adapter,
        sides,
        Reader(adapter, chosen, site),
        kind(len(chosen), adapter.width(site), chance),
        facts={"method": method, "site": site, "seed": chance},
        one=isinstance(layers, int | np.integer),
    )
    if current("dry_run", dry_run):
        return run.plan()
    if out is None:
        return run.run(progress, None)
    known = {**run.facts, "layers": chosen, "read": sides.token, "questions": sides.asks}
    result = run.run(progress, Keeper(out, "steering.difference", known))
    result.save(Path(out) / VECTORS, overwrite=True)
    return result


def _checked(method: str, site: str, seed: int | None) -> tuple[type[Estimator], int]:
    """The estimator and the seed, once method and site are known to be possible."""
    if method not in ESTIMATORS:
        raise ArgumentError(
            f"method={method!r}: {', '.join(ESTIMATORS)}.{nearest(str(method), ESTIMATORS)}"
        )
    if site not in EDITABLE:
        raise ArgumentError(f"site={site!r}: vectors are added at {', '.join(EDITABLE)}.")
    return ESTIMATORS[method], checked_seed(seed) or 0


@dataclass
class _Run:
    """One extraction as it goes.

    Attributes:
        one: whether a single vector was asked for, not a mapping.
        pairs: how many are in the statistics, those that were left out among them.
    """

    adapter: Adapter
    sides: Sides
    reader: Reader
    estimator: Estimator
    facts: dict[str, Any]
    one: bool
    pairs: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def corpus(self) -> Sides:
        """What is read, as a keeper calls it."""
        return self.sides

    @property
    def read(self) -> tuple[int, int]:
        """Texts of each side whose activations are in the statistics."""
        (one, _), (two, _) = self.estimator.texts
        return one, two

    def run(
        self, progress: Progress | None, keeper: Keeper | None
    ) -> SteeringVector | SteeringVectors:
        with progress_bar("pair", progress) as bar:

            def show(piece: Tally | None = None, share: float = 0.0) -> None:
                reading = 0 if piece is None else int(piece.documents * share)
                bar.update(self.pairs + reading - bar.n)

            try:
                if keeper is None:
                    self._read(self.sides.pairs(), show)
                else:
                    keeper.run(self, show)
            except KeyboardInterrupt as interrupt:
                enough = min(self.read) >= self.estimator.fewest
                raise Interrupted(
                    f"interrupted after {self.read[0]} positive and {self.read[1]} negative texts.",
                    partial=self._finish(False) if enough else None,
                ) from interrupt
        if min(self.read) < self.estimator.fewest:
            raise ArgumentError(
                f"method={self.facts['method']!r} needs {self.estimator.fewest} or more texts on "
                f"each side with finite activations; there are {self.read[0]} and {self.read[1]}."
            )
        return self._finish(True)

    def alone(
        self, windows: Sequence[Pair], seen: Seen = unseen
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """See `shards.run.Run`."""
        part = replace(self, estimator=self.estimator.fresh(), pairs=0, notes=[])
        part._read(windows, lambda: seen(part.pairs / len(windows)))
        return part.estimator.total.state(), part.notes

    def check(self, part: Bundle) -> None:
        """See `shards.run.Run`."""
        self.estimator.total.check(part)

    def take(self, part: Bundle, tally: Tally, notes: Sequence[str]) -> None:
        """Add what was read alone."""
        with uninterrupted():
            self.estimator.total.merge(part)
            self.pairs += tally.documents
            self.notes += notes

    def _read(self, pairs: Iterable[Pair], show: Callable[[], None] = lambda: None) -> None:
        for group in self.reader.groups(pairs, self.sides.batch_tokens):
            self._read_group(group)
            show()

    def _read_group(self, group: list[Pair]) -> None:
        """One batch, cut in two for as long as memory runs out."""
        waiting = [group]
        while waiting:
            group = waiting.pop()
            try:
                block = self.reader.read(group)
            except Exception as error:
                if not out_of_memory(error) or len(group) == 1:
                    raise
            else:
                with uninterrupted():
                    self.estimator.add(block)
                    self.pairs += len(group)
                continue
            # Outside the handler, whose traceback holds the tensors of the failed pass.
            half = len(group) // 2
            waiting += [group[half:], group[:half]]
            self.notes.append(f"memory ran out at {len(group)} pairs in a batch; halved")

    def _finish(self, complete: bool) -> SteeringVector | SteeringVectors:
        provenance = {
            **made_on(self.adapter),
            **self.facts,
            **self.sides.provenance([sum(side) for side in self.estimator.texts]),
            "finished": {"positive": self.read[0], "negative": self.read[1]},
            "complete": complete,
            "notes": self._notes(),
        }
        vectors = [
            SteeringVector(
                self.estimator.vector(index),
                layer,
                self.facts["site"],
                provenance={**provenance, **self.estimator.facts(index)},
            )
            for index, layer in enumerate(self.reader.layers)
        ]
        return vectors[0] if self.one else SteeringVectors(vectors)

    def _notes(self) -> list[str]:
        read, lost = self.sides.read, sum(out for _, out in self.estimator.texts)
        notes = [*([read.complaint] if read.skipped else []), *self.notes]
        if self.reader.whole:
            notes.append(WHOLE)
        if self.adapter.model.training:
            notes.append("the model is in training mode: dropout, if any, was active")
        if lost:
            notes.append(f"{lost} texts left out: activations that are not finite")
        if not any(self.estimator.vector(index).any() for index in range(len(self.reader.layers))):
            notes.append("both sides are equal where they were read: the vector is zero")
            warnings.warn(f"{notes[-1]}.", stacklevel=2)
        return notes

    def plan(self) -> Plan:
        """Count the texts, time the largest batch, and say what the call would cost."""
        groups, largest = 0, []
        sizes: list[int] = []
        for group in self.reader.groups(self.sides.pairs(), self.sides.batch_tokens):
            groups += 1
            sizes.append(sum(self.reader.size(pair).tokens for pair in group))
            if sizes[-1] == max(sizes):
                largest = group
        seconds, memory = measured(
            lambda: self.reader.read(largest[:1]),
            lambda: self.reader.read(largest),
            self.adapter.device,
        )
        texts = self.sides.read.sequences
        costs = {
            "documents": texts,
            "sequences": texts,
            "tokens": self.sides.read.tokens,
            "passes": groups,
            "seconds": seconds * sum(sizes) / max(sizes),
            "memory": memory,
        }
        provenance = {**made_on(self.adapter), **self.facts, **self.sides.provenance()}
        return Plan(provenance=provenance, costs=pd.DataFrame([costs]))
