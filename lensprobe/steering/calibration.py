"""How strong a vector must be to change what a model says by a given amount."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Add
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..positions import Positions
from ..results import Result
from ..running.forward import forward
from ..texts import TITLE, default_texts
from ..tokens import Bos, Encoded, encoded, token_strings
from .forced import PLAIN, Reading, Strengths, check, read_again
from .measures import kl
from .opening import facts, opened, uninterruptible
from .reaching import Reached, reach
from .study import Condition, Sampling
from .vector import SteeringVector

__all__ = ["Calibration", "Divergence", "calibrate", "check_target", "openings", "size_of"]

PROMPTS, LEADING = 6, 16
"""The default prompts: how many of the packaged texts, and how many tokens of each."""


@dataclass(frozen=True, repr=False, eq=False)
class Calibration(Result):
    """The scale at which a vector's effect reaches a target.

    Attributes:
        curve: one row a scale that was evaluated, ascending: scale, value (the percentile of token
            KL, in nats), mean, median, count (tokens).
        tokens: one row a token of the continuations at `scale`: text, position, token, kl.
        scale: the smallest scale found at which the percentile reaches the target.
        reached: the percentile there; at least the target.
        target: in nats.
        percentile: which percentile of token KL.
        opposite: the percentile at minus that scale: steering the other way is seldom as strong.
        values: float32, the vector that was calibrated, as it was given.
        place: its layer, site, stack and provenance.
    """

    kind: ClassVar[str] = "steering.calibration"

    curve: pd.DataFrame
    tokens: pd.DataFrame
    scale: float
    reached: float
    target: float
    percentile: float
    opposite: float
    values: np.ndarray
    place: dict[str, Any]

    @property
    def vector(self) -> SteeringVector:
        """The vector at its calibrated strength: add it with scale 1, where it was calibrated.

        `layers` and `positions` of the summary say where that is, if it is not its own place.
        """
        return self.scale * SteeringVector(self.values, **self.place)

    def summary(self) -> dict[str, Any]:
        """Scale, what it reaches and the target, the other direction, tokens."""
        return {
            **super().summary(),
            "layers": ", ".join(map(str, self.provenance["layers"])),
            "positions": self.provenance["positions"],
            "scale": self.scale,
            "reached": self.reached,
            "target": self.target,
            "percentile": self.percentile,
            "opposite": self.opposite,
            "tokens": len(self.tokens),
        }


@torch.no_grad()
def calibrate(
    model: Any,
    vector: SteeringVector,
    *,
    target: float = 1.0,
    prompt: Any = None,
    percentile: float = 95.0,
    positions: Positions | None = None,
    layers: Any = None,
    max_new_tokens: int = 24,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> Calibration:
    """The scale at which the percentile of token KL(steered ‖ plain) reaches a target.

    Exactly: at each scale every prompt is continued greedily by the *steered* model. Those tokens are
    then read again by the steered and by the plain model, and KL(steered ‖ plain) is taken of the
    distributions that chose them, in nats. The percentile is over all tokens of all prompts, linearly
    interpolated. Vectors at their calibrated scales can be compared fairly: none wins by being
    louder.

    The scale is positive; for the other direction calibrate `-vector`. It is the smallest crossing on
    a doubling grid, to 2% of the target or 0.5% of the scale. The percentile jumps where a greedy
    token changes, and may fall again at larger scales; a note in provenance says so where it does.

    Args:
        model: a decoder-only TransformerLens model.
        vector: what is calibrated.
        target: in nats.
        prompt: one or many; None takes the openings of packaged public-domain texts.
        positions: which tokens are edited; None is `after_prompt()` for one vector and `front()` for
            one with a row for each token.
        layers: where it is added; None is its own layer.
        max_new_tokens: length of the continuations, which end at an end-of-text token.

    Raises:
        ArgumentError: an option out of range; a vector of zeros; a target out of reach.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> vector = lp.steering.difference(model, ["z"], ["e"], layers=2)
        >>> few = {"prompt": "The ", "max_new_tokens": 2}
        >>> found = lp.steering.calibrate(model, vector, target=0.5, **few)
        >>> round(found.scale, 2)
        0.57
    """
    options = Sampling(max_new_tokens)
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.calibrate")
    texts = openings(adapter, bos) if prompt is None else prompt
    adapter, rows = opened(
        model, texts, vector, what="lp.steering.calibrate", bos=bos, sampling=options
    )
    check_target(target)
    _check_number("percentile", percentile, 100.0, "above 0 and at most 100")
    edit = vector.add(1.0, positions, layers=layers)
    check(adapter, rows, [edit])
    with uninterruptible("calibrate"):
        spread = Divergence(adapter, rows, edit, options, percentile, progress)
        found = spread.reach(target, size_of(adapter, rows, vector, edit))
        opposite = spread([-found.scale])[0]
    condition = Condition("calibrated", (replace(edit, scale=found.scale),), found.scale)
    known = facts(adapter, vector, [condition], options, bos=bos, texts=len(rows))
    known["layers"] = list(adapter.layers(edit.layers))
    known["positions"] = edit.positions.describe()
    source = {"prompts": TITLE} if prompt is None else {}
    return Calibration(
        provenance={**known, **source, "notes": [*known["notes"], *found.notes]},
        curve=spread.curve(),
        tokens=spread.tokens(found.scale),
        scale=found.scale,
        reached=found.value,
        target=float(target),
        percentile=float(percentile),
        opposite=float(opposite),
        values=np.array(vector.values),
        place=_place(vector),
    )


def _place(vector: SteeringVector) -> dict[str, Any]:
    """Everything of a vector but its numbers."""
    made = {"stack": vector.stack, "provenance": dict(vector.provenance)}
    return {"layer": vector.layer, "site": vector.site, **made}


class Divergence:
    """Scale → percentile of token KL(steered ‖ plain) over greedy continuations of the steered model.

    Scales that are asked for together ride on one batch. What was found is kept.
    """

    def __init__(
        self,
        adapter: Adapter,
        prompts: Sequence[Encoded],
        edit: Add,
        options: Sampling,
        percentile: float,
        progress: bool | None = None,
    ) -> None:
        self.adapter = adapter
        self.prompts = prompts
        self.edit = edit
        self.options = options
        self.percentile = percentile
        self.progress = progress
        self._found: dict[float, list[tuple[Reading, np.ndarray]]] = {}

    def __call__(self, scales: Sequence[float]) -> list[float]:
        """The percentile at each scale, in nats."""
        if len(scales) > 1 and self.adapter.user_hooks():
            # The user's hooks see the caller's prompts, each once.
            return [self([scale])[0] for scale in scales]
        many = Strengths.of(self.prompts, self.edit, scales)
        completions, _ = self.options.complete(self.adapter, many.prompts, [many.generating])
        readings = [
            Reading(prompt, ids, int(owner))
            for prompt, ids, owner in zip(many.prompts, completions, many.owners, strict=True)
        ]

        def reduce(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> np.ndarray:
            return kl(logits["steered"], logits[PLAIN]).cpu().double().numpy()

        found = read_again(
            self.adapter, readings, {"steered": [many.edit]}, reduce, progress=self.progress
        )
        pairs = list(zip(readings, found, strict=True))
        for place, scale in enumerate(scales):
            self._found[scale] = pairs[place :: len(scales)]
        return [self._percentile(scale) for scale in scales]

    def reach(self, target: float, start: float) -> Reached:
        """See `reaching.reach`."""
        name = f"{self.percentile:g}th percentile of token KL"
        return reach(self, target, start, name=name)

    def curve(self) -> pd.DataFrame:
        """Scale, value, mean, median, count; ascending."""
        rows = []
        for scale in sorted(self._found):
            values = self._values(scale)
            rows.append(
                {
                    "scale": scale,
                    "value": self._percentile(scale),
                    "mean": float(values.mean()),
                    "median": float(np.median(values)),
                    "count": len(values),
                }
            )
        return pd.DataFrame(rows)

    def tokens(self, scale: float) -> pd.DataFrame:
        """Text, position, token, kl at a scale that was asked for."""
        tokenizer = getattr(self.adapter.model, "tokenizer", None)
        parts = [
            pd.DataFrame(
                {
                    "text": reading.owner,
                    "position": np.arange(len(reading.prompt), len(reading)),
                    "token": token_strings(tokenizer, reading.completion),
                    "kl": values,
                }
            )
            for reading, values in self._found[scale]
        ]
        return pd.concat(parts, ignore_index=True)

    def _values(self, scale: float) -> np.ndarray:
        return np.concatenate([values for _, values in self._found[scale]])

    def _percentile(self, scale: float) -> float:
        return float(np.percentile(self._values(scale), self.percentile))


def size_of(
    adapter: Adapter, prompts: Sequence[Encoded], vector: SteeringVector, edit: Add
) -> float:
    """The scale at which the addition is as long as the stream itself typically is there.

    The median norm over the prompts' tokens but the first, which is often massive, over that of the
    vector's longest row; shared among the blocks at which it is added.

    Raises:
        ArgumentError: the vector is zero.
    """
    longest = float(np.linalg.norm(np.atleast_2d(vector.values), axis=-1).max())
    if not longest:
        raise ArgumentError("vector is zero: no scale of it changes anything.")
    read = forward(adapter.model, list(prompts), layers=vector.layer, site=vector.site, logits=None)
    later = (read.tokens["position"] > 0).to_numpy()
    found = read.activations[0][later if later.any() else slice(None)]
    typical = float(np.median(np.linalg.norm(found.astype(np.float64), axis=-1)))
    return typical / longest / len(adapter.layers(edit.layers))


def openings(adapter: Adapter, bos: Bos) -> list[Encoded]:
    """The first tokens of the packaged public-domain texts."""
    texts = default_texts()[:PROMPTS]
    return [Encoded(encoded(adapter, text, bos).ids[:LEADING]) for text in texts]


def check_target(target: Any) -> None:
    """A positive finite number of nats.

    Raises:
        ArgumentError: anything else.
    """
    _check_number("target", target, np.inf, "above 0, in nats")


def _check_number(name: str, value: Any, most: float, allowed: str) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < float(value) <= most or not np.isfinite(float(value)):
        raise ArgumentError(f"{name}={value!r}: a number {allowed}.")
