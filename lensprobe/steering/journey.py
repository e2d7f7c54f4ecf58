"""An addition's way up: how much of it is still in the residual stream, layer after layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Add
from ..errors import Interrupted
from ..models.adapter import Adapter
from ..running.batching import each_group
from ..running.session import Hook, Session, prompt_step
from ..statistics import interval
from ..tokens import TokenBatch
from .forced import Reading, local
from .study import Condition
from .vector import SteeringVector

__all__ = ["journey_table"]


@dataclass(frozen=True)
class _Way:
    """Sums over the edited tokens of one text, float64 `[conditions layers]`; the plain run first.

    Attributes:
        norm: of the residual's norm.
        ratio: of that norm over the plain one.
        component: of the component along each token's vector, less that of the plain run.
        added: of what has been added along it so far.
        count: edited tokens.
    """

    norm: np.ndarray
    ratio: np.ndarray
    component: np.ndarray
    added: np.ndarray
    count: int


def journey_table(
    adapter: Adapter,
    readings: Sequence[Reading],
    vector: SteeringVector,
    conditions: Sequence[Condition],
    progress: bool | None,
) -> pd.DataFrame:
    """See `DepthComparison.journey`. All conditions edit the same tokens; the first is plain.

    Tokens whose row of the vector is zero are left out: nothing is added there.

    Raises:
        Interrupted: Ctrl-C.
    """
    layers = range(adapter.layer(vector.layer), adapter.n_layers)

    def work(group: list[int]) -> list[_Way]:
        return _ways(adapter, [readings[i] for i in group], conditions, layers)

    rows = [reading.tokens for reading in readings]
    outcome = each_group(rows, work, batch_tokens=None, progress=progress)
    if not outcome.complete:
        raise Interrupted("interrupted while the residuals were read.")
    found = [outcome.answers[index] for index in range(len(rows))]
    counts = np.array([way.count for way in found], dtype=np.float64)

    def total(name: str) -> np.ndarray:
        return np.stack([getattr(way, name) for way in found], axis=-1)

    def mean(name: str) -> np.ndarray:
        return interval(total(name), counts)[0]

    share, low, high = interval(total("component"), total("added"))
    cells = {
        "value": mean("norm"),
        "ratio": mean("ratio"),
        "component": mean("component"),
        "added": mean("added"),
        "share": share,
        "low": low,
        "high": high,
    }
    return pd.DataFrame(
        {
            "condition": np.repeat([one.name for one in conditions], len(layers)),
            "scale": np.repeat([one.scale for one in conditions], len(layers)),
            "layer": np.tile(list(layers), len(conditions)),
            "site": "resid_post",
            **{name: values.reshape(-1) for name, values in cells.items()},
        }
    )


@torch.no_grad()
def _ways(
    adapter: Adapter,
    readings: Sequence[Reading],
    conditions: Sequence[Condition],
    layers: range,
) -> list[_Way]:
    batch = TokenBatch.pad(adapter, [one.tokens for one in readings])
    prompts = np.asarray([len(one.prompt) for one in readings])
    step = prompt_step(batch, prompts=prompts)
    owners = np.asarray([one.owner for one in readings])
    edit = next(edit for one in conditions for edit in one.edits)
    bound = local(edit, owners, None).bind(adapter)
    assert isinstance(bound, Add)
    vectors, picked = _vectors(bound, bound.positions.mask(step))
    lengths = vectors.norm(dim=-1)
    picked &= lengths > 0
    units = vectors / torch.where(lengths > 0, lengths, 1.0)[..., None]

    norms, components, added = [], [], []
    for one in conditions:
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        probes = {
            adapter.hook_name("resid_post", layer): _probe(seen, layer, units) for layer in layers
        }
        with Session(adapter, [local(e, owners, None) for e in one.edits], probes) as session:
            session.begin()
            # A hook of the user's, on the logits say, must still see the whole pass.
            session.read(step, batch.ids, logits="all" if adapter.user_hooks() else None)
        norms.append(torch.stack([seen[layer][0] for layer in layers]))
        components.append(torch.stack([seen[layer][1] for layer in layers]))
        times = [_times(adapter, one, layer) for layer in layers]
        added.append(one.scale * torch.tensor(times)[:, None, None] * lengths.cpu())
    norm, component = torch.stack(norms).cpu().double(), torch.stack(components).cpu().double()
    parts = {
        "norm": norm,
        "ratio": norm / norm[:1],
        "component": component - component[:1],
        "added": torch.stack(added).cpu().double(),
    }
    real = picked.cpu()
    return [
        _Way(
            **{name: value[:, :, row, real[row]].sum(-1).numpy() for name, value in parts.items()},
            count=int(real[row].sum()),
        )
        for row in range(len(readings))
    ]


def _vectors(edit: Add, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """The vector that each token gets `[batch pos width]`, float32, and which tokens get one."""
    picked = torch.from_numpy(mask).to(edit.vector.device)
    vector = edit.vector.float()
    if vector.ndim == 1:
        return vector.expand(*mask.shape, -1), picked
    turn = picked.long().cumsum(1) - 1
    inside = picked & (turn < len(vector))
    return vector[turn.clamp(0, len(vector) - 1)], inside


def _probe(seen: dict[int, tuple[Tensor, Tensor]], layer: int, units: Tensor) -> Hook:
    def read(residual: Tensor) -> None:
        stream = residual.float()
        along = torch.einsum("bpd,bpd->bp", stream, units)
        seen[layer] = (stream.norm(dim=-1).cpu(), along.cpu())

    return read


def _times(adapter: Adapter, one: Condition, layer: int) -> int:
    """How many additions of a condition lie at or below the output of a block."""
    return sum(place <= layer for edit in one.edits for place in adapter.layers(edit.layers))
