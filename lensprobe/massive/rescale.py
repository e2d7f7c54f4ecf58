"""One coordinate multiplied at one position, and what the model does then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..citations import GU, GUO
from ..edits import Scale
from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..positions import at as at_position
from ..results import Result
from ..running.batching import Outcome, each_group
from ..running.fanning import WHOLE, times_that_fit, tokens_that_fit
from ..settings import checked_seed
from ..tokens import Bos
from .effects import EPSILON, Comparison, Measured, Meter, joined_runs
from .effects_tables import Documents
from .place import births, check_epsilon, length_note, numbers, scored_rows
from .result import SUN, Finding, MassiveScan
from .subject import Subject, subject
from .target import Group, named

__all__ = ["Rescale", "rescale"]

FACTORS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2.0, 4.0, 8.0)


@dataclass(frozen=True, repr=False, eq=False)
class Rescale(Result):
    """What a model does when one number in it is multiplied.

    Losses and divergences are in nats a predicted token, from the position on; the others are means
    over layers and heads, layers below the edit included. Intervals are 95% bootstrap over documents.

    Attributes:
        effects: one row a `measure` and `factor`: `value`, `low`, `high`, and the `change` from the
            plain run of the same documents with `change_low`, `change_high`. Measures: "loss", its
            "perplexity", "kl" (edited ‖ plain), "attention" (to the position, mean over queries from
            it on), "sink_rate" (share of heads above epsilon), "value_norm" (of v · W_O at the
            position: the value drain of Guo et al.) and "other_norm" (the same after it).
        heads: the same by `factor`, `layer` and `head`: attention as `value`, `low`, `high`, and
            `value_norm`, `other_norm`.
        plain: the plain model: `measure`, `value`, `low`, `high`.
        documents: one row a `measure`, `factor` and `document`: `value`, `change`, `count` (tokens or
            sequences).
    """

    kind: ClassVar[str] = "massive.rescale"
    citations: ClassVar[tuple[str, ...]] = (SUN, GU, GUO)

    effects: pd.DataFrame
    heads: pd.DataFrame
    plain: pd.DataFrame
    documents: pd.DataFrame

    def effect(self, measure: str, factor: float) -> pd.Series:
        """The row of `effects` of one measure at one factor.

        Raises:
            ArgumentError: it was not measured.
        """
        own = (self.effects["measure"] == measure) & (self.effects["factor"] == factor)
        if not own.any():
            raise ArgumentError(
                f"effect({measure!r}, {factor!r}): the measures are "
                f"{', '.join(self.effects['measure'].unique())}, the factors "
                f"{', '.join(f'{f:g}' for f in self.effects['factor'].unique())}."
            )
        return self.effects[own].iloc[0]

    def summary(self) -> dict[str, Any]:
        """Model, coordinate, plain loss, and the factor that changes the loss most."""
        losses = self.effects.loc[self.effects["measure"] == "loss"]
        top = losses.iloc[int(np.abs(losses["change"].to_numpy(float)).argmax())]
        plain = self.plain.loc[self.plain["measure"] == "loss", "value"]
        facts = {
            **super().summary(),
            **named(self.provenance),
            "layer": int(self.provenance["layer"]),
            "documents": int(self.documents["document"].nunique()),
            "loss": float(plain.iloc[0]),
            "factor": float(top["factor"]),
            "change": float(top["change"]),
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


@torch.no_grad()
def rescale(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    factors: Sequence[float] = FACTORS,
    epsilon: float = EPSILON,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Rescale:
    """Multiply one coordinate of the residual stream at one position, by each of several factors.

    Everything else in the stream stays as it is: the other coordinates there, and all other tokens.
    Layers up to the edited one, and tokens before the position, are run once for all factors; factor 1
    is the plain run.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.massive.scan` takes; every text must go on after the position.
        at: a finding of a scan, or the scan, which stands for its strongest finding; a list of
            findings at one position is multiplied together.
        dim: a dimension of the residual stream, instead of `at`. Without both, the texts are scanned
            first and the strongest massive activation is taken.
        position: of the token, from 0; with `dim` alone it is 0.
        layer: the coordinate is multiplied in this layer's output. None is where it is born: the
            first layer of the finding, or of a trajectory's plateau; of several, the last.
        factors: what it is multiplied by; 0 takes it away, -1 turns it round.
        epsilon: least attention of a sink, exclusive (Gu et al. 2410.10781). Attention to a token
            falls with the length of a text, and so does the rate: compare at equal lengths.
        bos, length, limit, column: as in `lp.massive.scan`.
        seed: of the bootstrap.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: a factor that is not finite, none or one twice; a dimension, position or layer
            out of range; a text that ends at the position or before it; nothing massive where
            nothing was named.
        HookPointError: the model keeps no attention patterns.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Rescale` of the finished sequences.

    Examples:
        >>> found = lp.massive.rescale(model, "The cat sat on the mat.", dim=447, factors=[0, 1])
        >>> rates = found.effects.query("measure == 'sink_rate'")
        >>> rates[["factor", "value"]].values.tolist()
        [[0.0, 0.0], [1.0, 0.125]]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.rescale")
    chosen = numbers("factors", factors)
    check_epsilon(epsilon)
    given = None if layer is None else adapter.layer(layer)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    target = about.targets.group
    kept = scored_rows(about, target.position)
    meter = Meter(adapter, target.position)
    place, born = births(adapter, about, batch_tokens) if given is None else (given, [])
    run = _Run(meter, about, kept, target, place, chosen)
    rows = [about.rows[i] for i in kept]
    outcome = each_group(
        rows, run.work, batch_tokens=tokens_that_fit(adapter, batch_tokens), progress=progress
    )
    notes = [*born, *meter.notes, *length_note(rows), *outcome.notes]
    whole = [] if run.shared else [WHOLE]
    return _finished(run, outcome, float(epsilon), notes + whole, checked_seed(seed) or 0)


@dataclass
class _Run:
    """The sequences that are read, and the edits under which they are."""

    meter: Meter
    about: Subject
    kept: Sequence[int]
    target: Group
    layer: int
    factors: tuple[float, ...]
    shared: bool = True

    def edit(self, factors: Sequence[float], rows: int) -> Scale:
        """Each row under each of the factors in turn."""
        return Scale(
            factor=torch.tensor(factors, dtype=torch.float64).repeat(rows),
            dim=self.target.dims,
            layers=self.layer,
            positions=at_position(self.target.position),
        )

    def work(self, index: list[int]) -> list[tuple[Measured, Measured]]:
        """Some sequences under all factors, and plain."""
        rows = [self.about.rows[self.kept[i]] for i in index]
        template = self.edit([1.0], len(rows))
        read = Comparison(self.meter, rows, [template])
        self.shared = self.shared and read.fan.shared
        others = [factor for factor in self.factors if factor != 1]
        size = times_that_fit(read.fan, len(others) or 1, logits=False)
        found: dict[float, Measured] = {1.0: read.plain}
        for begin in range(0, len(others), size):
            part = others[begin : begin + size]
            many = read.run([self.edit(part, len(rows))], times=len(part))
            found |= {factor: many.run(k) for k, factor in enumerate(part)}
        edited = joined_runs([found[factor] for factor in self.factors])
        return list(zip(edited.rows(), read.plain.rows(), strict=True))


def _finished(
    run: _Run,
    outcome: Outcome[tuple[Measured, Measured]],
    epsilon: float,
    notes: list[str],
    seed: int,
) -> Rescale:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    adapter, about, target = run.meter.adapter, run.about, run.target
    tally = Documents(
        {i: edited for i, (edited, _) in outcome.answers.items()},
        {i: plain for i, (_, plain) in outcome.answers.items()},
        [about.documents[i] for i in run.kept],
        epsilon=epsilon,
        seed=seed,
    )
    labels = {"factor": run.factors}
    result = Rescale(
        provenance={
            **adapter.provenance(),
            **about.facts,
            **target.provenance(),
            "layer": run.layer,
            "site": "resid_post",
            "factors": list(run.factors),
            "epsilon": epsilon,
            "seed": seed,
            "finished": len(outcome.answers),
            "complete": outcome.complete,
            "notes": [*about.facts["notes"], *notes, *tally.notes()],
        },
        effects=tally.effects(labels),
        heads=tally.heads_table(labels),
        plain=tally.plain_table(),
        documents=tally.documents_table(labels),
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(run.kept)} sequences.",
            partial=result,
        )
    return result
