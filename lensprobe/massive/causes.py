"""Position or token: the first token changed one thing at a time, and the coordinate read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..models.adapter import Adapter
from ..models.weights import Weights
from ..running.batching import buckets
from ..running.session import Hook
from ..tokens import Encoded
from .readout import Readout

__all__ = ["causes_table"]

MOVED = 4
"""Where the first token is moved to, and whose position embedding it is given: past the first few."""
REPEATS = 8
SHIFT = 100
COLUMNS = ["dim", "layer", "kind", "position", "value", "std", "ratio", "count", "why"]


@dataclass(frozen=True)
class _Experiment:
    """One change: the texts it is made on, how, and at which position the answer stands.

    `why` says what the model lacks where the change cannot be made.
    """

    kind: str
    rows: Sequence[Encoded] = ()
    position: int = 0
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    shift: int = 0
    why: str = ""


def causes_table(
    readout: Readout, rows: Sequence[Encoded], batch_tokens: int | None
) -> pd.DataFrame:
    """Rows of `TokenStudy.causes`; `ratio` is to the value of the texts as they are."""
    targets = readout.targets
    tried = list(_experiments(readout.adapter, rows, max(readout.layers)))
    values = [_run(readout, experiment, batch_tokens) for experiment in tried]
    found = []
    for index, target in enumerate(targets):
        plain = float(values[0][:, index].mean())
        for experiment, read in zip(tried, values, strict=True):
            mean = float(read[:, index].mean())
            found.append(
                {
                    "dim": target.dim,
                    "layer": readout.layers[index],
                    "kind": experiment.kind,
                    "position": experiment.position,
                    "value": mean,
                    "std": float(read[:, index].std()),
                    "ratio": mean / plain if plain else np.nan,
                    "count": len(experiment.rows),
                    "why": experiment.why,
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)


def _run(readout: Readout, experiment: _Experiment, batch_tokens: int | None) -> np.ndarray:
    if experiment.why:
        return np.full((1, len(readout.targets)), np.nan)
    values = [
        readout.read(
            [experiment.rows[index] for index in group],
            hooks=experiment.hooks,
            shift=experiment.shift,
        )[:, experiment.position]
        for group in buckets(experiment.rows, batch_tokens)
    ]
    return np.concatenate(values)


def _experiments(adapter: Adapter, rows: Sequence[Encoded], last: int) -> Iterator[_Experiment]:
    yield _Experiment("plain", rows)
    yield from _of_the_token(adapter, rows)
    yield from _of_the_position(adapter, rows)
    place = _place(rows)
    if place:
        names = adapter.places(range(last + 1), ["attn.pattern"])
        hooks = {name: _alone(place) for name in names}
        yield _Experiment("sees only itself", rows, place, hooks)


def _of_the_token(adapter: Adapter, rows: Sequence[Encoded]) -> Iterator[_Experiment]:
    """The same positions, another token."""
    yield _Experiment("embedding zero", rows, hooks={"hook_embed": _zero_first})
    place = _place(rows)
    if not place:
        yield _Experiment("token moved", why="a text has one token only")
        return
    moved = [_swapped(row, place) for row in rows]
    yield _Experiment("token moved", moved, place)
    yield _Experiment("another token first", moved)
    most = min(REPEATS, adapter.context)
    repeated = [Encoded((row.ids[0],) * most + row.ids[1:]) for row in rows]
    repeated = [Encoded(row.ids[: adapter.context]) for row in repeated]
    for position in sorted({1, most - 1}):
        yield _Experiment("token repeated", repeated, position)


def _of_the_position(adapter: Adapter, rows: Sequence[Encoded]) -> Iterator[_Experiment]:
    """The same tokens, other positions; each model has only some of what could be changed."""
    table = Weights(adapter).positions
    kind = str(getattr(adapter.model.cfg, "positional_embedding_type", "unknown"))
    place = _place(rows)
    if table is None:
        why = f"no position embedding: positions are {kind}"
        yield _Experiment("position swapped", why=why)
        yield _Experiment("position given", position=place, why=why)
    elif place:
        yield _Experiment("position swapped", rows, hooks={"hook_pos_embed": _copied(place, 0)})
        yield _Experiment("position given", rows, place, {"hook_pos_embed": _copied(0, place)})
    room = min(SHIFT, adapter.context - max(map(len, rows)))
    if room < 1:
        yield _Experiment("positions shifted", why="a text fills the whole context")
    elif table is not None:
        hooks = {"hook_pos_embed": _shifted(table.detach(), room)}
        yield _Experiment("positions shifted", rows, hooks=hooks)
    elif kind != "rotary" or adapter.line != "bridge":
        why = f"{type(adapter.model).__name__} counts {kind} positions itself"
        yield _Experiment("positions shifted", why=why)
    else:
        yield _Experiment("positions shifted", rows, shift=room)


def _place(rows: Sequence[Encoded]) -> int:
    """A position that every text has beside the first, or 0."""
    return min(MOVED, min(map(len, rows)) - 1)


def _swapped(row: Encoded, place: int) -> Encoded:
    ids = list(row.ids)
    ids[0], ids[place] = ids[place], ids[0]
    return Encoded(tuple(ids))


def _zero_first(embedding: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(embedding[:, :1]), embedding[:, 1:]], 1)


def _copied(source: int, place: int) -> Hook:
    """One position given another one's embedding."""

    def copy(positions: Tensor) -> Tensor:
        # One row may serve the whole batch.
        parts = [positions[:, :place], positions[:, source : source + 1], positions[:, place + 1 :]]
        return torch.cat(parts, 1)

    return copy


def _shifted(table: Tensor, shift: int) -> Hook:
    def move(positions: Tensor) -> Tensor:
        rows = table[shift : shift + positions.shape[1]].to(positions)
        return rows.expand_as(positions)

    return move


def _alone(place: int) -> Hook:
    """One query that attends to its own position alone, as the first one always does."""

    def attend(pattern: Tensor) -> Tensor:
        own = torch.zeros_like(pattern[:, :, :1])
        own[..., place] = 1.0
        return torch.cat([pattern[:, :, :place], own, pattern[:, :, place + 1 :]], 2)

    return attend
