"""What handling first tokens specially costs on text that repeats itself, and what a repair does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..edits import Edit
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import buckets
from ..running.forward import describe
from ..settings import current
from ..tokens import Bos, Encoded
from .brittle_result import Brittle
from .comparing import compared, threshold
from .detector import first_token_detector
from .heads import HeadStatistics, head_statistics
from .onset import FOOLED, Onset, onset_of
from .repeats import fronts_of, measured
from .trials import Material, each_run, material

__all__ = ["brittle"]

KINDS = ("text", "repeat", "near repeat", "phrase", "list")
PHRASE = 6
"""Tokens of a phrase that is repeated."""
STRAY = 8
"""Every which copy of a near repeat is another token."""
ITEM = 2
"""Tokens of a list's item."""
MEASURES = ("loss", "sink_rate", "mass", "massive")


@torch.no_grad()
def brittle(
    model: Any,
    texts: Any,
    *,
    edits: Edit | Sequence[Edit] | None = None,
    kinds: Sequence[str] = KINDS,
    bos: Bos | Literal["both"] = "both",
    layer: int = 0,
    amount: float = 1.0,
    epsilon: float = 0.3,
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Brittle:
    """Loss and sinks on ordinary text and on text that repeats itself, before and after a repair.

    The sequences are made of the texts' own tokens and are as long as the texts: the text itself
    ("text"), one of its tokens again and again ("repeat"), the same with every eighth copy another
    token ("near repeat"), six of its tokens again and again ("phrase"), and pairs of its tokens, each
    on a line of its own ("list"). All are read with BOS in front and without.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.sinks.scan` takes.
        edits: the repair. None is that of a `first_token_detector` on the same texts, which finds its
            direction on every other document; the documents in between are then what is measured.
        kinds: which kinds of sequence.
        bos: whether BOS stands in front; "both" reads them with it and without.
        layer, amount: of the detector and its repair, where `edits` is None.
        epsilon: least attention of a sink, exclusive.
        length, limit, column: as in `lp.sinks.scan`; `length` None is 64, BOS not counted.
        seed: of the draw of tokens and of the bootstrap.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: an unknown kind, or one twice; fewer than two documents without `edits`.
        ModelError: an encoder-decoder; weights that cannot be read, without `edits`.
        HookPointError: the model keeps no attention patterns.
        Interrupted: Ctrl-C; `.partial` is the `Brittle` of the finished kinds.

    Examples:
        >>> off = lp.Scale(factor=0.0, layers=1, dim=447)
        >>> found = lp.sinks.brittle(model, "The cat sat.", edits=off, kinds=["text"], bos=True)
        >>> float(found.effect("sink_rate", "text", bos=True)["value"])
        0.125
        >>> float(found.effect("sink_rate", "text", bos=True, condition="repaired")["value"])
        0.0
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.brittle")
    wanted = _kinds(adapter, kinds)
    fronts, epsilon = fronts_of(adapter, bos), threshold(epsilon)
    start = current("seed", seed) or 0
    # Two tokens: a stray one takes the place of a copy.
    read = material(
        adapter, texts, bos=False, length=length, limit=limit, column=column,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    places = list(range(len(read.rows)))
    notes = list(read.notes)
    if edits is None:
        found = first_token_detector(
            model, read.rows, layer=layer, n=1, lengths=[1], bos=False, length=length,
            batch_tokens=batch_tokens, progress=False,
        )  # fmt: skip
        repair: list[Edit] = [found.repair(amount=amount)]
        places = places[1::2]
        notes.append(
            "the repair is a first-token detector's, found on every other sequence; the sequences in "
            "between were measured"
        )
    else:
        repair = [edits] if isinstance(edits, Edit) else list(edits)
    for edit in repair:
        edit.bind(adapter)
    run = _Run(adapter, read, places, repair, onset_of(adapter), epsilon, start, batch_tokens)
    tried = [(kind, front) for kind in wanted for front in fronts]
    frames, complete = each_run(tried, lambda one: run.effects(*one), progress=progress)
    if not frames:
        raise Interrupted("interrupted before the first kind was read.")
    result = run.result(frames, notes, complete)
    if not complete:
        raise Interrupted(f"interrupted after {len(frames)} of {len(tried)}.", partial=result)
    return result


def _kinds(adapter: Adapter, kinds: Any) -> tuple[str, ...]:
    listed = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in listed if kind not in KINDS]
    if not listed or unknown or len(set(listed)) < len(listed):
        raise ArgumentError(f"kinds={kinds!r}: different ones of {', '.join(KINDS)}.")
    if "list" in listed and getattr(adapter.model, "tokenizer", None) is None:
        raise ArgumentError("kinds: a list needs a tokenizer for its line breaks; leave it out.")
    return listed


class _Run:
    """The sequences of each kind, plain and repaired."""

    def __init__(
        self,
        adapter: Adapter,
        read: Material,
        places: Sequence[int],
        repair: Sequence[Edit],
        onset: Onset,
        epsilon: float,
        seed: int,
        batch_tokens: int | None,
    ) -> None:
        self.adapter, self.read, self.places, self.repair = adapter, read, places, repair
        self.onset, self.epsilon, self.seed = onset, epsilon, seed
        self.batch_tokens = batch_tokens
        self.documents = [read.documents[place] for place in places]

    def effects(self, kind: str, front: bool) -> pd.DataFrame:
        """Rows of `Brittle.effects`."""
        begin = (int(self.adapter.tokenizer.bos_token_id),) if front else ()
        rows = [Encoded((*begin, *self.made(kind, place))) for place in self.places]
        runs = [self._read(rows, edits) for edits in ((), self.repair)]
        count = np.array([len(row) - 1.0 for row in rows])
        ones = np.ones(len(rows))
        sums = {}
        for name in MEASURES:
            by = count if name == "loss" else ones
            sums[name] = (np.array([[one[name] for one in run] for run in runs]) * by, by)
        labels = {"kind": [kind] * 2, "bos": [front] * 2, "condition": ["plain", "repaired"]}
        return compared(sums, self.documents, labels, base=[0, 0], seed=self.seed)

    def _read(self, rows: Sequence[Encoded], edits: Sequence[Edit]) -> list[dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for group in buckets(rows, self.batch_tokens):
            chosen = [rows[index] for index in group]
            read: HeadStatistics = head_statistics(
                self.adapter, chosen, edits=edits, keys=max(map(len, chosen))
            )
            lengths = [len(row) for row in chosen]
            each = measured(read, lengths, self.onset, FOOLED, self.epsilon)
            found |= dict(zip(group, each, strict=True))
        return [found[index] for index in range(len(rows))]

    def made(self, kind: str, place: int) -> tuple[int, ...]:
        """A sequence of that kind out of one text's tokens, as long as it."""
        body = self.read.rows[place].ids
        draw = np.random.default_rng((self.seed, place))
        token, stray = (int(t) for t in draw.choice(body, 2, replace=False))
        if kind == "text":
            return body
        if kind == "phrase":
            begin = int(draw.integers(0, max(1, len(body) - PHRASE + 1)))
            part = body[begin : begin + PHRASE]
            return (part * len(body))[: len(body)]
        if kind == "list":
            mark = self.adapter.tokenizer.encode("\n- ", add_special_tokens=False)
            pieces = [body[i : i + ITEM] for i in range(0, len(body), ITEM)]
            return tuple(t for piece in pieces for t in (*mark, *piece))[: len(body)]
        copies = [token] * len(body)
        if kind == "near repeat":
            copies[STRAY - 1 :: STRAY] = [stray] * len(copies[STRAY - 1 :: STRAY])
        return tuple(copies)

    def result(self, frames: Sequence[pd.DataFrame], notes: list[str], complete: bool) -> Brittle:
        return Brittle(
            provenance={
                **self.adapter.provenance(),
                **self.read.facts,
                **self.onset.facts(),
                "bos": sorted({bool(b) for frame in frames for b in frame["bos"]}),
                "measured": len(self.places),
                "site": "resid_post",
                "edits": [describe(edit.bind(self.adapter)) for edit in self.repair],
                "epsilon": self.epsilon,
                "seed": self.seed,
                "complete": complete,
                "notes": [*notes, self.onset.note],
            },
            effects=pd.concat(frames, ignore_index=True),
        )
