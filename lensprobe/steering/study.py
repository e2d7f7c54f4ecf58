"""What several comparisons share: the same prompts continued and read again under named conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Add
from ..models.adapter import Adapter
from ..running.generate import generate
from ..running.sampling import Sampler
from ..settings import checked_seed
from ..statistics import interval
from ..tokens import Encoded, token_strings
from .forced import PLAIN, Reading, read_again, selected
from .measures import kl, losses, perplexity, repetition

__all__ = ["Completions", "Condition", "Sampling", "Study", "conditions_table", "text_of"]

Completions = tuple[list[tuple[int, ...]], list[str]]
"""Token ids and text of each prompt's completion."""


@dataclass(frozen=True)
class Sampling:
    """How completions are chosen; see `lp.generate`. Every condition draws the same numbers."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def settled(self) -> Sampling:
        """The same with its seed drawn, so that all conditions share it.

        Raises:
            ArgumentError: an option out of range.
        """
        seed = checked_seed(self.seed)
        sampler = Sampler(self.temperature, self.top_k, self.top_p, 1.0, seed)
        return replace(self, seed=None if sampler.greedy else sampler.seed)

    def complete(
        self, adapter: Adapter, prompts: Sequence[Encoded], edits: Sequence[Add]
    ) -> Completions:
        """Token ids and text of each prompt's completion."""
        found = generate(
            adapter.model,
            list(prompts),
            edits=list(edits),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
        )
        ids: list[list[int]] = [[] for _ in prompts]
        for text, token in zip(found.tokens["text"], found.tokens["id"], strict=True):
            ids[text].append(int(token))
        return [tuple(row) for row in ids], found.completions

    def facts(self) -> dict[str, Any]:
        """The options, for a result's provenance."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Condition:
    """One way of steering that is compared with others.

    Attributes:
        name: what tables and figures call it.
        edits: what is written; none for the plain model.
        scale: the strength of each addition.
    """

    name: str
    edits: tuple[Add, ...] = ()
    scale: float = 0.0


@dataclass(frozen=True)
class Study:
    """The tables of a comparison.

    Attributes:
        tokens: one row a condition and token of the plain model's completion: condition, scale,
            text, position (absolute, of the token that is predicted), token, kl, loss.
        texts: one row a condition and prompt: condition, scale, text, prompt, completion, kl and loss
            (means over the plain completion), perplexity (of the condition's own completion under the
            plain model), repetition, count (tokens edited).
        conditions: one row a condition and measure, over texts: condition, scale, measure, value, low,
            high (95% bootstrap interval). The measures are those of `texts`, perplexity as the
            geometric mean, and `loss_change`: loss minus that of the plain model, paired by text.
    """

    tokens: pd.DataFrame
    texts: pd.DataFrame
    conditions: pd.DataFrame

    @classmethod
    def of(
        cls,
        adapter: Adapter,
        prompts: Sequence[Encoded],
        conditions: Sequence[Condition],
        sampling: Sampling,
        *,
        plain: Completions | None = None,
        progress: bool | None = None,
    ) -> Study:
        """Continue the prompts under each condition and read the plain completions under all.

        Args:
            conditions: one of them without edits, which stands for the plain model.
            plain: the plain model's completions where they are known already.
        """
        base = sampling.complete(adapter, prompts, ()) if plain is None else plain
        own = [
            sampling.complete(adapter, prompts, c.edits) if c.edits else base for c in conditions
        ]
        pairs = enumerate(zip(prompts, base[0], strict=True))
        readings = [Reading(prompt, ids, index) for index, (prompt, ids) in pairs]
        found = _divergences(adapter, readings, conditions, progress)
        values = {
            "kl": np.array([[one[0].mean() for one in row] for row in found]).T,
            "loss": np.array([[one[1].mean() for one in row] for row in found]).T,
            "perplexity": perplexity(_fluency(adapter, prompts, own, progress)),
            "repetition": np.array([[repetition(ids) for ids in rows] for rows, _ in own]),
            "count": np.array([_edited(adapter, readings, one) for one in conditions]),
        }
        return cls(
            _tokens_table(adapter, readings, conditions, found),
            _texts_table(adapter, prompts, conditions, own, values),
            conditions_table(conditions, values),
        )


def _divergences(
    adapter: Adapter,
    readings: Sequence[Reading],
    conditions: Sequence[Condition],
    progress: bool | None,
) -> list[list[np.ndarray]]:
    """For each reading and condition float64 `[2 tokens]`: KL from plain, and loss."""

    def reduce(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> list[np.ndarray]:
        plain = logits[PLAIN]
        pairs = [(kl(logits[name], plain), losses(logits[name], targets)) for name in names]
        return [torch.stack(pair).cpu().double().numpy() for pair in pairs]

    names = [one.name for one in conditions]
    edits = {one.name: one.edits for one in conditions}
    return read_again(adapter, readings, edits, reduce, progress=progress)


def _fluency(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    own: Sequence[Completions],
    progress: bool | None,
) -> np.ndarray:
    """Mean loss of every completion under the plain model, float64 `[conditions texts]`."""
    written = [
        Reading(prompt, ids, index)
        for completions, _ in own
        for index, (prompt, ids) in enumerate(zip(prompts, completions, strict=True))
    ]

    def reduce(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> float:
        return float(losses(logits[PLAIN], targets).cpu().double().mean())

    found = read_again(adapter, written, {}, reduce, progress=progress)
    return np.array(found).reshape(len(own), len(prompts))


def _edited(adapter: Adapter, readings: Sequence[Reading], condition: Condition) -> np.ndarray:
    """Tokens that a condition edits, int `[texts]`; edits at several blocks count a token once."""
    counts = [selected(adapter, readings, edit) for edit in condition.edits]
    return np.max([np.zeros(len(readings), dtype=int), *counts], axis=0)


def _tokens_table(
    adapter: Adapter,
    readings: Sequence[Reading],
    conditions: Sequence[Condition],
    found: Sequence[Sequence[np.ndarray]],
) -> pd.DataFrame:
    tokenizer = getattr(adapter.model, "tokenizer", None)
    strings = [token_strings(tokenizer, reading.completion) for reading in readings]
    parts = [
        pd.DataFrame(
            {
                "condition": one.name,
                "scale": one.scale,
                "text": index,
                "position": np.arange(len(reading.prompt), len(reading)),
                "token": strings[index],
                "kl": found[index][place][0],
                "loss": found[index][place][1],
            }
        )
        for place, one in enumerate(conditions)
        for index, reading in enumerate(readings)
    ]
    return pd.concat(parts, ignore_index=True)


def _texts_table(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    conditions: Sequence[Condition],
    own: Sequence[Completions],
    values: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    tokenizer = getattr(adapter.model, "tokenizer", None)
    words = [text_of(tokenizer, prompt.ids) for prompt in prompts]
    parts = [
        pd.DataFrame(
            {
                "condition": one.name,
                "scale": one.scale,
                "text": np.arange(len(prompts)),
                "prompt": words,
                "completion": own[place][1],
                **{name: value[place] for name, value in values.items()},
            }
        )
        for place, one in enumerate(conditions)
    ]
    return pd.concat(parts, ignore_index=True)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as text, special ones left out; without a tokenizer their numbers."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    return tokenizer.decode(list(ids), skip_special_tokens=True)


def conditions_table(
    conditions: Sequence[Condition], values: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Condition, scale, measure, value, low, high; see `Study.conditions`.

    Args:
        values: measure → float `[conditions texts]`.
    """
    plain = next(place for place, one in enumerate(conditions) if not one.edits)
    measures = {**values, "loss_change": values["loss"] - values["loss"][plain]}
    parts = []
    for name, value in measures.items():
        # Perplexities are averaged as their logarithms, the losses that they are made of.
        ends = interval(np.log(value) if name == "perplexity" else value)
        value, low, high = map(perplexity, ends) if name == "perplexity" else ends
        cells = {"measure": name, "value": value, "low": low, "high": high}
        facts = {"condition": [c.name for c in conditions], "scale": [c.scale for c in conditions]}
        parts.append(pd.DataFrame({**facts, **cells}))
    return pd.concat(parts, ignore_index=True)
