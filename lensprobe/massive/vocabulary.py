"""Tokens of the vocabulary, each read as the first one and behind BOS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..running.batching import Outcome, each_group
from ..tokens import Encoded, token_strings
from .kinds import is_delimiter
from .readout import Readout
from .tokens_result import STANDS

__all__ = ["Sample", "cases_of", "exceptions_table", "groups_table", "read_tokens", "tokens_table"]

DELIMITERS = (".", ",", ";", ":", "!", "?", "\n", "\n\n", '"', "'", "(", ")", "-", "...")
"""Tokens that are always in the sample, where the vocabulary has them as one token."""
GROUPS = [
    "dim",
    "layer",
    "bos",
    "kind",
    "position",
    "value",
    "std",
    "low",
    "high",
    "share",
    "count",
]


@dataclass(frozen=True)
class Sample:
    """Ids of the vocabulary in ascending order, with their strings and kinds."""

    ids: list[int]
    tokens: list[str]
    kinds: list[str]

    @classmethod
    def draw(cls, adapter: Adapter, n: int | Literal["all"], seed: int) -> Sample:
        """`n` tokens without replacement, besides common delimiters; `"all"` is every one.

        Raises:
            ArgumentError: `n` is neither a positive whole number nor `"all"`.
        """
        tokenizer = getattr(adapter.model, "tokenizer", None)
        # Some models have more rows than their tokenizer has tokens.
        count = adapter.d_vocab if tokenizer is None else min(adapter.d_vocab, len(tokenizer))
        if n != "all" and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise ArgumentError(f'n={n!r}: how many tokens, a positive whole number, or "all".')
        size = count if n == "all" else min(n, count)
        drawn = np.random.default_rng(seed).choice(count, size, replace=False)
        ids = sorted({*map(int, drawn), *_delimiters(tokenizer)})
        words = token_strings(tokenizer, ids)
        special: set[int] = set(getattr(tokenizer, "all_special_ids", ()))
        kinds = [_kind(i, word, special, tokenizer) for i, word in zip(ids, words, strict=True)]
        return cls(ids, words, kinds)


def _delimiters(tokenizer: Any) -> list[int]:
    if tokenizer is None:
        return []
    found = [tokenizer.encode(text, add_special_tokens=False) for text in DELIMITERS]
    return [int(ids[0]) for ids in found if len(ids) == 1]


def _kind(index: int, token: str, special: set[int], tokenizer: Any) -> str:
    if index in special:
        return "special"
    return "delimiter" if tokenizer is not None and is_delimiter(token) else "other"


def cases_of(adapter: Adapter, bos: Any) -> list[bool]:
    """With and without BOS, as asked; `"auto"` is both where the model has BOS.

    Raises:
        ArgumentError: neither "auto" nor True, False or both; or BOS of a model without it.
    """
    if isinstance(bos, str) and bos == "auto":
        token = getattr(getattr(adapter.model, "tokenizer", None), "bos_token_id", None)
        return [False] if token is None else [False, True]
    given: list[Any] = [bos] if isinstance(bos, bool) or not isinstance(bos, Sequence) else [*bos]
    if not given or not all(isinstance(one, bool) for one in given):
        raise ArgumentError(f'bos={bos!r}: "auto", True, False, or both in a tuple.')
    # Asking for BOS is what finds out that there is none.
    return sorted({adapter.bos(one) for one in given})


def read_tokens(
    readout: Readout,
    asked: Sequence[tuple[bool, int]],
    batch_tokens: int | None,
    progress: bool | None,
) -> Outcome[np.ndarray]:
    """For each (BOS or not, token): values `[2 target]`, at the token and at BOS (NaN without it)."""
    bos: Any = getattr(getattr(readout.adapter.model, "tokenizer", None), "bos_token_id", None)
    rows = [Encoded((bos, token) if case else (token,)) for case, token in asked]

    def work(group: list[int]) -> list[np.ndarray]:
        values = readout.read([rows[index] for index in group])
        places = [len(rows[index]) - 1 for index in group]
        nothing = np.full(values.shape[2], np.nan)
        return [
            np.stack([values[k, place], values[k, 0] if place else nothing])
            for k, place in enumerate(places)
        ]

    return each_group(rows, work, batch_tokens=batch_tokens, progress=progress)


def tokens_table(
    readout: Readout,
    sample: Sample,
    asked: Sequence[tuple[bool, int]],
    answers: Mapping[int, np.ndarray],
    plain: Sequence[float],
) -> pd.DataFrame:
    """Rows of `TokenStudy.tokens`; `plain` is each target's value in the texts."""
    done = sorted(answers)
    place = {token: index for index, token in enumerate(sample.ids)}
    cases = np.array([asked[index][0] for index in done], dtype=bool)
    ids = np.array([asked[index][1] for index in done], dtype=np.int64)
    which = [place[token] for token in ids.tolist()]
    frames = []
    for index, target in enumerate(readout.targets):
        value = np.array([answers[row][0, index] for row in done], dtype=np.float64)
        frames.append(
            pd.DataFrame(
                {
                    "dim": target.dim,
                    "layer": readout.layers[index],
                    "id": ids,
                    "token": [sample.tokens[i] for i in which],
                    "kind": [sample.kinds[i] for i in which],
                    "bos": cases,
                    "position": cases.astype(np.int64),
                    "value": value,
                    "ratio": value / plain[index] if plain[index] else np.nan,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def groups_table(
    readout: Readout, tokens: pd.DataFrame, answers: Mapping[int, np.ndarray]
) -> pd.DataFrame:
    """Rows of `TokenStudy.groups`."""
    rows = []
    for index, target in enumerate(readout.targets):
        for case in sorted(set(tokens["bos"])):
            part = tokens.loc[(tokens["dim"] == target.dim) & (tokens["bos"] == case)]
            where = {"dim": target.dim, "layer": readout.layers[index], "bos": bool(case)}
            if case:
                rows.append({**where, **_bos(answers, index)})
            for kind in ("all", "delimiter", "special", "other"):
                chosen = part if kind == "all" else part.loc[part["kind"] == kind]
                if len(chosen):
                    share = float((chosen["ratio"] >= STANDS).mean())
                    value = chosen["value"].to_numpy(float)
                    rows.append({**where, **_group(kind, int(case), value), "share": share})
    return pd.DataFrame(rows, columns=GROUPS)


def _group(kind: str, position: int, value: np.ndarray) -> dict[str, Any]:
    return {
        "kind": kind,
        "position": position,
        "value": value.mean(),
        "std": value.std(),
        "low": value.min(),
        "high": value.max(),
        "count": len(value),
    }


def _bos(answers: Mapping[int, np.ndarray], index: int) -> dict[str, Any]:
    """BOS itself, which no later token can change: one number, as often as it was read."""
    value = np.array([answer[1, index] for answer in answers.values()])
    return {**_group("bos", 0, value[np.isfinite(value)][:1]), "share": 1.0}


def exceptions_table(tokens: pd.DataFrame) -> pd.DataFrame:
    """Tokens that do otherwise than most with the same `bos`, the most unlike first."""
    frames = [tokens.iloc[:0]]
    for _, part in tokens.groupby(["dim", "bos"], sort=False):
        has = (part["ratio"] >= STANDS).to_numpy()
        most = has.mean() >= STANDS
        unlike = part.loc[has != most]
        ratio = unlike["ratio"].to_numpy(float)
        order = np.argsort(ratio if most else -ratio, kind="stable")
        frames.append(unlike.iloc[order])
    return pd.concat(frames, ignore_index=True)
