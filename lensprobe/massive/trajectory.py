"""One coordinate of the residual stream, followed through every site of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import Interrupted
from ..models.adapter import Adapter, adapter_for
from ..results import Result
from ..running.batching import each_group
from ..running.session import Hook, hooked
from ..tokens import Bos, Encoded, TokenBatch
from .magnitudes import magnitudes
from .result import SUN, Finding, MassiveScan
from .stages import stages_table
from .subject import Subject, subject
from .target import RESIDUAL, Target

__all__ = ["Trajectory", "trajectory"]


@dataclass(frozen=True, repr=False, eq=False)
class Trajectory(Result):
    """A coordinate through the layers, beside the hidden states it stands in.

    Attributes:
        values: one row a coordinate (`dim`, `position`), `layer` and `site`: `value`, its mean over
            sequences, signed, and `std`; `median`, the mean over sequences of the median magnitude of
            the same hidden state; `rest`, the mean of the largest magnitude in it besides this
            coordinate; `ratio`, |value| / median; `count` of sequences (a value that is not finite
            enters nothing).
        stages: one row a coordinate and `kind` of stage, in residuals after each layer: `first` and
            `last` layer, `value` and `ratio` at the first, and for birth and death the `component`
            ("attn", "mlp", or "embed" for what stands before the first layer) that changed it most.
            The *peak* is the layer with the largest |value|. A layer *stands* where the value has the
            peak's sign and at least half its size. The *plateau* are the standing layers around the
            peak, *birth* its first layer, *death* the first layer after it, absent where it stands to
            the end.
    """

    kind: ClassVar[str] = "massive.trajectory"
    citations: ClassVar[tuple[str, ...]] = (SUN,)

    values: pd.DataFrame
    stages: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Model, sequences, and the first coordinate's peak, birth and death."""
        dim, position = (int(self.stages[name].iloc[0]) for name in ("dim", "position"))
        own = (self.stages["dim"] == dim) & (self.stages["position"] == position)
        rows = self.stages[own].set_index("kind")
        facts = {
            **super().summary(),
            "sequences": int(self.provenance["sequences"]),
            "dim": dim,
            "position": position,
            "value": float(rows.loc["peak", "value"]),
            "layer": int(rows.loc["peak", "first"]),
            "birth": int(rows.loc["birth", "first"]),
            "writer": str(rows.loc["birth", "component"]),
        }
        if "death" in rows.index:
            facts["death"] = int(rows.loc["death", "first"])
            facts["eraser"] = str(rows.loc["death", "component"])
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts


@torch.no_grad()
def trajectory(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layers: int | Sequence[int] | Literal["all"] = "all",
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Trajectory:
    """Follow one coordinate, or several, through every site of every layer.

    The sites are the residual before, in the middle of and after each block, and what attention and
    MLP add to it; a parallel block has no middle. Beside the value stand the median magnitude and the
    largest other magnitude of the same hidden state (Sun et al. 2402.17762, figure 3), exact and in
    float32 or wider, each averaged over sequences.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.massive.scan` takes; every text must have the position.
        at: a finding of a scan, a list of them, or the scan, which stands for its strongest finding.
        dim: a dimension of the residual stream, instead of `at`. Without both, the texts are scanned
            first and the strongest massive activation is taken.
        position: of the token, from 0; with `dim` alone it is 0.
        layers: which layers are read; layers above the last of them are not run.
        bos, length, limit, column: as in `lp.massive.scan`.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: a dimension, position or layer out of range, a position that a text lacks, no
            texts, nothing massive where nothing was named.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; `.partial` is the `Trajectory` over the finished sequences.

    Examples:
        >>> found = lp.massive.trajectory(model, "The cat sat on the mat.", dim=447)
        >>> facts = found.summary()
        >>> facts["birth"], facts["writer"], facts["death"], facts["eraser"]
        (1, 'mlp', 4, 'mlp')
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.trajectory")
    chosen = adapter.layers(layers)
    about = subject(
        adapter, texts, at=at, dim=dim, position=position, bos=bos, length=length, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    # A parallel block has no middle.
    points = adapter.places(chosen, RESIDUAL)

    def work(group: list[int]) -> list[np.ndarray]:
        return list(_read(adapter, [about.rows[index] for index in group], points, about.each))

    outcome = each_group(about.rows, work, batch_tokens=batch_tokens, progress=progress)
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    result = _result(adapter, about, list(points.values()), outcome.answers, outcome.notes)
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(outcome.answers)} of {len(about.rows)} sequences.",
            partial=result,
        )
    return result


def _read(
    adapter: Adapter,
    rows: Sequence[Encoded],
    points: Mapping[str, tuple[int, str]],
    targets: Sequence[Target],
) -> np.ndarray:
    """Value, median and largest of the rest, `[row place target 3]`, from one forward pass."""
    batch = TokenBatch.pad(adapter, rows)
    found: dict[str, np.ndarray] = {}

    def reader(name: str) -> Hook:
        def read(activation: Tensor) -> None:
            found[name] = _measure(activation, batch.lengths, targets)

        return read

    mask = batch.mask if batch.ragged else None
    last = max(layer for layer, _ in points.values())
    with hooked(adapter, {name: reader(name) for name in points}):
        # A user's hook at a later layer, or on the logits, must still see the pass.
        adapter.run(batch.ids, mask=mask, stop=None if adapter.user_hooks() else last + 1)
    return np.stack([found[name] for name in points], axis=1)


def _measure(activation: Tensor, lengths: np.ndarray, targets: Sequence[Target]) -> np.ndarray:
    sizes = magnitudes(activation.detach(), lengths, threshold=np.inf, ratio=0.0)
    answers = []
    for target in targets:
        value = activation[:, target.position, target.dim].detach().float().cpu().numpy()
        # Where the value itself is the largest magnitude, the second is the largest of the rest.
        largest = np.abs(value) >= sizes.top[:, 0]
        rest = np.where(largest, sizes.top[:, 1], sizes.top[:, 0])
        answers.append(np.column_stack([value, sizes.median, rest]))
    return np.stack(answers, axis=1)


def _result(
    adapter: Adapter,
    about: Subject,
    places: Sequence[tuple[int, str]],
    answers: dict[int, np.ndarray],
    notes: Sequence[str],
) -> Trajectory:
    every = np.stack([answers[index] for index in sorted(answers)]).astype(np.float64)
    finite = np.isfinite(every[..., 0])
    frames = []
    for index, target in enumerate(about.each):
        own = np.where(finite[:, :, index, None], every[:, :, index], np.nan)
        frames.append(_table(target, places, own))
    values = pd.concat(frames, ignore_index=True)
    facts = {**about.facts, "notes": [*about.facts["notes"], *notes]}
    if adapter.user_hooks():
        facts["notes"].append("hooks of the user's own are attached: whole forward passes were run")
    return Trajectory(
        provenance={
            **adapter.provenance(),
            **facts,
            "finished": len(answers),
            "complete": len(answers) == len(about.rows),
        },
        values=values,
        stages=stages_table(values),
    )


def _table(target: Target, places: Sequence[tuple[int, str]], own: np.ndarray) -> pd.DataFrame:
    """One coordinate's rows of `Trajectory.values`; `own` is `[sequence place 3]`."""
    count = np.isfinite(own[..., 0]).sum(0)
    # A place without any finite value has no mean: NaN, without numpy's warning.
    weight = np.where(count, count, np.nan)
    mean = np.nansum(own, axis=0) / weight[:, None]
    std = np.sqrt(np.nansum((own[..., 0] - mean[:, 0]) ** 2, axis=0) / weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(mean[:, 0]) / mean[:, 1]
    return pd.DataFrame(
        {
            "dim": target.dim,
            "position": target.position,
            "layer": [layer for layer, _ in places],
            "site": [site for _, site in places],
            "value": mean[:, 0],
            "std": std,
            "median": mean[:, 1],
            "rest": mean[:, 2],
            "ratio": ratio,
            "count": count,
        }
    )
