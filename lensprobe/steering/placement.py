"""Where to add: the same vector at the front, everywhere, from the prompt's end on, and elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch

from .. import positions as where
from ..edits import Add
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..positions import Positions
from ..results import Result
from ..tokens import Bos, Encoded
from .calibration import Divergence, check_target, size_of
from .citations import ACTADD, CAA
from .forced import PLAIN, check
from .opening import facts, opened, strength, uninterruptible
from .study import Condition, Sampling, Study
from .vector import SteeringVector

__all__ = ["PositionsComparison", "compare_positions"]

PERCENTILE = 95.0


@dataclass(frozen=True, repr=False, eq=False)
class PositionsComparison(Result):
    """The same vector added at different tokens.

    Attributes:
        conditions: one row a condition and measure: condition (a name of `positions`, or `plain`),
            scale, measure (kl, loss, perplexity, repetition, count, loss_change), value, low, high.
        tokens: one row a condition and token of the plain model's completion: condition, scale,
            text, position, token, kl, loss.
        texts: one row a condition and prompt: condition, scale, text, prompt, completion, kl, loss,
            perplexity, repetition, count (tokens edited while generating).
        positions: one row a condition: condition, positions (the selector), scale.
    """

    kind: ClassVar[str] = "steering.positions"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)

    conditions: pd.DataFrame
    tokens: pd.DataFrame
    texts: pd.DataFrame
    positions: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """How it was scaled, and the mean KL of each place."""
        table = self.conditions[self.conditions["measure"] == "kl"]
        pairs = zip(table["condition"], table["value"], strict=True)
        target = self.provenance["target"]
        return {
            **super().summary(),
            "layer": self.provenance["layer"],
            "scale" if target is None else "target": self.provenance["scale"]
            if target is None
            else target,
            "texts": self.provenance["texts"],
            **{f"kl_{name}": float(value) for name, value in pairs if name != PLAIN},
        }


@torch.no_grad()
def compare_positions(
    model: Any,
    prompt: Any,
    vector: SteeringVector,
    *,
    positions: Mapping[str, Positions] | None = None,
    scale: float = 1.0,
    target: float | None = None,
    layers: Any = None,
    max_new_tokens: int = 24,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> PositionsComparison:
    """Add one vector at different tokens, with the same strength or the same effect.

    KL(condition ‖ plain) and losses are read on the plain model's completion, the same tokens for
    every condition; under a selector that moves, token after token as in generation.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: one prompt or many; intervals are over prompts.
        vector: what is added.
        positions: name → selector. None is, for one vector, `front(1)`, `all()`, `after_prompt()`,
            `generated()`, `last()` and `at(-1)`; for a vector with a row for each token, that many
            tokens at the front and at the prompt's end.
        scale: strength, the same everywhere.
        target: None, or nats: then every place has the scale of its own at which the 95th percentile
            of token KL reaches the target on these prompts (see `calibrate`), and `scale` is not used.
            A place that cannot reach it is left out, and a note in provenance says so.
        layers: where it is added; None is its own layer.
        max_new_tokens: length of the completions.
        temperature: 0 is greedy; see `lp.generate` for this and the next three.

    Raises:
        ArgumentError: an option out of range, a selector that a prompt cannot satisfy, a target that
            no place can reach.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> places = {"end": lp.positions.at(-1), "front": lp.positions.front(1)}
        >>> found = lp.steering.compare_positions(
        ...     model, "The ", vector, positions=places, scale=0.5, max_new_tokens=2
        ... )
        >>> rows = found.conditions.query("measure == 'kl'")
        >>> rows[["condition", "value"]].round(2).values.tolist()
        [['plain', 0.0], ['end', 0.21], ['front', 0.0]]
    """
    options = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    adapter, rows = opened(
        model, prompt, vector, what="lp.steering.compare_positions", bos=bos, sampling=options
    )
    options, amount = options.settled(), strength(scale)
    places = _places(positions, vector)
    edits = {name: vector.add(amount, place, layers=layers) for name, place in places.items()}
    for edit in edits.values():
        check(adapter, rows, [edit])
    if target is not None:
        check_target(target)
    notes: list[str] = []
    with uninterruptible("compare_positions"):
        if target is not None:
            edits, notes = _scaled(adapter, rows, vector, edits, float(target), options, progress)
        conditions = [Condition(PLAIN)]
        conditions += [Condition(name, (edit,), float(edit.scale)) for name, edit in edits.items()]
        study = Study.of(adapter, rows, conditions, options, progress=progress)
    known = facts(adapter, vector, conditions, options, bos=bos, texts=len(rows))
    own = {"scale": amount, "target": None if target is None else float(target)}
    return PositionsComparison(
        provenance={**known, **own, "notes": [*known["notes"], *notes]},
        conditions=study.conditions,
        tokens=study.tokens,
        texts=study.texts,
        positions=_positions_table(edits),
    )


def _positions_table(edits: Mapping[str, Add]) -> pd.DataFrame:
    """See `PositionsComparison.positions`."""
    chosen = {
        "condition": list(edits),
        "positions": [edit.positions.describe() for edit in edits.values()],
        "scale": [float(edit.scale) for edit in edits.values()],
    }
    return pd.DataFrame(chosen)


def _places(given: Any, vector: SteeringVector) -> dict[str, Positions]:
    """Name → selector, checked.

    Raises:
        ArgumentError: no mapping, nothing in it, something that is no selector, the name "plain".
    """
    if given is None:
        if vector.tokens is None:
            return {
                "front": where.front(1),
                "all": where.all(),
                "after prompt": where.after_prompt(),
                "generated": where.generated(),
                "last": where.last(),
                "prompt's end": where.at(-1),
            }
        return {"front": where.front(), "prompt's end": where.at(*range(-vector.tokens, 0))}
    if not isinstance(given, Mapping) or not given:
        raise ArgumentError(
            f"positions={given!r}: a mapping name → selector, such as "
            '{"all": lp.positions.all()}, or None.'
        )
    for name, place in given.items():
        if not isinstance(place, Positions):
            raise ArgumentError(
                f"positions[{name!r}]={place!r}: a selector such as lp.positions.all()."
            )
        if name == PLAIN:
            raise ArgumentError(f"positions: {PLAIN!r} is the unedited model; choose another name.")
    return {str(name): place for name, place in given.items()}


def _scaled(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    vector: SteeringVector,
    edits: Mapping[str, Add],
    target: float,
    options: Sampling,
    progress: bool | None,
) -> tuple[dict[str, Add], list[str]]:
    """Each edit at the scale at which it reaches the target."""
    greedy = Sampling(options.max_new_tokens)
    scaled, notes = {}, []
    for name, edit in edits.items():
        spread = Divergence(adapter, prompts, edit, greedy, PERCENTILE, progress)
        start = size_of(adapter, prompts, vector, edit)
        try:
            found = spread.reach(target, start)
        except ArgumentError as error:
            # A place from which a vector cannot do that much is a finding; the others stand.
            notes.append(f"{name} is left out: {error}")
            continue
        scaled[name] = replace(edit, scale=found.scale)
        notes += [f"{name}: {note}" for note in found.notes]
    if not scaled:
        raise ArgumentError(f"no place reaches the target. {' '.join(notes)}")
    return scaled, notes
