"""The same tokens read again, plain and under edits: what comparing distributions stands on.

A completion is read after its prompt, token for token, whoever wrote it. The distributions that come
out are those that would have chosen each of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import positions as where
from ..edits import Add
from ..errors import Interrupted
from ..models.adapter import Adapter
from ..positions import Step
from ..running.batching import each_group
from ..running.decoding import Decoder
from ..running.fanning import Fan, owned
from ..running.session import Session, all_prompts, prompt_step
from ..settings import current
from ..tokens import Encoded, TokenBatch

__all__ = [
    "PLAIN",
    "Reading",
    "Strengths",
    "check",
    "local",
    "read_again",
    "selected",
    "walk",
]

PLAIN = "plain"
"""The name under which the unedited run stands among the conditions."""

LOGIT_BYTES = 384 * 2**20
"""What the logits of one group of texts may take, all conditions together."""

T = TypeVar("T")
Reduce = Callable[[int, Mapping[str, Tensor], Tensor], T]


@dataclass(frozen=True)
class Reading:
    """A prompt and the completion that is read after it.

    Attributes:
        prompt: its tokens.
        completion: at least one token id.
        owner: the prompt's index in what the caller passed, which selectors and values for each
            text go by; several readings may share a prompt.
    """

    prompt: Encoded
    completion: tuple[int, ...]
    owner: int

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def tokens(self) -> Encoded:
        """Prompt and completion in one."""
        return Encoded(self.prompt.ids + self.completion, self.prompt.roles)


@dataclass(frozen=True)
class Strengths:
    """Every prompt at every scale, in rows of one batch: row `prompt * scales + k`.

    Attributes:
        prompts: a prompt for each row.
        owners: which of the caller's prompts each row is, int `[rows]`.
        edit: the addition with a scale for each row, for `read_again`.
        generating: the same for `generate`, its selector seeing each row's own prompt.
    """

    prompts: list[Encoded]
    owners: np.ndarray
    edit: Add
    generating: Add

    @classmethod
    def of(cls, prompts: Sequence[Encoded], edit: Add, scales: Sequence[float]) -> Strengths:
        """An addition of one strength, at each of several."""
        many = [prompt for prompt in prompts for _ in scales]
        owners = np.repeat(np.arange(len(prompts)), len(scales))
        each = torch.tensor(list(scales) * len(prompts), dtype=torch.float32)
        edit = replace(edit, scale=each)
        return cls(many, owners, edit, replace(edit, positions=owned(edit.positions, owners)))


def check(adapter: Adapter, prompts: Sequence[Encoded], edits: Sequence[Add]) -> None:
    """Whether edits fit the model and the prompts, before any forward pass is paid for.

    Raises:
        ArgumentError: a vector of the wrong width, a layer out of range, a selector that a prompt
            cannot satisfy, a prompt longer than the context.
    """
    Session(adapter, edits, texts=len(prompts)).check(all_prompts(adapter, prompts))


@torch.no_grad()
def read_again(
    adapter: Adapter,
    readings: Sequence[Reading],
    conditions: Mapping[str, Sequence[Add]],
    reduce: Reduce[T],
    *,
    progress: bool | None = None,
) -> list[T]:
    """Read every completion plain and under each condition; keep what `reduce` makes of it.

    Args:
        readings: what is read.
        conditions: name → edits; a scale with one value for each reading is in their order.
        reduce: `(index, logits, ids)`: which reading, for `PLAIN` and each condition the logits
            `[tokens d_vocab]` that predict the completion's tokens, and its ids `[tokens]`.

    Returns:
        One answer a reading, in their order.

    Raises:
        Interrupted: Ctrl-C; nothing is kept.
    """
    owners = np.asarray([reading.owner for reading in readings])

    def work(group: list[int]) -> list[T]:
        chosen = [readings[index] for index in group]
        index = np.asarray(group)
        own = {
            name: [local(edit, owners[index], index) for edit in edits]
            for name, edits in conditions.items()
        }
        found = _logits(adapter, chosen, own)
        targets = [torch.tensor(one.completion, device=adapter.device) for one in chosen]
        return [
            reduce(place, {name: rows[row] for name, rows in found.items()}, targets[row])
            for row, place in enumerate(group)
        ]

    per_token = 4 * adapter.d_vocab * (len(conditions) + 2)
    limit = min(int(current("batch_tokens")), max(1, LOGIT_BYTES // per_token))
    rows = [reading.tokens for reading in readings]
    outcome = each_group(rows, work, batch_tokens=limit, progress=progress)
    if not outcome.complete:
        raise Interrupted(f"interrupted after {len(outcome.answers)} of {len(rows)} completions.")
    return [outcome.answers[index] for index in range(len(rows))]


@torch.no_grad()
def walk(
    adapter: Adapter, readings: Sequence[Reading], edits: Sequence[Add], *, cached: bool = True
) -> list[Tensor]:
    """The logits of each completion, float32 `[tokens d_vocab]`, read one token after another.

    This is what generation sees, for edits that move with the newest token too. `cached=False`
    recomputes everything at each step.
    """
    batch = TokenBatch.pad(adapter, [one.prompt for one in readings], side="left")
    counts = [len(one.completion) for one in readings]
    session = Session(adapter, edits)
    steps: list[Tensor] = []
    with session:
        decoder = Decoder(session, batch, cached=cached, chunk=None)
        for place in range(max(counts)):
            if not place:
                steps.append(decoder.start())
                continue
            # A row that has ended is fed its last token again; nobody looks at what comes of it.
            fed = [one.completion[min(place, len(one.completion)) - 1] for one in readings]
            steps.append(decoder.advance(torch.tensor(fed, device=adapter.device)))
    return [torch.stack([s[row] for s in steps[:count]]) for row, count in enumerate(counts)]


def selected(adapter: Adapter, readings: Sequence[Reading], edit: Add) -> np.ndarray:
    """How many tokens of each reading an edit touches in generation, int `[readings]`.

    The last generated token is never read. A moving edit touches a token while it is the newest.
    """
    counts = []
    for reading in readings:
        bound = local(edit, np.asarray([reading.owner]), None).bind(adapter)
        step = _whole_step(adapter, reading)
        last = step.positions.shape[1] - 1
        if bound.positions.moves:
            ends = range(len(reading.prompt) - 1, last + 1)
            masks = [bound.positions.mask(_as_newest(step, end)) for end in ends]
            mask = np.any(masks, axis=0)
        else:
            mask = bound.positions.mask(step)
        table = bound._table()
        counts.append(min(int(mask.sum()), len(table) if table is not None else last + 1))
    return np.asarray(counts)


def _whole_step(adapter: Adapter, reading: Reading) -> Step:
    tokens = Encoded(reading.tokens.ids[:-1], reading.prompt.roles)
    batch = TokenBatch.pad(adapter, [tokens])
    return prompt_step(batch, prompts=np.asarray([len(reading.prompt)]))


def _as_newest(step: Step, end: int) -> Step:
    """The step with the token at position `end` as its newest, later ones not there yet."""
    return replace(
        step,
        positions=np.where(step.positions <= end, step.positions, -1),
        newest=step.positions == end,
    )


def _logits(
    adapter: Adapter, readings: Sequence[Reading], conditions: Mapping[str, Sequence[Add]]
) -> dict[str, list[Tensor]]:
    """For each condition, and plain, the logits that predict each completion."""
    still = {name: edits for name, edits in conditions.items() if not _moving(edits)}
    # Rows end together, so that completions share their columns; the anchor writes nothing and
    # makes the first column computed that of a prompt's last token at the latest.
    batch = TokenBatch.pad(adapter, [one.tokens for one in readings], side="left")
    anchor = Add(torch.zeros(adapter.d_model), layers=-1, scale=0.0, positions=where.after_prompt())
    prompts = np.asarray([len(one.prompt) for one in readings])
    fan = Fan(adapter, batch, [anchor, *(e for es in still.values() for e in es)], prompts=prompts)
    assert fan.logits is not None
    found = {PLAIN: _ends(fan.logits, readings)}
    for name, edits in conditions.items():
        if not edits:
            found[name] = found[PLAIN]
        elif name in still:
            logits = fan.run(edits)
            assert logits is not None
            found[name] = _ends(logits, readings)
        else:
            found[name] = walk(adapter, readings, edits)
    return found


def _ends(logits: Tensor, readings: Sequence[Reading]) -> list[Tensor]:
    """Each row's logits from the one that predicts its completion's first token to the last but one.

    Copies: a view would keep the logits of every prompt alive.
    """
    return [
        row[-len(one.completion) - 1 : -1].clone()
        for row, one in zip(logits, readings, strict=True)
    ]


def _moving(edits: Sequence[Add]) -> bool:
    return any(edit.positions.moves for edit in edits)


def local(edit: Add, owners: np.ndarray, chosen: np.ndarray | None) -> Add:
    """An edit for these readings alone, its selector and its scales seeing the right texts."""
    scale = edit.scale
    if chosen is not None and isinstance(scale, Tensor) and scale.ndim:
        scale = scale[torch.from_numpy(chosen)]
    return replace(edit, scale=scale, positions=owned(edit.positions, owners))
