"""The change in loss at every layer and weight, lower layers read once for a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..corpus import Batch, Window
from ..costs import Plan
from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..results import Result
from ..settings import OnError, Progress, checked_seed, current
from ..shards.keeping import Keeper
from ..statistics import interval
from ..tokens import Bos
from .blend import Blend, Norm, Target, resolve_blend
from .blended import Blended
from .score import counted, unseen
from .texts import Texts

__all__ = ["InterpolationSweep", "sweep"]

WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
SUMS = "sums"


@dataclass(frozen=True, repr=False, eq=False)
class InterpolationSweep(Result):
    """How the loss changes when late layers see the next token, by layer and weight.

    Attributes:
        effects: one row a layer and weight: layer, weight, loss (nats a token), change (from the
            plain model), low, high (95% bootstrap over texts, of the change), count (texts).
        documents: one row a text and cell: text, layer, weight, loss, plain_loss, change, count
            (predicted tokens).
    """

    kind: ClassVar[str] = "interpolation.sweep"

    effects: pd.DataFrame
    documents: pd.DataFrame

    @property
    def plain_loss(self) -> float:
        """Mean loss of the plain model over all predicted tokens, in nats."""
        each = self.documents.drop_duplicates("text")
        counts = each["count"].to_numpy(float)
        return float((each["plain_loss"].to_numpy(float) * counts).sum() / counts.sum())

    @property
    def best(self) -> pd.Series:
        """The row of `effects` with the lowest loss."""
        return self.effects.iloc[int(np.nanargmin(self.effects["change"].to_numpy()))]

    def summary(self) -> dict[str, Any]:
        """Model, layers, weights, texts, the plain loss, and the cell with the lowest."""
        row = self.best
        return {
            **super().summary(),
            "layers": self.effects["layer"].nunique(),
            "weights": self.effects["weight"].nunique(),
            "texts": self.documents["text"].nunique(),
            "plain_loss": self.plain_loss,
            "best": f"{row['change']:+.4g} (layer {row['layer']:.0f}, weight {row['weight']:g})",
        }


@torch.no_grad()
def sweep(
    model: Any,
    texts: Any,
    *,
    layers: Any = "all",
    weights: Sequence[float] = WEIGHTS,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    out: str | os.PathLike[str] | None = None,
    on_error: OnError | None = None,
    progress: Progress | None = None,
    seed: int | None = None,
    dry_run: bool | None = None,
) -> InterpolationSweep | Plan:
    """Change in loss for every layer, blended alone, and every weight; see `lp.interpolation.score`.

    A text is read plain once, and that pass leaves the residuals that all cells start from: a cell
    runs the blocks above its layer and nothing below.

    Args:
        model: a TransformerLens model.
        texts: as in `score`.
        layers: after which blocks, each alone. After the last one nothing changes.
        weights: 0 is the plain model, 1 replaces.
        target: as in `score`; an early layer must not lie above any of `layers`.
        seed: of the bootstrap.

    The other options are those of `score`.

    Raises:
        ArgumentError: as `score`; weights that are not different numbers.
        ModelError: an encoder-decoder; weights that cannot be read.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` holds the windows that were finished.

    Examples:
        >>> found = lp.interpolation.sweep(
        ...     model, "The cat sat on the mat.", layers=[1, 3], weights=[0, 1], keep_first=False
        ... )
        >>> found.effects[["layer", "weight", "change"]].round(2).values.tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.66], [3.0, 0.0, 0.0], [3.0, 1.0, 0.02]]
    """
    adapter = adapter_for(model)
    options = {"target": target, "norm": norm, "keep_first": keep_first, "below": below}
    amounts = _amounts(weights)
    first = resolve_blend(
        adapter, layer=layers, weight=amounts[0], extrapolate=extrapolate, **options
    )
    blends = [
        [
            resolve_blend(adapter, layer=at, weight=w, extrapolate=extrapolate, **options)
            for w in amounts
        ]
        for at in first.layers
    ]
    corpus = {"bos": bos, "length": length, "limit": limit, "column": column, "on_error": on_error}
    read = Texts[dict[str, np.ndarray]].of(adapter, texts, batch_tokens=batch_tokens, **corpus)
    chosen = checked_seed(seed) or 0

    def work(batch: Batch) -> list[dict[str, np.ndarray]]:
        return [{SUMS: sums} for sums in _cells(blends, first, batch)]

    def left(window: Window) -> dict[str, int]:
        return {SUMS: len(first.layers) * len(amounts) + 2}

    facts = {**first.provenance(), "weights": list(amounts)}
    if current("dry_run", dry_run):
        return read.plan(work, {**adapter.provenance(), "blend": facts})
    keeper = None if out is None else Keeper(out, "interpolation.sweep", facts)
    read.read(work, progress=progress, keeper=keeper, left=left)
    provenance = {**read.provenance(), "blend": facts, "seed": chosen}
    provenance["notes"] += unseen(first)
    result = _result(read, first.layers, amounts, provenance)
    if not read.complete:
        raise Interrupted("interrupted; .partial holds what was finished.", partial=result)
    if keeper is not None:
        keeper.stored(result)
    return result


def _amounts(weights: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"weights={weights!r}: numbers.") from error
    if not found or len(set(found)) < len(found) or not np.isfinite(found).all():
        raise ArgumentError(f"weights={weights!r}: one or more different finite numbers.")
    return tuple(sorted(found))


def _cells(blends: Sequence[Sequence[Blend]], first: Blend, batch: Batch) -> list[np.ndarray]:
    """Each window's summed losses, float64 `[1 + layer * weight + 1]`: plain, cells, tokens."""
    read = Blended(first.adapter, batch.tokens, first.layers, early=first.early)
    runs = [None, *(blend for row in blends for blend in row)]
    sums = np.zeros((len(batch.windows), len(runs) + 1))
    for number, blend in enumerate(runs):
        logits = read.plain if blend is None else read.logits(blend)
        losses = read.predicted(logits).loss.double().cpu().numpy()
        for row, window in enumerate(batch.windows):
            new = counted(window)
            sums[row, number] = losses[row, new].sum()
            sums[row, -1] = new.stop - new.start
    return list(sums)


def _result(
    read: Texts[dict[str, np.ndarray]],
    layers: Sequence[int],
    weights: Sequence[float],
    provenance: dict[str, Any],
) -> InterpolationSweep:
    texts, owner = np.unique(read.documents, return_inverse=True)
    each = np.stack([answer[SUMS] for answer in read.answers])
    sums = np.zeros((len(texts), each.shape[1]))
    np.add.at(sums, owner, each)
    plain, cells, counts = sums[:, 0], sums[:, 1:-1].T, sums[:, -1]
    value, _, _ = interval(cells, counts, seed=provenance["seed"])
    change, low, high = interval(cells - plain, counts, seed=provenance["seed"])
    place = pd.MultiIndex.from_product([layers, weights], names=["layer", "weight"])
    effects = place.to_frame(index=False).assign(
        loss=value, change=change, low=low, high=high, count=len(texts)
    )
    cell = pd.MultiIndex.from_product([layers, weights, texts], names=["layer", "weight", "text"])
    loss = (cells / counts).reshape(-1)
    base = np.tile(plain / counts, len(place))
    documents = cell.to_frame(index=False).assign(
        loss=loss,
        plain_loss=base,
        change=loss - base,
        count=np.tile(counts.astype(int), len(place)),
    )
    return InterpolationSweep(provenance=provenance, effects=effects, documents=documents)
