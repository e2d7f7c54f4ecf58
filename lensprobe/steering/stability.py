"""Is a vector from many pairs really less noisy?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..corpus import positive_whole
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..positions import Positions
from ..running.batching import progress_bar
from ..running.fanning import WHOLE
from ..settings import checked_seed, current
from ..tokens import Bos
from .effects import Effects, effects_on
from .making import editable, middle
from .opening import strength, uninterruptible
from .questions import Questions, questions
from .reading import Reader
from .resampling import draws, noise_dimensions, signal_and_noise, split_half_cosines
from .sides import Read, Sides
from .stability_result import Found, Stability, curve_table, draws_table

__all__ = ["stability"]

HELD_OUT, MOST_HELD_OUT = 0.25, 24
"""Questions that the effect is measured on: this share of them, at most so many."""

EFFECTS = 32
"""Most vectors for each n whose effect is measured: unlike cosines, effects cost forward passes."""


@torch.no_grad()
def stability(
    model: Any,
    positive: Any,
    negative: Any = None,
    *,
    layer: int | None = None,
    site: str = DEFAULT_SITE,
    read: Read | None = None,
    n: Sequence[int | str] = (1, 4, 16, 64, "all"),
    repeats: int = 64,
    measure: str = "all",
    prompt: Any = None,
    scale: float = 1.0,
    positions: Positions | None = None,
    seed: int | None = None,
    bos: Bos = "auto",
    column: str | None = None,
    limit: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Stability:
    """Split-half cosine and spread of the effect of mean-difference vectors, against pairs.

    Every pair is read once; vectors are then means of what was read, and only their effects cost
    passes, which start at the block that is edited. The cosine is between vectors from two disjoint
    random sets of n pairs; repeats share pairs when n is large, so that their spread is too small
    there. The effect is that of vectors of n pairs drawn with replacement, all as long as that of all
    pairs: what is compared is direction, not that vectors of few pairs are longer.

    Args:
        model: a decoder-only TransformerLens model.
        positive: contrast questions, as in `difference`, or texts.
        negative: None with questions; otherwise as many texts as there are positive ones.
        layer: which block; None is the middle one.
        site: where in it.
        read: which token, as in `difference`.
        n: numbers of pairs. `"all"` is half of them for the cosine, whose two sets are disjoint, and
            all of them for the effect. Numbers that the data is too small for are left out, which
            provenance notes.
        repeats: random sets for each n; at most 32 of them for the effect.
        measure: "all", or "cosine" alone, which costs no passes beyond reading.
        prompt: what the effect is measured on: contrast questions (the change in log-odds of the
            matching answer) or texts (KL from plain of the token after them). None holds a quarter
            of the questions out, at most 24, and with texts takes the openings of packaged ones.
        scale: strength of the addition in effects, of vectors as long as that of all pairs.
        positions: where it is added; None is `after_prompt()`.
        seed: of the split and the sets; None is 0.
        column: which field of a record is the text.
        limit: most questions, or most texts of each side.

    Raises:
        ArgumentError: fewer than four pairs, no usable n, sides of different length, an option out of
            range.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> sides = [[f"{what} {end}" for what in ("cat", "dog", "owl", "hen")] for end in "ze"]
        >>> found = lp.steering.stability(model, *sides, layer=2, n=[1, 2], measure="cosine")
        >>> found.curve[["n", "value"]].round(3).values.tolist()
        [[1.0, 1.0], [2.0, 1.0]]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.stability")
    place = editable(adapter, middle(adapter, layer), site)
    wanted, chance = _checked(n, repeats, measure), checked_seed(seed) or 0
    amount = strength(scale)
    pairs, held = _held_out(positive, negative, prompt, limit, chance, measure)
    sides = Sides(
        adapter, pairs, negative, read=read, bos=bos, column=column,
        limit=None if negative is None else limit, paired=True,
    )  # fmt: skip
    effects = None
    if measure == "all":
        effects = effects_on(adapter, held, bos=bos, positions=positions, layer=place, site=site)
    known = {"site": site, "layer": place, "seed": chance, "repeats": repeats, "scale": amount}
    tokens = positive_whole("batch_tokens", current("batch_tokens", batch_tokens))
    with uninterruptible("stability"):
        differences = _differences(adapter, sides, place, site, tokens, progress)
        found, notes = _draw(differences, wanted, repeats, chance, effects, amount)
    known |= {**sides.provenance(), "effect": None if effects is None else effects.facts()}
    notes += [sides.read.complaint] if sides.read.skipped else []
    notes += [WHOLE] if adapter.user_hooks() else []
    return _result(
        {**adapter.provenance(), **known, "complete": True, "notes": notes}, differences, found
    )


def _result(provenance: dict[str, Any], differences: np.ndarray, found: Found) -> Stability:
    signal, noise = signal_and_noise(differences)
    return Stability(
        provenance=provenance,
        curve=curve_table(found, signal, noise),
        draws=draws_table(found),
        signal=signal,
        noise=noise,
        dimensions=noise_dimensions(differences),
        pairs=len(differences),
    )


def _draw(
    differences: np.ndarray,
    wanted: Sequence[int | str],
    repeats: int,
    seed: int,
    effects: Effects | None,
    scale: float,
) -> tuple[Found, list[str]]:
    count = len(differences)
    generator = np.random.default_rng(seed)
    found: Found = []
    notes = []
    for n in sorted({count // 2 if n == "all" else int(n) for n in wanted}):
        if 2 * n > count:
            notes.append(
                f"cosine at n={n} left out: two disjoint sets need {2 * n} pairs of {count}"
            )
            continue
        found.append(("cosine", n, split_half_cosines(differences, n, repeats, generator)))
    if effects is not None:
        norm = float(np.linalg.norm(differences.mean(0)))
        for n in sorted({count if n == "all" else int(n) for n in wanted}):
            if n > count:
                notes.append(f"{effects.measure} at n={n} left out: there are {count} pairs")
                continue
            vectors = draws(differences, n, min(repeats, EFFECTS), generator)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors * (scale * norm / np.where(lengths, lengths, 1.0))
            found.append((effects.measure, n, effects(vectors)))
    if not any(name == "cosine" for name, _, _ in found):
        raise ArgumentError(f"n={tuple(wanted)!r}: none fits twice into {count} pairs.")
    return found, notes


def _differences(
    adapter: Adapter,
    sides: Sides,
    layer: int,
    site: str,
    batch_tokens: int,
    progress: bool | None,
) -> np.ndarray:
    """Positive minus negative of every pair, in the order of the data, float64 `[pairs width]`.

    Raises:
        ArgumentError: fewer than four pairs with finite activations.
    """
    reader = Reader(adapter, (layer,), site)
    numbers, values = [], []
    with progress_bar("pair", progress) as bar:
        for group in reader.groups(sides.pairs(), batch_tokens):
            block = reader.read(group).finite()
            gap = block.positive[:, 0].astype(np.float64) - block.negative[:, 0]
            numbers.append(block.positive_numbers)
            values.append(gap)
            bar.update(len(group))
    count = sum(map(len, numbers))
    if count < 4:
        raise ArgumentError(f"positive, negative: stability needs 4 pairs or more, not {count}.")
    # Sorted: what is drawn must not depend on how pairs were batched.
    return np.concatenate(values)[np.argsort(np.concatenate(numbers))]


def _held_out(
    positive: Any, negative: Any, prompt: Any, limit: int | None, seed: int, measure: str
) -> tuple[Any, Any]:
    """The data that vectors are made of, and what their effect is measured on (None: the default)."""
    if negative is not None:
        return positive, prompt
    asked: Questions = questions(positive, limit=limit)
    if prompt is not None or measure == "cosine":
        return asked, prompt
    if len(asked) < 5:
        raise ArgumentError(
            f"positive: {len(asked)} questions; stability needs 5, one of them held out, or prompt=."
        )
    share = min(HELD_OUT, MOST_HELD_OUT / len(asked))
    held, rest = asked.split(share, seed)
    return rest, held


def _checked(n: Any, repeats: Any, measure: Any) -> tuple[int | str, ...]:
    given = [n] if isinstance(n, str) or not np.iterable(n) else list(n)
    try:
        wanted = tuple(one if isinstance(one, str) else positive_whole("n", one) for one in given)
    except ArgumentError:
        wanted = ("",)
    if any(isinstance(one, str) and one != "all" for one in wanted):
        raise ArgumentError(f'n={n!r}: positive whole numbers, or "all".')
    if not wanted:
        raise ArgumentError("n is empty; give at least one number of pairs.")
    if positive_whole("repeats", repeats) < 2:
        raise ArgumentError("repeats=1: a spread needs two or more.")
    if measure not in ("all", "cosine"):
        raise ArgumentError(f'measure={measure!r}: "all" or "cosine".')
    return wanted
