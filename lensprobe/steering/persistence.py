"""Does it stay? An edit that a cache keeps against one that falls back when the next token comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from .. import positions as where
from ..results import Result
from ..tokens import Bos
from .citations import ACTADD, CAA
from .forced import PLAIN, check
from .opening import facts, opened, strength, uninterruptible
from .persistence_tables import (
    CONTROL_STEPS,
    PAIRS,
    control_table,
    divergence_table,
    parting_table,
    read_all,
    texts_table,
    tokens_table,
)
from .study import Condition, Sampling
from .vector import SteeringVector

__all__ = ["PersistenceComparison", "compare_persistence"]


@dataclass(frozen=True, repr=False, eq=False)
class PersistenceComparison(Result):
    """The same addition at the newest token, kept or taken back.

    The conditions: `kept` is `after_prompt()`, under which every newest token is edited and stays
    edited for all later ones, which is what a key-value cache does by itself; `moving` is `last()`,
    under which only the newest token is edited and is plain again as soon as the next one comes,
    which is what editing the last position does when everything is recomputed; `plain`.

    Attributes:
        divergence: one row a completion, pair of conditions and step, over texts: condition (whose
            completion was read), steered and reference (KL(steered ‖ reference)), step (generated
            token, from 0), value (mean KL in nats), low, high (95% bootstrap interval), count
            (texts that are that long).
        tokens: one row a completion, text, pair and token: condition, text, step, position, token,
            steered, reference, kl.
        texts: one row a condition and prompt: condition, text, prompt, completion, perplexity (under
            the plain model), repetition, count (tokens).
        parting: one row a pair of conditions and prompt: steered, reference, text, step (of the first
            token in which their completions differ; NaN if in none).
        control: one row a comparison, text and step: kind ("front" or "newest"), text, step, kl, value
            (largest difference of any logit). Both compare keeping what the cache holds with
            recomputing everything. With fixed front positions there is nothing to choose (rounding
            alone); with the newest position there is.
    """

    kind: ClassVar[str] = "steering.persistence"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)

    divergence: pd.DataFrame
    tokens: pd.DataFrame
    texts: pd.DataFrame
    parting: pd.DataFrame
    control: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Mean KL between the pairs on the kept completion, where they part, what the front shows."""
        kept = self.tokens[self.tokens["condition"] == "kept"]
        means = {
            f"kl_{one}_{other}": float(
                kept.loc[(kept["steered"] == one) & (kept["reference"] == other), "kl"].mean()
            )
            for one, other in PAIRS
        }
        pair = (self.parting["steered"] == "moving") & (self.parting["reference"] == "kept")
        steps = self.parting["step"].to_numpy(dtype=np.float64)[pair.to_numpy()]
        front = self.control[self.control["kind"] == "front"]
        return {
            **super().summary(),
            "layer": self.provenance["layer"],
            "scale": self.provenance["scale"],
            "texts": self.provenance["texts"],
            **means,
            "parted": float(np.isfinite(steps).mean()),
            "front_kl": float(front["kl"].max()),
        }


@torch.no_grad()
def compare_persistence(
    model: Any,
    prompt: Any,
    vector: SteeringVector,
    *,
    scale: float = 1.0,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> PersistenceComparison:
    """Does an addition at the newest token stay for later ones, and does it matter?

    Each prompt is continued under both kinds of addition and by the plain model. All three
    completions are then read again, token for token, under all three: differences of distributions are
    never mixed with differences of text. The first generated token is the same under both kinds.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: one prompt or many; intervals are over prompts.
        vector: one vector, not one with a row for each token.
        scale: strength of the addition.
        max_new_tokens: length of the completions.
        temperature: 0 is greedy; with a temperature all conditions draw the same random numbers.
            See `lp.generate` for this and the next three.

    Raises:
        ArgumentError: an option out of range, a vector that does not fit.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> found = lp.steering.compare_persistence(model, "The ", vector, max_new_tokens=2)
        >>> facts = found.summary()
        >>> round(facts["kl_kept_plain"], 2), round(facts["kl_moving_kept"], 2)
        (0.98, 0.0)
    """
    options = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    adapter, rows = opened(
        model, prompt, vector, what="lp.steering.compare_persistence", bos=bos, sampling=options
    )
    options, amount = options.settled(), strength(scale)
    conditions = [
        Condition("kept", (vector.add(amount, where.after_prompt()),), amount),
        Condition("moving", (vector.add(amount, where.last()),), amount),
        Condition(PLAIN),
    ]
    front = vector.add(amount, where.front())
    for edits in (*(one.edits for one in conditions), (front,)):
        check(adapter, rows, edits)
    with uninterruptible("compare_persistence"):
        own = [options.complete(adapter, rows, one.edits) for one in conditions]
        read = read_all(adapter, rows, conditions, own, progress)
        control = control_table(adapter, rows, conditions, front, own[-1])
    return PersistenceComparison(
        provenance={
            **facts(adapter, vector, conditions, options, bos=bos, texts=len(rows)),
            "scale": amount,
            "control": {"texts": int(control["text"].nunique()), "tokens": CONTROL_STEPS},
        },
        divergence=divergence_table(read),
        tokens=tokens_table(adapter, read),
        texts=texts_table(adapter, own, read),
        parting=parting_table(conditions, own),
        control=control,
    )
