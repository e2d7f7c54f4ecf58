"""The runs behind `compare_stacks`: one block of one stack at every scale, measured both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import positions as where
from ..edits import Add
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.stacks import Named
from ..running import Score, forward, score
from ..tokens import Encoded, encoded
from .measures import carry, repetition
from .study import Completions, Sampling

__all__ = ["MEASURES", "Cell", "Judges", "Trial", "judges_of"]

MEASURES = (
    "mixed",
    "carry",
    "keep",
    "logprob",
    "repetition",
    "malformed",
    "mixing_logprob",
    "base_logprob",
)
"""What is measured of every completion; see `StackComparison`."""

ONLY_PROMPT = where.all() - where.generated()


@dataclass(frozen=True)
class Judges:
    """How completions are judged, where the caller says so; see `compare_stacks`.

    Attributes:
        malformed: whether a text is broken; None where nobody can tell.
        carried: `(completion, own, other)` to a share; None counts tokens.
        reference: what says how fluent a text is; None is the unedited model.
    """

    malformed: Callable[[str], bool] | None = None
    carried: Callable[[str, str, str], float] | None = None
    reference: Adapter | None = None


@dataclass(frozen=True)
class Cell:
    """One stack and block at every scale.

    Attributes:
        stack: which stack was added to; a decoder-only model is a decoder.
        layer: its block.
        words: the completions, text by text and within it scale by scale.
        values: measure → float64 `[texts scales]`.
    """

    stack: Named
    layer: int
    words: list[str]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """Base texts with their mixing inputs, and what is done with them in every cell.

    Attributes:
        adapter: the model.
        base: the base texts.
        mixing: the mixing input of each.
        own: the unedited model's greedy completions of both: ids and words.
        scales: strengths, ascending, without 0.
        site: where in a block.
        sampling: how completions are chosen.
        judges: how they are judged.
    """

    adapter: Adapter
    base: list[Encoded]
    mixing: list[Encoded]
    own: tuple[Completions, Completions]
    scales: tuple[float, ...]
    site: str
    sampling: Sampling
    judges: Judges

    @classmethod
    def of(cls, adapter: Adapter, base: list[Encoded], mixing: list[Encoded], **rest: Any) -> Trial:
        """Continue base texts and mixing inputs with the unedited model."""
        own = [rest["sampling"].complete(adapter, prompts, ()) for prompts in (base, mixing)]
        return cls(adapter, base, mixing, (own[0], own[1]), **rest)

    def __len__(self) -> int:
        return len(self.base)

    def plain(self) -> dict[str, np.ndarray]:
        """The measures of the unedited completions, float64 `[texts]`."""
        return self._measured(np.arange(len(self)), self.own[0], ())

    def cell(self, stack: Named, layer: int) -> Cell:
        """Every base text at every scale; one scale at a time under the user's hooks."""
        if len(self.scales) == 1 or not self.adapter.user_hooks():
            return self._cell(stack, layer)
        cells = [replace(self, scales=(scale,))._cell(stack, layer) for scale in self.scales]
        words = [word for row in zip(*(cell.words for cell in cells), strict=True) for word in row]
        values = {
            name: np.concatenate([cell.values[name] for cell in cells], axis=1)
            for name in cells[0].values
        }
        return Cell(stack, layer, words, values)

    def _cell(self, stack: Named, layer: int) -> Cell:
        """In rows of one batch: row `text * scales + k`."""
        count = len(self.scales)
        edit = Add(
            self._tables(stack, layer).repeat_interleave(count, dim=0),
            layers=layer,
            site=self.site,
            stack=stack,
            scale=torch.tensor(list(self.scales) * len(self), dtype=torch.float64),
            # A row meets the token at its own place: all that the encoder reads, all that the
            # decoder writes, or a decoder-only model's prompt.
            positions=where.all() if self.adapter.encoder_decoder else ONLY_PROMPT,
        )
        owners = np.repeat(np.arange(len(self)), count)
        prompts = [self.base[text] for text in owners]
        completions = self.sampling.complete(self.adapter, prompts, [edit])
        found = self._measured(owners, completions, [edit])
        values = {name: value.reshape(len(self), count) for name, value in found.items()}
        return Cell(stack, layer, completions[1], values)

    def _tables(self, stack: Named, layer: int) -> Tensor:
        """The mixing inputs' activations, float32 `[texts rows width]`, zero beyond each one's end."""
        texts, prompt = self.mixing, None
        if stack == "decoder" and self.adapter.encoder_decoder:
            answers, start = self.own[1][0], self.adapter.start
            texts, prompt = [Encoded((*start, *ids[:-1])) for ids in answers], self.mixing
        read = forward(
            self.adapter.model,
            texts,
            prompt=prompt,
            stack=stack,
            layers=layer,
            site=self.site,
            logits=None,
            progress=False,
        )
        tables = torch.zeros(len(texts), max(map(len, texts)), read.activations.shape[-1])
        for index, text in enumerate(texts):
            tables[index, : len(text)] = torch.from_numpy(read.activation(layer, text=index))
        return tables

    def _measured(
        self, owners: np.ndarray, completions: Completions, edits: Sequence[Add]
    ) -> dict[str, np.ndarray]:
        """Each measure, float64 `[rows]`; `owners` says which base text a row is of."""
        ids, words = completions
        (base_ids, base_words), (mixing_ids, mixing_words) = (
            tuple([one[owner] for owner in owners] for one in own) for own in self.own
        )
        prompts = [self.base[owner] for owner in owners]
        if self.judges.carried is None:
            carried = _each(carry, ids, mixing_ids, base_ids)
            kept = _each(carry, ids, base_ids, mixing_ids)
        else:
            carried = _each(self._share, words, mixing_words, base_words)
            kept = _each(self._share, words, base_words, mixing_words)
        judge = self.judges.malformed
        broken = _each(lambda text: bool(judge and judge(text)), words)
        mixed = (carried > 0) & (kept > 0) & (broken == 0)
        known = np.isfinite(carried) & np.isfinite(kept)
        return {
            "mixed": np.where(known, mixed, np.nan),
            "carry": carried,
            "keep": kept,
            "logprob": self._fluency(owners, completions),
            "repetition": _each(repetition, ids),
            "malformed": np.full(len(ids), np.nan) if judge is None else broken,
            "mixing_logprob": _logprobs(self.adapter, mixing_ids, prompts, edits),
            "base_logprob": _logprobs(self.adapter, base_ids, prompts, edits),
        }

    def _share(self, words: str, own: str, other: str) -> float:
        assert self.judges.carried is not None
        share = float(self.judges.carried(words, own, other))
        if not (0 <= share <= 1 or np.isnan(share)):
            raise ArgumentError(f"carried: it gave {share!r}; a share from 0 to 1, or NaN.")
        return share

    def _fluency(self, owners: np.ndarray, completions: Completions) -> np.ndarray:
        """Mean log-probability of each completion's tokens, by whoever judges it."""
        if self.judges.reference is not None:
            return _alone(self.judges.reference, completions[1])
        either = [
            _logprobs(self.adapter, completions[0], [prompts[owner] for owner in owners], ())
            for prompts in (self.base, self.mixing)
        ]
        return np.maximum(*either)


def judges_of(
    malformed: Callable[[str], bool] | None,
    carried: Callable[[str, str, str], float] | None,
    reference: Any,
) -> Judges:
    """Judges, once it is known that they can be asked.

    Raises:
        ArgumentError: something that cannot be called.
        ModelError: a reference that is no decoder-only model.
    """
    for name, judge in (("malformed", malformed), ("carried", carried)):
        if judge is not None and not callable(judge):
            raise ArgumentError(f"{name}={judge!r}: a function of a completion's text.")
    reader = None if reference is None else adapter_for(reference)
    if reader is not None:
        reader.require_decoder("reference=")
    return Judges(malformed, carried, reader)


def _each(measure: Callable[..., float], *rows: Sequence[Any]) -> np.ndarray:
    return np.array([measure(*row) for row in zip(*rows, strict=True)], dtype=np.float64)


def _logprobs(
    adapter: Adapter,
    answers: Sequence[tuple[int, ...]],
    prompts: Sequence[Encoded],
    edits: Sequence[Add],
) -> np.ndarray:
    """Mean log-probability per token of answers to prompts, nats, float64 `[rows]`."""
    texts = [Encoded((*adapter.start, *row)) for row in answers]
    found = score(
        adapter.model, texts, prompt=list(prompts), edits=edits, progress=False, dry_run=False
    )
    assert isinstance(found, Score)
    return -found.texts["loss"].to_numpy(dtype=np.float64)


def _alone(reader: Adapter, words: Sequence[str]) -> np.ndarray:
    """Mean log-probability per token of texts by themselves; NaN for less than two tokens."""
    found = np.full(len(words), np.nan)
    rows = {index: encoded(reader, text) for index, text in enumerate(words) if text.strip()}
    long = {index: row for index, row in rows.items() if len(row) > 1}
    if long:
        read = score(reader.model, list(long.values()), progress=False, dry_run=False)
        assert isinstance(read, Score)
        found[list(long)] = -read.texts["loss"].to_numpy(dtype=np.float64)
    return found
