"""A coordinate at the delimiters of texts: at the first of each text, and at later ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..running.batching import buckets
from ..tokens import Encoded, token_strings
from .kinds import is_delimiter
from .readout import Readout
from .tokens_result import STANDS

__all__ = ["delimiters_table"]

COLUMNS = {
    "dim": int, "layer": int, "token": str, "kind": str, "value": float, "std": float,
    "ratio": float, "share": float, "count": int,
}  # fmt: skip


def delimiters_table(
    readout: Readout,
    rows: Sequence[Encoded],
    plain: Sequence[float],
    batch_tokens: int | None,
) -> pd.DataFrame:
    """Rows of `TokenStudy.delimiters`; `plain` is each target's value in the texts."""
    seen = _read(readout, rows, batch_tokens)
    found = []
    for index, target in enumerate(readout.targets):
        for kind, token in sorted(set(zip(seen["kind"], seen["token"], strict=True))):
            value = seen.loc[(seen["kind"] == kind) & (seen["token"] == token), index].to_numpy(
                float
            )
            ratio = value / plain[index] if plain[index] else np.full(len(value), np.nan)
            found.append(
                {
                    "dim": target.dim,
                    "layer": readout.layers[index],
                    "token": token,
                    "kind": kind,
                    "value": value.mean(),
                    "std": value.std(),
                    "ratio": ratio.mean(),
                    "share": (ratio >= STANDS).mean(),
                    "count": len(value),
                }
            )
    frame = pd.DataFrame(found, columns=list(COLUMNS))
    return frame.astype({name: kind for name, kind in COLUMNS.items() if kind is not str})


def _read(readout: Readout, rows: Sequence[Encoded], batch_tokens: int | None) -> pd.DataFrame:
    """One row a token behind position 0: its kind, its string where it is a delimiter, its values."""
    tokenizer = getattr(readout.adapter.model, "tokenizer", None)
    ids = sorted({token for row in rows for token in row.ids})
    words = dict(zip(ids, token_strings(tokenizer, ids), strict=True))
    marks = {i for i, word in words.items() if tokenizer is not None and is_delimiter(word)}
    kinds: list[str] = []
    names: list[str] = []
    values: list[np.ndarray] = []
    for group in buckets(rows, batch_tokens):
        read = readout.read([rows[index] for index in group])
        for place, row in enumerate(rows[index] for index in group):
            met = False
            for token in row.ids[1:]:
                mark = token in marks
                kinds.append(("later" if met else "first") if mark else "other")
                names.append(words[token] if mark else "")
                met = met or mark
            values.append(read[place, 1 : len(row)])
    width = len(readout.targets)
    table = pd.DataFrame(np.concatenate([np.zeros((0, width)), *values]))
    return table.assign(kind=np.array(kinds, dtype=object), token=np.array(names, dtype=object))
