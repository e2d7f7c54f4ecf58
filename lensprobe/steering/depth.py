"""Adding once, at the output of one block, against adding at every block from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..positions import Positions
from ..results import Result
from ..tokens import Bos
from .citations import ACTADD, CAA
from .forced import PLAIN, Reading, Strengths, check, read_again
from .journey import journey_table
from .measures import kl
from .opening import facts, opened, strength, uninterruptible
from .reaching import reach
from .study import Condition, Sampling, Study
from .vector import SteeringVector

__all__ = ["DepthComparison", "compare_depth"]

RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites whose vectors live in the residual stream."""


@dataclass(frozen=True, repr=False, eq=False)
class DepthComparison(Result):
    """One addition against one at every block from there on.

    The conditions: `plain`; `once`; `repeated` (the same scale at every block from the vector's own
    to the last); two fair controls, `divided` (repeated with the scale divided by the number of
    blocks, so that the same amount is added in all) and `matched` (repeated at the scale at which its
    mean KL from plain is that of `once`, to 5%).

    Attributes:
        conditions: one row a condition and measure: condition, scale, measure, value, low, high.
        tokens: one row a condition and token of the plain model's completion: condition, scale,
            text, position, token, kl, loss.
        texts: one row a condition and prompt: condition, scale, text, prompt, completion, kl, loss,
            perplexity, repetition, count.
        journey: one row a condition and layer, over the edited tokens: condition, scale, layer, site
            (`resid_post`), value (mean norm of the residual), ratio (to the plain norm, mean over
            tokens), component (mean component along the vector minus the plain one), added (what
            has been added along it up to this layer), share (component / added: how much of it is
            still there), low and high (the interval of share over texts).
    """

    kind: ClassVar[str] = "steering.depth"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)

    conditions: pd.DataFrame
    tokens: pd.DataFrame
    texts: pd.DataFrame
    journey: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Where and how much was added, mean KL of each condition, what is left at the top."""
        table = self.conditions[self.conditions["measure"] == "kl"].set_index("condition")["value"]
        top = self.journey[self.journey["layer"] == self.journey["layer"].max()]
        left = top.set_index("condition")["share"]
        names = [name for name in table.index if name != PLAIN]
        return {
            **super().summary(),
            "layer": self.provenance["layer"],
            "scale": self.provenance["scale"],
            "texts": self.provenance["texts"],
            **{f"kl_{name}": float(table[name]) for name in names},
            **{f"share_{name}": float(left[name]) for name in names},
        }


@torch.no_grad()
def compare_depth(
    model: Any,
    prompt: Any,
    vector: SteeringVector,
    *,
    scale: float = 1.0,
    positions: Positions | None = None,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> DepthComparison:
    """Add a vector once, at its own block, and at every block from there to the last.

    KL(condition ‖ plain) and losses are read on the plain model's completion, the same tokens for
    every condition. The residual's way up through the layers is read on the prompt and that
    completion, at the tokens that are edited.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: one prompt or many; intervals are over prompts.
        vector: of a site in the residual stream (not `attn.v`).
        scale: strength of each single addition.
        positions: which tokens; None is `after_prompt()` for one vector and `front()` for one with a
            row for each token. `last()`, which moves, is refused.
        max_new_tokens: length of the completions.
        temperature: 0 is greedy; see `lp.generate` for this and the next three.

    Raises:
        ArgumentError: an option out of range, a vector or a selector that does not fit.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> found = lp.steering.compare_depth(model, "The ", vector, scale=0.5, max_new_tokens=2)
        >>> rows = found.conditions.query("measure == 'kl'")
        >>> rows[["condition", "value"]].round(2).values.tolist()
        [['plain', 0.0], ['once', 0.35], ['repeated', 3.45], ['divided', 0.35], ['matched', 0.35]]
    """
    options = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    adapter, rows = opened(
        model, prompt, vector, what="lp.steering.compare_depth", bos=bos, sampling=options
    )
    options, amount = options.settled(), strength(scale)
    _check_place(vector, positions)
    above = tuple(range(adapter.layer(vector.layer), adapter.n_layers))
    conditions = _conditions(vector, above, amount, positions)
    for one in conditions:
        check(adapter, rows, one.edits)
    notes: list[str] = []
    with uninterruptible("compare_depth"):
        base = options.complete(adapter, rows, ())
        readings = [Reading(p, c, i) for i, (p, c) in enumerate(zip(rows, base[0], strict=True))]
        matched, notes = _matched(adapter, readings, conditions, progress)
        conditions += matched
        study = Study.of(adapter, rows, conditions, options, plain=base, progress=progress)
        journey = journey_table(adapter, readings, vector, conditions, progress)
    known = facts(adapter, vector, conditions, options, bos=bos, texts=len(rows))
    return DepthComparison(
        provenance={**known, "scale": amount, "notes": [*known["notes"], *notes]},
        conditions=study.conditions,
        tokens=study.tokens,
        texts=study.texts,
        journey=journey,
    )


def _check_place(vector: SteeringVector, positions: Positions | None) -> None:
    if vector.site not in RESIDUAL:
        raise ArgumentError(
            f"vector: its site is {vector.site}, where a component along it has no meaning in the "
            f"residual stream; compare_depth takes vectors of {', '.join(RESIDUAL)}."
        )
    if positions is not None and not isinstance(positions, Positions):
        raise ArgumentError(f"positions={positions!r}: a selector such as lp.positions.all().")
    if positions is not None and positions.moves:
        raise ArgumentError(
            f"positions={positions.describe()} moves with the newest token; compare_depth reads "
            "whole texts (compare_persistence is about moving edits)."
        )


def _conditions(
    vector: SteeringVector, above: tuple[int, ...], scale: float, positions: Positions | None
) -> list[Condition]:
    share = scale / len(above)
    return [
        Condition(PLAIN),
        Condition("once", (vector.add(scale, positions),), scale),
        Condition("repeated", (vector.add(scale, positions, layers=above),), scale),
        Condition("divided", (vector.add(share, positions, layers=above),), share),
    ]


def _matched(
    adapter: Adapter,
    readings: Sequence[Reading],
    conditions: Sequence[Condition],
    progress: bool | None,
) -> tuple[list[Condition], list[str]]:
    """The repeated addition at the scale at which its mean KL is that of the single one."""
    once, repeated, divided = conditions[1:4]

    def mean_kl(one: Condition, scales: Sequence[float]) -> list[float]:
        """Mean over texts of the mean KL over each text's completion."""
        if len(scales) > 1 and adapter.user_hooks():
            return [mean_kl(one, [scale])[0] for scale in scales]
        (edit,) = one.edits
        prompts = [reading.prompt for reading in readings]
        many = Strengths.of(prompts, edit, scales)
        found = read_again(
            adapter,
            [readings[owner] for owner in many.owners],
            {"steered": [many.edit]},
            lambda index, logits, targets: float(kl(logits["steered"], logits[PLAIN]).mean()),
            progress=progress,
        )
        return np.array(found).reshape(len(readings), len(scales)).mean(0).tolist()

    (target,) = mean_kl(once, [once.scale])
    if not target:
        return [], [
            "matched: the single addition changes nothing, so that there is nothing to match"
        ]
    sign = np.sign(once.scale)
    try:
        found = reach(
            lambda scales: mean_kl(repeated, [sign * s for s in scales]),
            target,
            2 * abs(divided.scale),
            tolerance=0.05,
            name="mean KL",
        )
    except ArgumentError as error:
        # Then the comparison stands without this control, and says why.
        return [], [f"matched: {error}"]
    scale = float(sign * found.scale)
    edits = tuple(replace(edit, scale=scale) for edit in repeated.edits)
    return [Condition("matched", edits, scale)], [f"matched: {note}" for note in found.notes]
