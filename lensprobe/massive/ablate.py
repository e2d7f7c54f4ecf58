"""A massive activation taken away in several ways, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..edits import Edit, Scale
from ..errors import ArgumentError, Interrupted, nearest
from ..models.adapter import adapter_for
from ..positions import at as at_position
from ..running.batching import Outcome, each_group
from ..running.fanning import WHOLE, times_that_fit, tokens_that_fit
from ..settings import drawn_seed
from ..tokens import Bos
from .ablate_result import Ablate, draws_table, sets_table
from .ablations import KINDS, Ablation, mean_vector, overwriting, planned
from .effects import EPSILON, Comparison, Measured, Meter, joined_runs
from .effects_tables import Documents
from .place import births, check_epsilon, length_note, scored_rows
from .result import Finding, MassiveScan
from .subject import Subject, subject

__all__ = ["ablate"]

CONSTANT = (
    "holds the same vector in every text, so that its mean over texts is what is there already"
)


@torch.no_grad()
def ablate(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    method: str | Sequence[str] = "all",
    repeats: int = 4,
    epsilon: float = EPSILON,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Ablate:
    """Take a massive activation away in several ways, and as much of something else beside it.

    Zero alone misleads both ways: GPT-2 is unharmed by zeroing dimension 447, other models collapse
    although setting the number to its mean harms none of them (Sun et al. 2402.17762, section 3). And
    where every text begins with the same token, the mean over texts is what is there already, which
    the notes then say.

    Args:
        model: a TransformerLens model. No tensor of it is changed.
        texts: whatever `lp.massive.scan` takes; every text must go on after the position.
        at: a finding of a scan, a list of them at one position, or the scan, which stands for its
            strongest finding.
        dim, position: a coordinate named by hand, as in `lp.massive.rescale`.
        layer: coordinates are overwritten in this layer's output. None is the last layer at which
            one of them is born.
        method: "all", or some of the kinds of `Ablate.effects`.
        repeats: draws of each random kind.
        epsilon: least attention of a sink, exclusive.
        bos, length, limit, column: as in `lp.massive.scan`.
        seed: of the draws and the bootstrap; None draws one and stores it.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: an unknown method; a dimension, position or layer out of range; coordinates at
            several positions; a text that ends at the position; nothing massive where nothing was
            named.
        HookPointError: the model keeps no attention patterns.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Ablate` of the finished sequences.

    Examples:
        >>> found = lp.massive.ablate(model, "The cat sat on the mat.", dim=447, method="zero")
        >>> round(float(found.effect("loss", "zero")["change"]), 3)  # nats a token
        0.693
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.ablate")
    kinds, drawn = _kinds(method), drawn_seed(seed)
    _check(epsilon, repeats)
    given = None if layer is None else adapter.layer(layer)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    position = about.targets.group.position
    kept = scored_rows(about, position)
    rows = [about.rows[i] for i in kept]
    meter = Meter(adapter, position)
    notes: list[str] = []
    if given is None:
        given, notes = births(adapter, about, batch_tokens)
    ablations, missing = planned(adapter, rows, about.each, kinds, repeats, drawn, batch_tokens)
    mean, constant = mean_vector(adapter, rows, position, given, batch_tokens)
    if constant and any(kind.endswith("mean") for kind in kinds):
        notes.append(f"position {position} {CONSTANT}")
    run = _Run(meter, about, kept, position, given, ablations, mean)
    outcome = each_group(
        rows, run.work, batch_tokens=tokens_that_fit(adapter, batch_tokens), progress=progress
    )
    notes += [*missing, *meter.notes, *length_note(rows), *outcome.notes]
    return _finished(run, outcome, float(epsilon), notes + ([] if run.shared else [WHOLE]), drawn)


def _check(epsilon: Any, repeats: Any) -> None:
    check_epsilon(epsilon)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ArgumentError(f"repeats={repeats!r}: a whole number from 1 on.")


def _kinds(method: Any) -> tuple[str, ...]:
    if method == "all":
        return KINDS
    found = (method,) if isinstance(method, str) else tuple(method)
    for kind in found:
        if kind not in KINDS:
            raise ArgumentError(
                f'method={method!r}: "all", or some of {", ".join(KINDS)}.{nearest(str(kind), KINDS)}'
            )
    if not found:
        raise ArgumentError(f'method={method!r}: "all", or some of {", ".join(KINDS)}.')
    return found


@dataclass
class _Run:
    """The sequences that are read, and what is taken away from them."""

    meter: Meter
    about: Subject
    kept: Sequence[int]
    position: int
    layer: int
    ablations: Sequence[Ablation]
    mean: Tensor
    shared: bool = True

    def work(self, index: list[int]) -> list[tuple[Measured, Measured]]:
        """Some sequences under all ablations, and plain."""
        rows = [self.about.rows[self.kept[i]] for i in index]
        own: list[Tensor] = []
        point = self.meter.adapter.hook_name("resid_post", self.layer)
        here: Edit = Scale(factor=1.0, layers=self.layer, positions=at_position(self.position))
        anchors = [one.anchor() for one in self.ablations if one.neurons]
        read = Comparison(self.meter, rows, [here, *anchors], probes={point: own.append})
        self.shared = self.shared and read.fan.shared
        vectors = own[0][:, self.position - read.fan.first]
        found: dict[int, Measured] = {}
        places = [k for k, one in enumerate(self.ablations) if not one.neurons]
        size = times_that_fit(read.fan, len(places) or 1, logits=False)
        for begin in range(0, len(places), size):
            part = places[begin : begin + size]
            many = [self.ablations[k].vector(vectors, self.mean) for k in part]
            written = overwriting(torch.stack(many, 1).flatten(0, 1), self.position, self.layer)
            measured = read.run([written], times=len(part))
            found |= {k: measured.run(turn) for turn, k in enumerate(part)}
        for k, one in enumerate(self.ablations):
            if one.neurons:
                found[k] = read.run([one.anchor()], hooks=one.hooks)
        edited = joined_runs([found[k] for k in range(len(self.ablations))])
        return list(zip(edited.rows(), read.plain.rows(), strict=True))


def _finished(
    run: _Run,
    outcome: Outcome[tuple[Measured, Measured]],
    epsilon: float,
    notes: list[str],
    seed: int,
) -> Ablate:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    tally = Documents(
        {i: edited for i, (edited, _) in outcome.answers.items()},
        {i: plain for i, (_, plain) in outcome.answers.items()},
        [run.about.documents[i] for i in run.kept],
        epsilon=epsilon,
        seed=seed,
    )
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in run.ablations)]
    groups = [[k for k, one in enumerate(run.ablations) if one.kind == kind] for kind in kinds]
    counts = [run.ablations[group[0]].count for group in groups]
    pooled = tally.pooled(groups)
    result = Ablate(
        provenance={
            **run.meter.adapter.provenance(),
            **run.about.facts,
            **run.about.targets.group.provenance(),
            "layer": run.layer,
            "site": "resid_post",
            "epsilon": epsilon,
            "seed": seed,
            "finished": len(outcome.answers),
            "complete": outcome.complete,
            "notes": [*run.about.facts["notes"], *notes, *tally.notes()],
        },
        effects=pooled.effects({"kind": kinds, "count": counts}),
        draws=draws_table(tally, run.ablations),
        sets=sets_table(run.ablations),
        plain=tally.plain_table(),
        documents=pooled.documents_table({"kind": kinds}),
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(run.kept)} sequences.",
            partial=result,
        )
    return result
