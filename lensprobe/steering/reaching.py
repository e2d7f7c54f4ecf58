"""The scale at which a measured effect reaches a target: a search over positive scales.

Effects of steering rise from 0 at scale 0, but need not rise all the way, and those read on greedy
continuations jump where a token changes. So nothing is assumed beyond a value for every scale, and
what is found is said exactly: the smallest crossing on a doubling grid, bracketed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ArgumentError

__all__ = ["Reached", "reach"]

DOUBLINGS = 6
"""Scales of the first look: the start, one above it, the others below."""

WIDEST = 24
"""Doublings away from the start at which a target counts as out of reach."""

PARTS = 4
"""How many scales are added on a side that does not reach far enough."""

CLOSER = 1 / 8
"""The share of a bracket, on a log scale, that is looked at on each side of the interpolated scale."""

NARROW = 1.005
"""Ratio of a bracket's ends below which nothing more is to be found inside."""

Evaluate = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Reached:
    """Where a target was reached.

    Attributes:
        scale: the upper end of the bracket: the value there is at least the target.
        value: the value at that scale.
        curve: every scale that was evaluated, ascending, with its value.
        notes: what a reader should know: a jump across the target, or values that fall again.
    """

    scale: float
    value: float
    curve: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]


def reach(
    evaluate: Evaluate, target: float, start: float, *, tolerance: float = 0.02, name: str = "value"
) -> Reached:
    """The smallest scale at which `evaluate` reaches `target`.

    Scales are doubled and halved from `start` until two neighbours lie on both sides of the target;
    the lowest such pair is then closed in, three scales at a time around the interpolated one, until
    the value is within `tolerance` of the target or the bracket is 0.5% wide. A crossing that falls
    back before the next doubling is not seen. Values that are not finite count as above any target:
    a distribution has been broken there.

    Args:
        evaluate: ascending scales → a value for each; called with several at once because they can
            share a batch.
        target: above 0.
        start: where to begin, above 0.
        name: what the value is called in messages.

    Raises:
        ArgumentError: no scale that was tried reaches the target; or all of them do.

    >>> found = reach(lambda scales: [s * s for s in scales], target=9.0, start=1.0)
    >>> 3.0 <= found.scale < 3.04
    True
    """
    seen: dict[float, float] = {}

    def look(scales: Sequence[float]) -> None:
        found = evaluate(scales)
        for scale, value in zip(scales, found, strict=True):
            seen[scale] = float(value) if math.isfinite(value) else math.inf

    look([start * 2.0**power for power in range(2 - DOUBLINGS, 2)])
    low, high = _bracket(seen, look, target, start, name)
    while seen[high] > target * (1.0 + tolerance) and high / low > NARROW:
        look(_inside(seen, target, low, high))
        low, high = _ends(seen, target)
    return Reached(
        high,
        seen[high],
        tuple(sorted(seen.items())),
        _notes(seen, target, low, high, tolerance, name),
    )


def _ends(seen: dict[float, float], target: float) -> tuple[float, float]:
    """The lowest neighbours on both sides of the target; NaN for an end that is not there."""
    scales = sorted(seen)
    above = next((i for i, scale in enumerate(scales) if seen[scale] >= target), None)
    if above is None:
        return scales[-1], math.nan
    return (scales[above - 1] if above else math.nan), scales[above]


def _bracket(
    seen: dict[float, float],
    look: Callable[[Sequence[float]], None],
    target: float,
    start: float,
    name: str,
) -> tuple[float, float]:
    low, high = _ends(seen, target)
    while math.isnan(low) or math.isnan(high):
        if math.isnan(high):
            edge, step = max(seen), 2.0
            if edge > start * 2.0**WIDEST:
                best = max(seen, key=lambda scale: seen[scale])
                raise ArgumentError(
                    f"target={target:g} is out of reach: the largest {name} found is "
                    f"{seen[best]:.4g}, at scale {best:.4g}, up to scale {edge:.4g}."
                )
        else:
            edge, step = min(seen), 0.5
            if edge < start * 2.0**-WIDEST:
                raise ArgumentError(
                    f"target={target:g} is passed at every scale: the {name} is "
                    f"{seen[edge]:.4g} at scale {edge:.4g} already."
                )
        look(sorted(edge * step**power for power in range(1, PARTS + 1)))
        low, high = _ends(seen, target)
    return low, high


def _inside(seen: dict[float, float], target: float, low: float, high: float) -> list[float]:
    """Three scales inside a bracket, around the one at which a power law through its ends meets."""
    below, above = seen[low], seen[high]
    part = 0.5
    if below > 0 and math.isfinite(above):
        part = math.log(target / below) / math.log(above / below)
    # Away from the ends, so that each look narrows the bracket from both sides.
    centre = min(max(part, 2 * CLOSER), 1 - 2 * CLOSER)
    return [low * (high / low) ** (centre + side * CLOSER) for side in (-1, 0, 1)]


def _notes(
    seen: dict[float, float], target: float, low: float, high: float, tolerance: float, name: str
) -> tuple[str, ...]:
    notes = []
    if seen[high] > target * (1.0 + tolerance):
        notes.append(
            f"the {name} jumps from {seen[low]:.4g} to {seen[high]:.4g} between scales "
            f"{low:.6g} and {high:.6g}: no scale was found at which it is {target:g}"
        )
    again = [scale for scale in seen if scale > high and seen[scale] < target]
    if again:
        notes.append(
            f"not monotone: at scale {min(again):.4g} the {name} is below the target again "
            f"({seen[min(again)]:.4g}); the smallest scale found that reaches it is given"
        )
    return tuple(notes)
