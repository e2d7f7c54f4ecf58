"""Encoder or decoder: the same mixing input added in either stack, and scored both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..models.stacks import Named
from ..results import Result
from ..running.batching import progress_bar
from ..running.fanning import WHOLE
from ..running.generate import check_budget
from ..running.inputs import Inputs, one_each
from ..tokens import Bos
from .citations import ACTADD
from .making import editable
from .opening import amounts, uninterruptible
from .stack_runs import Cell, Trial, judges_of
from .stack_tables import cells_table, chosen_cells, own_table, stacks_table, texts_table
from .study import Sampling

__all__ = ["StackComparison", "compare_stacks"]


@dataclass(frozen=True, repr=False, eq=False)
class StackComparison(Result):
    """A mixing input added once, front-aligned, at every block and scale of either stack.

    Every completion is measured for what it says and for how well it says it. A text's *own* tokens
    are those of its unedited greedy completion that the other text's has not.

    - `carry`: share of the mixing input's own tokens that the completion has; `keep`: the same of the
      base text's own. Both by `carried=` where it is given.
    - `malformed`: 1 for a broken text, by `malformed=`; NaN where nobody can tell.
    - `mixed`: 1 where it has something of both (`carry` and `keep` above 0) and is not malformed.
    - `logprob`: mean log-probability of its tokens, nats: under `reference`, which reads it alone;
      without one under the unedited model after the base text or after the mixing input, whichever is
      higher, so that a text is not called broken for saying what the mixing input says.
    - `repetition`: share of its 4-grams that occurred before (NaN for less than 4 tokens).
    - `mixing_logprob`, `base_logprob`: mean log-probability, under the edits, of the mixing input's
      and the base text's unedited completions.

    Attributes:
        cells: one row a stack, layer, scale and measure, means over texts with 95% bootstrap intervals:
            stack, layer, scale, measure, value, low, high. Scale 0 is the unedited model.
        texts: one row a stack, layer, scale and base text: stack, layer, scale, text, prompt, mixing,
            completion, and the measures.
        stacks: one row a stack (and their difference, paired by text), choice and measure: stack,
            choice, measure, value, low, high. `"best"` is the block and scale with most `mixed`;
            `"every block"` the mean over blocks, each at its best scale. Both are chosen on every
            other text and measured on the rest.
        own: one row a text: text, prompt, completion, and mixing with its own completion `answer`.
    """

    kind: ClassVar[str] = "steering.stacks"
    citations: ClassVar[tuple[str, ...]] = (ACTADD,)

    cells: pd.DataFrame
    texts: pd.DataFrame
    stacks: pd.DataFrame
    own: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """For each stack its best cell's `mixed`, `malformed`, `carry`; and which stack does better."""
        found: dict[str, Any] = {**super().summary(), "texts": self.provenance["texts"]}
        best = self.stacks.loc[self.stacks["choice"] == "best"]
        value = best.set_index(["stack", "measure"])["value"]
        for stack in self.provenance["stacks"]:
            for name in ("mixed", "carry", "keep", "malformed", "logprob"):
                found[f"{stack}_{name}"] = float(value[stack, name])
        return {**found, "answer": self.answer}

    @property
    def answer(self) -> str:
        """Which stack gives more sensible mixtures at its best cell, as far as these texts show."""
        names = self.provenance["stacks"]
        if len(names) < 2:
            return "there is one stack"
        rows = self.stacks.set_index(["stack", "choice", "measure"])
        row = rows.loc[(" - ".join(names), "best", "mixed")]
        if row["low"] > 0:
            return names[0]
        return names[1] if row["high"] < 0 else "these texts show no difference"


@torch.no_grad()
def compare_stacks(
    model: Any,
    texts: Any,
    *,
    mixing: Any = None,
    layers: Any = "all",
    scales: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0),
    site: str = DEFAULT_SITE,
    reference: Any = None,
    malformed: Callable[[str], bool] | None = None,
    carried: Callable[[str, str, str], float] | None = None,
    max_new_tokens: int = 24,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> StackComparison:
    """Add a mixing input's activations in the encoder, and in the decoder, and score both.

    The mixing input is run alone; `scale` times its activations at one block are added to those of
    the base text at the same block, row i to token i, once (not at the blocks after it): the
    mixing-input experiments on FLAN-T5. Rows beyond the base text's last token meet nothing.

    In the encoder the rows are the activations of the mixing input's tokens. In the decoder they are
    those of what the decoder reads while it answers the mixing input by itself, greedily and behind its
    own encoding: the start token and its answer but for the last token. They are added to the base
    text's decoder as it writes: row i to its start token or i-th written token. A decoder-only model
    has one stack, where the rows are the mixing input's tokens and meet the prompt's alone.

    Args:
        model: a TransformerLens model, an encoder-decoder or not.
        texts: base texts, one or many; intervals are over them.
        mixing: one mixing input for all, or one for each.
        layers: blocks of every stack, `"all"`, or a mapping stack → blocks.
        scales: strengths; 0 is the unedited model, which is there anyway.
        site: where in a block.
        reference: a decoder-only model that says how fluent a completion is.
        malformed: says of a completion's text whether it is broken, such as a grammar's parser.
        carried: `(completion, own, other)`: which share of what the text `own` says and `other` does
            not a completion has, 0 to 1; asked of the mixing input's and the base text's unedited
            completions.
        max_new_tokens: length of the completions, which are greedy.

    Raises:
        ArgumentError: no mixing input, as many as do not match the texts, an option out of range.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> found = lp.steering.compare_stacks(
        ...     model, "The cat.", mixing="A dog", layers=3, scales=[1.0], max_new_tokens=2
        ... )
        >>> found.summary()["answer"]
        'there is one stack'
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.steering.compare_stacks")
    if mixing is None:
        raise ArgumentError("mixing: give at least one mixing input, such as a sentence.")
    base = Inputs.prompted(adapter, texts, bos)
    given = one_each(adapter, mixing, len(base), bos, "mixing input")
    others = Inputs.prompted(adapter, given, bos)
    check_budget(max_new_tokens)
    for inputs in (base, others):
        inputs.check_room(max_new_tokens)
    places = _places(adapter, layers, site)
    options = {
        "scales": amounts(scales),
        "site": site,
        "sampling": Sampling(max_new_tokens),
        "judges": judges_of(malformed, carried, reference),
    }
    with (
        uninterruptible("compare_stacks"),
        progress_bar("block", progress, total=len(places)) as bar,
    ):
        trial = Trial.of(adapter, base.asked, others.asked, **options)
        plain = trial.plain()
        cells = []
        for stack, layer in places:
            cells.append(trial.cell(stack, layer))
            bar.update()
    return _result(trial, cells, plain, bos)


def _result(
    trial: Trial, cells: Sequence[Cell], plain: dict[str, np.ndarray], bos: Bos
) -> StackComparison:
    adapter = trial.adapter
    names = list(dict.fromkeys(cell.stack for cell in cells))
    chosen = [chosen_cells(trial, [c for c in cells if c.stack == name]) for name in names]
    reference = trial.judges.reference
    provenance = {
        **adapter.provenance(),
        "bos": adapter.bos(bos),
        "site": trial.site,
        "stacks": names,
        "layers": {name: [c.layer for c in cells if c.stack == name] for name in names},
        "scales": list(trial.scales),
        "best": {one.stack: [list(place) for place in one.best] for one in chosen},
        "reference": None if reference is None else reference.name,
        "malformed": _name(trial.judges.malformed),
        "carried": _name(trial.judges.carried),
        **trial.sampling.facts(),
        "texts": len(trial),
        "complete": True,
        "notes": [WHOLE] if adapter.user_hooks() else [],
    }
    return StackComparison(
        provenance=provenance,
        cells=cells_table(trial, cells, plain),
        texts=texts_table(trial, cells, plain),
        stacks=stacks_table(chosen),
        own=own_table(trial),
    )


def _name(judge: Any) -> str | None:
    return None if judge is None else getattr(judge, "__qualname__", type(judge).__name__)


def _places(adapter: Adapter, layers: Any, site: str) -> list[tuple[Named, int]]:
    """Every stack with each of its blocks.

    Raises:
        ArgumentError: a layer out of range, a stack that the model does not have, a site that is
            not edited.
        HookPointError: a site that the model does not have.
    """
    stacks: list[Named] = [stack.name or "decoder" for stack in adapter.stacks]
    alike = dict.fromkeys(stacks, layers)
    chosen: dict[Any, Any] = dict(layers) if isinstance(layers, Mapping) else alike
    if not set(chosen) <= set(stacks):
        raise ArgumentError(f"layers={layers!r}: the stacks here are {', '.join(stacks)}.")
    found: list[tuple[Named, int]] = []
    for name in stacks:
        for layer in adapter.layers(chosen[name], stack=name) if name in chosen else ():
            found.append((name, editable(adapter, layer, site, name)))
    if not found:
        raise ArgumentError("layers is an empty mapping; name at least one stack.")
    return found
