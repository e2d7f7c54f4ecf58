"""The texts of a training as fixed sequences, and the order in which they are met."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...corpus import Corpus, Window
from ...errors import ArgumentError
from ...models.adapter import Adapter
from ...tokens import Bos, Encoded

__all__ = ["Material", "gather"]

LENGTH = 128
"""Tokens of a training sequence where no length is given."""
TRAINING, WARMING = 0, 1


@dataclass(frozen=True)
class Material:
    """Sequences for training and for watching.

    Attributes:
        windows: all sequences of at least two tokens, in the order of the texts.
        watched: indices of those that are watched and never trained on.
        trained: indices of the others.
        batch_size: sequences in one optimizer step.
        facts: what provenance says of the texts.
    """

    windows: tuple[Window, ...]
    watched: tuple[int, ...]
    trained: tuple[int, ...]
    batch_size: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[Encoded]:
        """The sequences that are watched."""
        return [Encoded(self.windows[index].ids) for index in self.watched]

    def batch(self, seed: int, step: int, *, warming: bool = False) -> list[int]:
        """Indices of the windows that step `step` (from 1) trains on.

        Each pass over the sequences is a permutation of its own, drawn from (seed, pass) alone: no
        state, so that a training that is taken up again meets what it would have met. `warming` is
        another order, for passes that train nothing.
        """
        begin = (step - 1) * self.batch_size
        chosen: list[int] = []
        while len(chosen) < self.batch_size:
            turn, place = divmod(begin + len(chosen), len(self.trained))
            order = self._order(seed, WARMING if warming else TRAINING, turn)
            chosen += order[place : place + self.batch_size - len(chosen)]
        return chosen

    def _order(self, seed: int, stream: int, turn: int) -> list[int]:
        random = np.random.default_rng([seed, stream, turn])
        return [self.trained[index] for index in random.permutation(len(self.trained))]

    def sequences(self, indices: list[int]) -> list[Encoded]:
        """The windows of these indices."""
        return [Encoded(self.windows[index].ids) for index in indices]

    def fingerprint(self) -> str:
        """A hash of every token and of which sequences are watched."""
        found = hashlib.blake2b(digest_size=16)
        for window in self.windows:
            found.update(np.asarray([len(window.ids), *window.ids], np.int64).tobytes())
        found.update(np.asarray(self.watched, np.int64).tobytes())
        return found.hexdigest()


def gather(
    adapter: Adapter,
    texts: Any,
    *,
    batch_size: int,
    held_out: int | None,
    position: int,
    bos: Bos,
    length: int | None,
    limit: int | None,
    column: str | None,
    batch_tokens: int | None,
) -> Material:
    """Read the texts into windows and set those apart that are watched: the first of the longest.

    Args:
        held_out: how many are watched; None is half a batch, so that watching stays cheap beside
            training.
        position: those that are watched must have it.

    Raises:
        ArgumentError: see `Corpus`; too few sequences, or none with the position.
    """
    corpus = Corpus(
        adapter,
        texts,
        bos=bos,
        length=length,
        longest=LENGTH,
        limit=limit,
        column=column,
        batch_tokens=batch_tokens,
    )
    whole = list(corpus.windows())
    windows = tuple(window for window in whole if len(window.ids) > 1)
    wanted = max(1, batch_size // 2) if held_out is None else held_out
    if len(windows) <= wanted:
        raise ArgumentError(
            f"texts give {len(windows)} sequences of at most {corpus.length} tokens; {wanted} are "
            "watched and at least one more is trained on. Give more text, a smaller length=, or "
            "held_out=."
        )
    longest = sorted(range(len(windows)), key=lambda index: (-len(windows[index].ids), index))
    watched = tuple(sorted(longest[:wanted]))
    short = [index for index in watched if len(windows[index].ids) <= position]
    if short:
        raise ArgumentError(
            f"position={position}: of the {wanted} longest sequences, which are watched, {len(short)} "
            f"do not have it; the shortest has {len(windows[short[-1]].ids)} tokens."
        )
    notes = corpus.notes(corpus.read)
    if len(windows) < len(whole):
        notes.append(f"{len(whole) - len(windows)} sequences of one token were left out")
    chosen = set(watched)
    return Material(
        windows,
        watched,
        tuple(index for index in range(len(windows)) if index not in chosen),
        batch_size,
        {
            "bos": corpus.bos,
            "length": corpus.length,
            "documents": corpus.read.documents,
            "sequences": len(windows),
            "tokens": sum(len(window.ids) for window in windows),
            "watched": list(watched),
            "batch_size": batch_size,
            "notes": notes,
        },
    )
