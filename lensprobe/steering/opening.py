"""What every comparison does before its first pass, and says of itself afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.fanning import WHOLE
from ..running.forward import describe
from ..tokens import Bos, Encoded, as_texts, encoded
from .study import Condition, Sampling
from .vector import SteeringVector

__all__ = ["amounts", "facts", "opened", "opened_prompts", "strength", "uninterruptible"]


def opened(
    model: Any, prompt: Any, vector: Any, *, what: str, bos: Bos, sampling: Sampling
) -> tuple[Adapter, list[Encoded]]:
    """The adapter and the prompts, once model, vector and prompts are known to fit together.

    Raises:
        ModelError: an encoder-decoder model.
        ArgumentError: no steering vector, an empty prompt, or no room for the new tokens.
    """
    adapter_for(model).require_decoder(what)
    if not isinstance(vector, SteeringVector):
        raise ArgumentError(
            f"vector={vector!r}: one SteeringVector, as lp.steering.contrast makes."
        )
    return opened_prompts(model, prompt, what=what, bos=bos, sampling=sampling)


def opened_prompts(
    model: Any, prompt: Any, *, what: str, bos: Bos, sampling: Sampling
) -> tuple[Adapter, list[Encoded]]:
    """The adapter and the prompts' tokens.

    Raises:
        ModelError: an encoder-decoder model.
        ArgumentError: an empty prompt, or no room for the new tokens.
    """
    adapter = adapter_for(model)
    adapter.require_decoder(what)
    rows = [encoded(adapter, text, bos) for text in as_texts(prompt)]
    count = sampling.max_new_tokens
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"max_new_tokens={count!r}: a positive whole number.")
    longest = max(map(len, rows)) + count
    if longest > adapter.context:
        raise ArgumentError(
            f"max_new_tokens={count}: with the longest prompt that is {longest} tokens; "
            f"this model's context is {adapter.context}."
        )
    return adapter, rows


def strength(scale: Any, name: str = "scale") -> float:
    """A finite number.

    Raises:
        ArgumentError: anything else.
    """
    try:
        value = float(scale)
    except (TypeError, ValueError):
        value = np.nan
    if isinstance(scale, bool) or not np.isfinite(value):
        raise ArgumentError(f"{name}={scale!r}: a finite number.")
    return value


def amounts(scales: Any) -> tuple[float, ...]:
    """Scales, ascending, without the 0 that every curve begins with.

    Raises:
        ArgumentError: no scales, a number that is not finite, one twice.
    """
    if not isinstance(scales, Iterable) or isinstance(scales, str):
        raise ArgumentError(f"scales={scales!r}: a sequence of numbers, or a mapping of them.")
    found = sorted(strength(scale, "scales") for scale in scales)
    if not found or len(set(found)) < len(found):
        raise ArgumentError(f"scales={scales!r}: at least one number, and none of them twice.")
    steered = tuple(scale for scale in found if scale)
    if not steered:
        raise ArgumentError(f"scales={scales!r}: 0 is the plain model; give another number.")
    return steered


def facts(
    adapter: Adapter,
    vector: SteeringVector,
    conditions: Sequence[Condition],
    sampling: Sampling,
    *,
    bos: Bos,
    texts: int,
) -> dict[str, Any]:
    """What every comparison's result says of where its numbers come from."""
    return {
        **adapter.provenance(),
        "bos": adapter.bos(bos),
        "site": vector.site,
        "layer": vector.layer,
        "vector": dict(vector.provenance),
        **sampling.facts(),
        "texts": texts,
        "edits": {one.name: [describe(edit) for edit in one.edits] for one in conditions},
        "complete": True,
        "notes": [WHOLE] if adapter.user_hooks() else [],
    }


@contextmanager
def uninterruptible(what: str) -> Iterator[None]:
    """Ctrl-C inside ends the call without a partial result: half a comparison compares nothing.

    Raises:
        Interrupted: Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"{what} was interrupted; it has no partial result.") from interrupt
