"""Repeated tokens: when a model takes the copies of a token for first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..edits import Edit
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import Outcome, each_group
from ..running.forward import describe
from ..tokens import Bos, Encoded
from .comparing import threshold
from .detector import LENGTHS, repeat_counts
from .heads import HeadStatistics, head_statistics
from .onset import FOOLED, Onset, onset_of
from .repeats_result import Repeats
from .trials import sink_mass, word_names, words_of

__all__ = ["repeats"]


@torch.no_grad()
def repeats(
    model: Any,
    words: Any,
    *,
    lengths: Sequence[int] = LENGTHS,
    bos: Bos | Literal["both"] = "both",
    layer: int | None = None,
    ratio: float = FOOLED,
    epsilon: float = 0.3,
    edits: Edit | Sequence[Edit] = (),
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Repeats:
    """Repeat single tokens and look for the false positive of Yona et al. (2503.08908).

    A first token is given a massive activation. So is, wrongly, a copy that the model cannot tell from
    a first token: in a model whose positions are relative every copy is one where nothing else stands
    in front. A word *fools* the model at a number of copies when the last of them has at least `ratio`
    of a first token's massive value; the sink then disperses over the copies.

    Args:
        model: a TransformerLens model; rotary and absolute ones are compared by calling this on both.
        words: one word or many, each a single token of this model, as a string or as its id.
        lengths: how often each is repeated.
        bos: whether BOS stands in front of the copies; "both" reads them with it and without.
        layer: the sink layer; None finds it.
        ratio: least share of a first token's massive value.
        epsilon: least attention of a sink, exclusive.
        edits: under which the copies are read, such as a detector's `repair()`.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: no words, a word of several tokens (with how it was split), a number of copies
            that does not fit; a BOS that the tokenizer does not have.
        ModelError: an encoder-decoder.
        HookPointError: the model keeps no attention patterns.
        Interrupted: Ctrl-C; `.partial` is the `Repeats` of the finished sequences.

    Examples:
        >>> found = lp.sinks.repeats(model, ["a", "b"], lengths=[1, 4], bos=False)
        >>> found.fooled(bos=False)  # its positions are absolute: a copy is no first token
        []
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.repeats")
    ids = words_of(adapter, words)
    counts = repeat_counts(adapter, lengths)
    fronts = fronts_of(adapter, bos)
    least, epsilon = share_of(ratio), threshold(epsilon)
    listed = [edits] if isinstance(edits, Edit) else list(edits)
    for edit in listed:
        edit.bind(adapter)
    onset = onset_of(adapter, layer)
    plan = [_Copies(word, front, count) for word in ids for front in fronts for count in counts]
    rows = [copies.row(adapter) for copies in plan]

    def work(group: list[int]) -> list[dict[str, float]]:
        chosen = [rows[index] for index in group]
        longest = max(map(len, chosen))
        read = head_statistics(adapter, chosen, edits=listed, keys=longest)
        return measured(read, [len(row) for row in chosen], onset, least, epsilon)

    outcome = each_group(rows, work, batch_tokens=batch_tokens, progress=progress)
    result = _result(adapter, plan, outcome, onset, least)
    result.provenance.update(
        {
            "lengths": list(counts),
            "epsilon": epsilon,
            "edits": [describe(edit) for edit in listed],
        }
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(plan)} sequences.", partial=result
        )
    return result


@dataclass(frozen=True)
class _Copies:
    """One token, `count` times, with BOS in front or without."""

    word: int
    front: bool
    count: int

    def row(self, adapter: Adapter) -> Encoded:
        begin = (int(adapter.tokenizer.bos_token_id),) if self.front else ()
        return Encoded((*begin, *(self.word,) * self.count))


def fronts_of(adapter: Adapter, bos: Any) -> tuple[bool, ...]:
    """Whether BOS stands in front, in each way that is read."""
    if bos != "both":
        return (adapter.bos(bos),)
    tokenizer = getattr(adapter.model, "tokenizer", None)
    has = getattr(tokenizer, "bos_token_id", None) is not None
    return (False, True) if has else (False,)


def share_of(ratio: Any) -> float:
    """Raises `ArgumentError` unless it is a share of a first token's value."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise ArgumentError(f"ratio={ratio!r}: a share of a first token's value, between 0 and 1.")
    return float(ratio)


def measured(
    read: HeadStatistics, lengths: Sequence[int], onset: Onset, least: float, epsilon: float
) -> list[dict[str, float]]:
    """Of each sequence: its last token's residual, and where its attention goes."""
    sizes = np.asarray(lengths)
    rows, last = np.arange(len(sizes)), sizes - 1
    values = read.largest[:, onset.layer]
    massive = np.nan_to_num(values) >= least * onset.value
    columns = {
        "value": values[rows, last],
        "share": values[rows, last] / onset.value,
        "norm": read.norm[:, onset.layer][rows, last],
        "sink_rate": read.sink_rate(epsilon),
        "mass": sink_mass(read, sizes, massive),
        "massive": massive.sum(1) / sizes,
        "loss": read.loss / np.maximum(read.count, 1),
    }
    return [{name: float(part[row]) for name, part in columns.items()} for row in rows]


def _result(
    adapter: Adapter,
    plan: Sequence[_Copies],
    outcome: Outcome[dict[str, float]],
    onset: Onset,
    least: float,
) -> Repeats:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequence was read.")
    names = {w: n for w in {c.word for c in plan} for n in word_names(adapter, [w])}
    copies = pd.DataFrame(
        [
            {
                "token": names[plan[index].word],
                "id": plan[index].word,
                "bos": plan[index].front,
                "count": plan[index].count,
                **outcome.answers[index],
            }
            for index in sorted(outcome.answers)
        ]
    )
    return Repeats(
        provenance={
            **adapter.provenance(),
            **onset.facts(),
            "site": "resid_post",
            "ratio": least,
            "position_kind": str(
                getattr(adapter.model.cfg, "positional_embedding_type", "unknown")
            ),
            "complete": outcome.complete,
            "notes": [onset.note, *outcome.notes],
        },
        words=_words(copies, least),
        copies=copies,
    )


def _words(copies: pd.DataFrame, least: float) -> pd.DataFrame:
    """Of each word, with BOS and without: from how many copies on it fools the model."""
    found = []
    kinds = copies[["token", "id", "bos"]].drop_duplicates()
    for token, word, front in kinds.itertuples(index=False):
        rows = copies.loc[(copies["id"] == word) & (copies["bos"] == front)]
        taken = rows.loc[rows["share"] >= least, "count"]
        longest = rows.loc[rows["count"].idxmax()]
        found.append(
            {
                "token": token,
                "id": word,
                "bos": front,
                # One copy with nothing in front is a first token, and no mistake.
                "first": _least(taken if front else taken[taken > 1]),
                "fooled": bool(longest["share"] >= least and (front or longest["count"] > 1)),
                "share": float(longest["share"]),
                "sink_rate": float(longest["sink_rate"]),
                "mass": float(longest["mass"]),
            }
        )
    return pd.DataFrame(found)


def _least(counts: pd.Series) -> int:
    return int(counts.min()) if len(counts) else -1
