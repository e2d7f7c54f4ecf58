"""Activations at one token of each text, read with as little work as the model allows.

Three things are not done. Nothing after the token that is read is computed: in a causal model it
cannot matter. No block above the deepest layer runs, and no unembedding. Where the two texts of a pair
begin alike, as a question with two answers does, the common prefix is read once and both rests continue
from its keys and values. Where the user has hooks of their own, whole texts are read in whole passes,
so that those hooks see what they would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models.adapter import Adapter
from ..running.session import Hook, hooked
from ..tokens import Encoded, TokenBatch

__all__ = ["Block", "Pair", "Reader", "Size", "Text"]

LOOKAHEAD = 16
"""Batches' worth of tokens that wait to be sorted by length: bounded memory, little padding."""
WORTH = 0.2
"""Least share of a pair's tokens that sharing its prefix must save, because it takes a second pass."""


@dataclass(frozen=True)
class Text:
    """Token ids of one text, and the index of the token that is read."""

    ids: tuple[int, ...]
    at: int

    @property
    def needed(self) -> tuple[int, ...]:
        """The ids up to and with the token that is read."""
        return self.ids[: self.at + 1]


@dataclass(frozen=True)
class Pair:
    """The texts of one number: a positive one, a negative one, or both.

    Attributes:
        number: their place in the data.
    """

    number: int
    positive: Text | None
    negative: Text | None

    @property
    def texts(self) -> tuple[Text, ...]:
        """Those that there are, the positive first."""
        return tuple(text for text in (self.positive, self.negative) if text is not None)

    @cached_property
    def prefix(self) -> int:
        """Tokens that both texts begin with and that are worth reading once; 0 where none are."""
        if self.positive is None or self.negative is None:
            return 0
        one, two = self.positive.needed, self.negative.needed
        # Each text keeps at least the token that is read.
        most = min(len(one), len(two)) - 1
        common = next((i for i in range(most) if one[i] != two[i]), most)
        return common if common >= WORTH * (len(one) + len(two)) else 0


@dataclass(frozen=True)
class Block:
    """What one batch left, in the order of the pairs' numbers.

    Attributes:
        positive: float32 `[texts layers width]`.
        negative: likewise.
        positive_numbers: int `[texts]`, which pair each row is of.
        negative_numbers: likewise. Where both sides have the same numbers the rows are pairs.
    """

    positive: np.ndarray
    negative: np.ndarray
    positive_numbers: np.ndarray
    negative_numbers: np.ndarray

    def finite(self) -> Block:
        """The pairs in which no number is infinite or NaN."""
        lost = np.concatenate(
            [
                numbers[~np.isfinite(values).all((1, 2))]
                for values, numbers in (
                    (self.positive, self.positive_numbers),
                    (self.negative, self.negative_numbers),
                )
            ]
        )
        if not len(lost):
            return self
        one, two = (~np.isin(n, lost) for n in (self.positive_numbers, self.negative_numbers))
        return Block(
            self.positive[one],
            self.negative[two],
            self.positive_numbers[one],
            self.negative_numbers[two],
        )


class Size(NamedTuple):
    """What a pair takes of the longest pass that reads it."""

    shared: bool
    columns: int
    rows: int

    @property
    def tokens(self) -> int:
        """Columns times rows."""
        return self.columns * self.rows


class Reader:
    """Reads batches of pairs at some layers of one site.

    Attributes:
        whole: whether whole texts are read in whole passes, for the user's hooks.
    """

    def __init__(self, adapter: Adapter, layers: Sequence[int], site: str) -> None:
        self.adapter = adapter
        self.layers = tuple(layers)
        self.names = [adapter.hook_name(site, layer) for layer in self.layers]
        self.whole = bool(adapter.user_hooks())

    def size(self, pair: Pair) -> Size:
        """What one pair takes of a batch."""
        if pair.prefix and not self.whole:
            return Size(True, pair.prefix, 1)
        lengths = [len(text.ids if self.whole else text.needed) for text in pair.texts]
        return Size(False, max(lengths), len(lengths))

    def groups(self, pairs: Iterable[Pair], batch_tokens: int) -> Iterator[list[Pair]]:
        """Pairs as batches of about equal length, at most `batch_tokens` tokens each with pads.

        Pairs are taken from the stream a few batches ahead and sorted there. A pair longer than the
        limit is a batch of its own, the texts of a pair stay together, and pairs with a prefix to
        share stand apart from those without.
        """
        waiting: list[Pair] = []
        held = 0
        # The end of the stream is one more turn of the same loop.
        for pair in chain(pairs, [None]):
            if pair is not None:
                waiting.append(pair)
                held += self.size(pair).tokens
                if held < LOOKAHEAD * batch_tokens:
                    continue
            batches = self._cut(waiting, batch_tokens)
            # What may be half a batch joins the next lookahead.
            waiting = batches.pop() if pair is not None and len(batches) > 1 else []
            held = sum(self.size(p).tokens for p in waiting)
            yield from batches

    def _cut(self, pairs: Iterable[Pair], batch_tokens: int) -> list[list[Pair]]:
        batches: list[list[Pair]] = []
        rows, first = 0, None
        sized = [(self.size(pair), pair) for pair in pairs]
        # Longest first: the first pair of a batch is as wide as the batch.
        for size, pair in sorted(sized, key=lambda s: (s[0], -s[1].number), reverse=True):
            full = first is None or (rows + size.rows) * first.columns > batch_tokens
            if full or first is None or size.shared != first.shared:
                batches.append([])
                rows, first = 0, size
            batches[-1].append(pair)
            rows += size.rows
        return batches

    @torch.no_grad()
    def read(self, pairs: Sequence[Pair]) -> Block:
        """One batch, all of whose pairs share a prefix or none does."""
        pairs = sorted(pairs, key=lambda pair: pair.number)
        texts = [text for pair in pairs for text in pair.texts]
        if self.whole:
            values = self._read_whole(texts)
        elif pairs[0].prefix:
            values = self._read_shared(pairs)
        else:
            values = self._read_needed([text.needed for text in texts])
        sides = np.array([text is pair.positive for pair in pairs for text in pair.texts])
        numbers = np.array([pair.number for pair in pairs for _ in pair.texts])
        return Block(values[sides], values[~sides], numbers[sides], numbers[~sides])

    def _read_needed(self, rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        batch = self._padded(rows)
        return self._pass(batch.ids, batch.mask, None, -1)

    def _read_shared(self, pairs: Sequence[Pair]) -> np.ndarray:
        prefixes = self._padded([pair.texts[0].needed[: pair.prefix] for pair in pairs])
        rests = self._padded([text.needed[pair.prefix :] for pair in pairs for text in pair.texts])
        cache = self.adapter.new_cache(len(pairs))
        mask = prefixes.mask if prefixes.ragged else None
        self.adapter.run(prefixes.ids, mask=mask, cache=cache, stop=self.layers[-1] + 1)
        return self._pass(rests.ids, rests.mask, cache.repeated(2), -1)

    def _read_whole(self, texts: Sequence[Text]) -> np.ndarray:
        rows = [Encoded(text.ids) for text in texts]
        batch = TokenBatch.pad(self.adapter, rows)
        return self._pass(batch.ids, batch.mask, None, torch.tensor([text.at for text in texts]))

    def _padded(self, rows: Sequence[tuple[int, ...]]) -> TokenBatch:
        # Padded on the left, every text ends in the last column, the one that is read.
        return TokenBatch.pad(self.adapter, [Encoded(row) for row in rows], side="left")

    def _pass(self, ids: Tensor, mask: Tensor, cache: Any, column: int | Tensor) -> np.ndarray:
        """One pass; float32 `[rows layers width]` of the column, or of one column for each row."""
        found: dict[str, Tensor] = {}
        rows = torch.arange(len(ids))

        def probe(name: str) -> Hook:
            def read(activation: Tensor) -> None:
                # attn.v has one axis for heads and one for their width.
                found[name] = activation[rows, column].flatten(1).float().cpu()

            return read

        real = None if bool(mask.all()) else mask
        with hooked(self.adapter, {name: probe(name) for name in self.names}):
            if self.whole:
                self.adapter.run(ids, mask=real)
            else:
                self.adapter.run(ids, mask=real, cache=cache, stop=self.layers[-1] + 1)
        return torch.stack([found[name] for name in self.names], dim=1).numpy()
