"""How much of the next token each layer should see, learned by gradient descent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..corpus import Batch, Window, positive_whole
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..results import Result
from ..running.batching import progress_bar
from ..settings import checked_seed
from ..statistics import interval
from ..tokens import Bos
from .blend import Blend, Norm, Target, resolve_blend
from .blended import Blended
from .loss import mean_loss
from .score import scored, unseen
from .texts import Texts

__all__ = ["LearnedWeights", "learn"]


@dataclass(frozen=True, repr=False, eq=False)
class LearnedWeights(Result):
    """Interpolation weights of each layer, and what they change on texts that they were not fitted to.

    Attributes:
        weights: one row a layer: layer, weight (at the end), first (at the start), gradient (of the
            mean loss, in the first step).
        steps: one row a step: step, loss (of its batch under the weights of that step), plain_loss.
        path: one row a step and layer: step, layer, weight.
        held_out: one row, of the held-out texts: loss, plain_loss, change, low, high (95% bootstrap
            over texts), count (texts). Empty without any.
    """

    kind: ClassVar[str] = "interpolation.learn"

    weights: pd.DataFrame
    steps: pd.DataFrame
    path: pd.DataFrame
    held_out: pd.DataFrame

    @property
    def schedule(self) -> dict[int, float]:
        """Weight of each layer, as `layer=list(schedule), weight=list(schedule.values())`."""
        return {
            int(row["layer"]): float(row["weight"])
            for row in self.weights.to_dict(orient="records")
        }

    def summary(self) -> dict[str, Any]:
        """Model, layers, steps, the largest weight, and the change on held-out texts."""
        top = self.weights.iloc[int(self.weights["weight"].abs().to_numpy().argmax())]
        facts = {
            **super().summary(),
            "layers": len(self.weights),
            "steps": len(self.steps),
            "largest weight": f"{top['weight']:.3g} (layer {top['layer']:.0f})",
        }
        if len(self.held_out):
            row = self.held_out.iloc[0]
            facts["held-out change"] = (
                f"{row['change']:+.4g} [{row['low']:+.4g}, {row['high']:+.4g}]"
            )
        return facts


def learn(
    model: Any,
    texts: Any,
    *,
    layers: Any = "all",
    weight: Any = 0.05,
    steps: int = 30,
    learning_rate: float = 0.02,
    batch_size: int = 4,
    held_out: Any = None,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    progress: bool | None = None,
    seed: int | None = None,
) -> LearnedWeights:
    """Learn one interpolation weight for each layer, the model itself fixed.

    Adam on the mean next-token loss, through the two streams of `lp.interpolation.score`. After each
    step weights are brought back into [0, 1], unless `extrapolate`: a layer whose weight ends at 0
    is better off with its own guess.

    Args:
        model: a TransformerLens model; it is not changed.
        texts: to fit to, as in `score`.
        layers: which ones have a weight; "all" but the last, which nobody looks back at.
        weight: at the start; one number, or one for each layer.
        steps: gradient steps.
        learning_rate: of Adam.
        batch_size: windows in a step.
        held_out: other texts, on which the learned weights are compared with the plain model.
        length: longest window in tokens; None is the context, at most 256 here.
        seed: of the order of the texts, and of the bootstrap.

    The other options are those of `score`.

    Raises:
        ArgumentError: as `score`; steps, batch size or learning rate out of range.
        ModelError: an encoder-decoder; weights that cannot be read.
        Interrupted: Ctrl-C; `.partial` has the weights so far.

    Examples:
        >>> few = {"layers": 1, "weight": 0.9, "steps": 3, "keep_first": False}
        >>> found = lp.interpolation.learn(model, ["The cat sat.", "The dog lay."], **few)
        >>> round(float(found.weights["weight"].iloc[0]), 2)  # on its way down
        0.84
    """
    adapter = adapter_for(model)
    chosen = _layers(adapter, layers)
    blend = resolve_blend(
        adapter,
        layer=chosen,
        weight=weight,
        target=target,
        norm=norm,
        keep_first=keep_first,
        below=below,
        extrapolate=extrapolate,
    )
    _check(steps, batch_size, learning_rate)
    longest = min(adapter.context, LONGEST) if length is None else length
    options = {"bos": bos, "length": longest, "limit": limit, "column": column}
    read = Texts[None].of(adapter, texts, batch_tokens=None, **options)
    read.read(lambda batch: [None] * len(batch.windows), progress=False)
    test = None if held_out is None else _other(adapter, held_out, options)
    number = checked_seed(seed) or 0
    fit = _Fit(blend, learning_rate, extrapolate)
    complete = fit.run(_order(read.windows, batch_size, number), steps, progress)
    after = blend.at(fit.weights.detach())
    provenance = {
        **read.provenance(),
        "blend": after.provenance(),
        "steps": len(fit.losses),
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": number,
        "complete": complete,
    }
    provenance["notes"] += unseen(blend)
    result = LearnedWeights(
        provenance=provenance,
        **fit.tables(blend),
        held_out=_evaluated(test if complete else None, after, number),
    )
    if not complete:
        raise Interrupted(f"interrupted after {len(fit.losses)} of {steps} steps.", partial=result)
    return result


LONGEST = 256
"""Tokens of a window unless the caller says more: every activation above the first layer is kept."""


class _Fit:
    """Adam on the weights of a blend."""

    def __init__(self, blend: Blend, learning_rate: float, extrapolate: bool) -> None:
        self.blend = blend
        self.weights = blend.weights.detach().clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.weights], lr=learning_rate)
        self.extrapolate = extrapolate
        self.losses: list[tuple[float, float]] = []
        self.held: list[np.ndarray] = []
        self.gradient: np.ndarray | None = None

    def run(self, batches: Iterator[list[Window]], steps: int, progress: bool | None) -> bool:
        """Take the steps; whether all of them were taken."""
        try:
            with progress_bar("step", progress, total=steps) as bar:
                for _ in range(steps):
                    self._step(Batch.of(self.blend.adapter, tuple(next(batches))))
                    bar.update(1)
        except KeyboardInterrupt:
            if not self.losses:
                raise Interrupted("interrupted before the first step was finished.") from None
            return False
        return True

    def _step(self, batch: Batch) -> None:
        adapter = self.blend.adapter
        with torch.no_grad():
            # What lies below the first layer does not depend on the weights, and needs no graph.
            read = Blended(adapter, batch.tokens, self.blend.layers, early=self.blend.early)
            plain = float(mean_loss(read, read.plain))
        with torch.enable_grad():
            value = mean_loss(read, read.logits(self._now()))
            gradient = torch.zeros_like(self.weights)
            if value.requires_grad:
                # Not backward(): the model's own parameters would be left with gradients.
                (gradient,) = torch.autograd.grad(value, [self.weights])
        held = self.weights.detach().cpu().numpy().copy()
        self.weights.grad = gradient
        self.optimizer.step()
        if not self.extrapolate:
            with torch.no_grad():
                self.weights.clamp_(0.0, 1.0)
        if self.gradient is None:
            self.gradient = gradient.cpu().numpy()
        self.held.append(held)
        self.losses.append((float(value.detach()), plain))

    def _now(self) -> Blend:
        return self.blend.at(self.weights)

    def tables(self, blend: Blend) -> dict[str, pd.DataFrame]:
        """`weights`, `steps` and `path`."""
        layers = np.array(blend.layers)
        count = len(self.held)
        losses = np.array(self.losses)
        return {
            "weights": pd.DataFrame(
                {
                    "layer": layers,
                    "weight": self.weights.detach().cpu().numpy(),
                    "first": self.held[0],
                    "gradient": self.gradient,
                }
            ),
            "steps": pd.DataFrame(
                {"step": np.arange(count), "loss": losses[:, 0], "plain_loss": losses[:, 1]}
            ),
            "path": pd.DataFrame(
                {
                    "step": np.repeat(np.arange(count), len(layers)),
                    "layer": np.tile(layers, count),
                    "weight": np.concatenate(self.held),
                }
            ),
        }


def _layers(adapter: Adapter, layers: Any) -> Any:
    if isinstance(layers, str) and layers == "all" and adapter.n_layers > 1:
        return list(range(adapter.n_layers - 1))
    return layers


def _check(steps: Any, batch_size: Any, learning_rate: Any) -> None:
    positive_whole("steps", steps)
    positive_whole("batch_size", batch_size)
    number = isinstance(learning_rate, int | float) and not isinstance(learning_rate, bool)
    if not number or not np.isfinite(learning_rate) or learning_rate <= 0:
        raise ArgumentError(f"learning_rate={learning_rate!r}: a positive number.")


def _order(windows: Sequence[Window], size: int, seed: int) -> Iterator[list[Window]]:
    """Batches without end, every window once before any is seen again."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(windows))
        for begin in range(0, len(order), size):
            yield [windows[index] for index in order[begin : begin + size]]


def _other(adapter: Adapter, held_out: Any, options: dict[str, Any]) -> Texts[Any]:
    return Texts[Any].of(adapter, held_out, batch_tokens=None, **options)


@torch.no_grad()
def _evaluated(texts: Texts[Any] | None, blend: Blend, seed: int) -> pd.DataFrame:
    names = ["loss", "plain_loss", "change", "low", "high", "count"]
    if texts is None:
        return pd.DataFrame(columns=names)
    texts.read(lambda batch: scored(blend, batch, reference=True), progress=False)
    found, owner = np.unique(texts.documents, return_inverse=True)
    totals = np.zeros((3, len(found)))
    for row, answer in zip(owner, texts.answers, strict=True):
        parts = (answer["loss"].sum(), answer["plain_loss"].sum(), len(answer["loss"]))
        totals[:, row] += np.asarray(parts, dtype=np.float64)
    change, low, high = interval(totals[0] - totals[1], totals[2], seed=seed)
    loss, plain = totals[:2].sum(-1) / totals[2].sum()
    row = (loss, plain, float(change), float(low), float(high), len(found))
    return pd.DataFrame([dict(zip(names, row, strict=True))])
