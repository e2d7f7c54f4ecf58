"""Generations of the same prompts side by side, and where each parts from the first."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..results import Result
from ..running import Generation
from .compare import joined_facts, opened

__all__ = ["Generations", "side_by_side"]


@dataclass(frozen=True, repr=False, eq=False)
class Generations(Result):
    """What was written after the same prompts under several conditions.

    Attributes:
        texts: one row a condition and text: `condition`, `text`, `prompt`, `completion`, `count` of
            tokens, and `step`, the first generated token (from 0) that is not the first condition's;
            NaN where all are, and in the first condition itself.
        tokens: one row a generated token: `condition`, `text`, `step`, `position`, `token`, `id`, and
            `logprob` and `rank` (NaN in a condition without them) where any was made with
            `logprobs=True`.
    """

    kind: ClassVar[str] = "generations"

    texts: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of what is compared, in order; the first is what the others part from."""
        return tuple(self.texts["condition"].unique())

    def summary(self) -> dict[str, Any]:
        """The conditions, prompts, and in how many texts each condition parts from the first."""
        facts: dict[str, Any] = {
            **super().summary(),
            "conditions": ", ".join(self.conditions),
            "prompts": int(self.texts["text"].nunique()),
        }
        for name in self.conditions[1:]:
            steps = self.texts.loc[self.texts["condition"] == name, "step"].dropna()
            facts[f"parted: {name}"] = len(steps)
        return facts

    def _repr_html_(self) -> str:
        """The table, and the texts in columns with the first difference marked."""
        view = importlib.import_module("lensprobe.reporting.token_view")
        return super()._repr_html_() + view.notebook(self)


def side_by_side(results: Mapping[str, Any]) -> Generations:
    """Generations of the same prompts, to be read beside each other.

    >>> import lensprobe as lp
    >>> model, few = lp.load("planted"), {"max_new_tokens": 5}
    >>> plain = lp.generate(model, "the cat", **few)
    >>> doubled = lp.generate(model, "the cat", edits=lp.Scale(factor=2.0, layers=0), **few)
    >>> lp.side_by_side({"plain": plain, "doubled": doubled}).conditions
    ('plain', 'doubled')

    Args:
        results: a label for each result of `lp.generate`, or for the file that one was saved to; at
            least two. The first is what the others are compared with.

    Raises:
        ArgumentError: fewer than two results, something else than generations, or other prompts.
        OutputError: a file that holds no result.
    """
    given: dict[str, Generation] = {}
    for label, result in opened(results).items():
        if not isinstance(result, Generation):
            raise ArgumentError(
                f"results: {label!r} is a {type(result).__name__}, not a result of lp.generate."
            )
        given[label] = result
    name, first = next(iter(given.items()))
    for label, result in given.items():
        _same_prompts(name, first, label, result)
    texts = [_texts(label, result, first) for label, result in given.items()]
    tokens = [_tokens(label, result) for label, result in given.items()]
    facts = {label: result.provenance for label, result in given.items()}
    models = dict.fromkeys(str(fact.get("model", "?")) for fact in facts.values())
    return Generations(
        provenance=joined_facts(given, facts, {}, [], True) | {"model": ", ".join(models)},
        texts=pd.concat(texts, ignore_index=True),
        tokens=pd.concat(tokens, ignore_index=True),
    )


def _same_prompts(base: str, first: Generation, label: str, other: Generation) -> None:
    ours, theirs = list(first.texts["prompt"]), list(other.texts["prompt"])
    if len(ours) != len(theirs):
        raise ArgumentError(
            f"results: {label!r} has {len(theirs)} prompts, {base!r} {len(ours)}; give both the same."
        )
    for text, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        if mine != yours:
            raise ArgumentError(
                f"results: prompt {text} of {label!r} is {yours!r} and that of {base!r} {mine!r}."
            )


def _texts(label: str, result: Generation, base: Generation) -> pd.DataFrame:
    frame = result.texts.copy()
    frame.insert(0, "condition", label)
    ids = [_ids(one) for one in (result, base)]
    frame["step"] = [_parting(*(own.get(text, []) for own in ids)) for text in frame["text"]]
    return frame


def _ids(result: Generation) -> dict[Any, list[int]]:
    return {text: list(rows) for text, rows in result.tokens.groupby("text")["id"]}


def _parting(own: list[int], base: list[int]) -> float:
    """The first step at which two texts are not the same; NaN where they are, to their ends."""
    for step, (mine, yours) in enumerate(zip(own, base, strict=False)):
        if mine != yours:
            return float(step)
    return np.nan if len(own) == len(base) else float(min(len(own), len(base)))


def _tokens(label: str, result: Generation) -> pd.DataFrame:
    frame = result.tokens.copy()
    frame.insert(0, "condition", label)
    frame.insert(2, "step", frame.groupby("text").cumcount())
    return frame
