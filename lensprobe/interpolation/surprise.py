"""Whether the gain sits after surprising tokens: change in loss by the surprisal of earlier ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..corpus import Batch, positive_whole
from ..costs import Plan
from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..results import Result
from ..settings import OnError, Progress, checked_seed, current
from ..shards.keeping import Keeper
from ..statistics import ends, interval, resampled
from ..tokens import Bos
from .blend import Norm, Target, resolve_blend
from .score import left, scored, unseen
from .texts import Texts

__all__ = ["DECILES", "Surprise", "surprise"]

DECILES = 10


@dataclass(frozen=True, repr=False, eq=False)
class Surprise(Result):
    """Change in the loss of a token, by the plain surprisal of the tokens before it.

    Attributes:
        deciles: one row a lag and decile: lag (1 is the token right before the predicted one), decile
            (1 to 10, 10 the most surprising), change (in loss, nats; negative is a gain), low, high
            (95% bootstrap over texts), surprisal (mean, nats), first, last (its ends), count (tokens).
        contrasts: one row a lag: lag, change (decile 10 minus decile 1), low, high (paired over
            texts), count (tokens in both).
    """

    kind: ClassVar[str] = "interpolation.surprise"

    deciles: pd.DataFrame
    contrasts: pd.DataFrame

    @property
    def supported(self) -> bool:
        """Whether, right after the most surprising tokens, the loss falls, and falls more than after
        the least surprising ones, both beyond their intervals."""
        top = self.deciles.query("lag == 1 and decile == @DECILES").iloc[0]
        contrast = self.contrasts.query("lag == 1").iloc[0]
        return bool(top["high"] < 0 and contrast["high"] < 0)

    def summary(self) -> dict[str, Any]:
        """Model, where and how much, and at lag 1 the change after the least and most surprising."""
        near = self.deciles.query("lag == 1").set_index("decile")["change"]
        blend = self.provenance["blend"]
        return {
            **super().summary(),
            "layers": str(blend["layers"]),
            "weights": str(blend["weights"]),
            "tokens": int(self.deciles.query("lag == 1")["count"].sum()),
            "after the least surprising": float(near.iloc[0]),
            "after the most surprising": float(near.iloc[-1]),
            "supported": self.supported,
        }


@torch.no_grad()
def surprise(
    model: Any,
    texts: Any,
    *,
    layer: Any = None,
    weight: Any = None,
    lags: int = 4,
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
) -> Surprise | Plan:
    """The change in loss at token j against the plain surprisal of tokens j - 1, j - 2, and on.

    If late layers fail because they keep a wrong guess of what came next, then seeing what really
    came must help most right after tokens that were guessed badly: the change is most negative in
    the top decile at lag 1. Deciles are of the tokens' own surprisal at that lag, over all texts.

    Args:
        model: a TransformerLens model.
        texts: as in `lp.interpolation.score`; at least a hundred tokens or so, and several texts for
            intervals.
        layer: after which block, or several. Required.
        weight: as in `score`. Required.
        lags: how many tokens back.
        seed: of the bootstrap.

    The other options are those of `score`. A window's first tokens have no earlier surprisal that
    was computed in it, and are left out at those lags.

    Raises:
        ArgumentError: as `score`; too few tokens for ten deciles.
        ModelError: an encoder-decoder; weights that cannot be read.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` holds the windows that were finished.

    Examples:
        >>> text = "The cat sat on the mat, and the dog lay on the log. " * 2
        >>> found = lp.interpolation.surprise(model, text, layer=3, weight=0.3, lags=1)
        >>> len(found.deciles), found.supported
        (10, False)
    """
    adapter = adapter_for(model)
    blend = resolve_blend(
        adapter,
        layer=layer,
        weight=weight,
        target=target,
        norm=norm,
        keep_first=keep_first,
        below=below,
        extrapolate=extrapolate,
    )
    positive_whole("lags", lags)
    corpus = {"bos": bos, "length": length, "limit": limit, "column": column, "on_error": on_error}
    read = Texts[dict[str, np.ndarray]].of(adapter, texts, batch_tokens=batch_tokens, **corpus)
    chosen = checked_seed(seed) or 0

    def work(batch: Batch) -> list[dict[str, np.ndarray]]:
        return scored(blend, batch, reference=True)

    if current("dry_run", dry_run):
        return read.plan(work, {**adapter.provenance(), "blend": blend.provenance()})
    keeper = None if out is None else Keeper(out, "interpolation.surprise", blend.provenance())
    read.read(work, progress=progress, keeper=keeper, left=left)
    provenance = {**read.provenance(), "blend": blend.provenance(), "seed": chosen}
    provenance["notes"] += unseen(blend)
    result = surprise_result(read.answers, read.documents, lags, provenance)
    if not read.complete:
        raise Interrupted("interrupted; .partial holds what was finished.", partial=result)
    if keeper is not None:
        keeper.stored(result)
    return result


def surprise_result(
    answers: Sequence[dict[str, np.ndarray]],
    documents: np.ndarray,
    lags: int,
    provenance: dict[str, Any],
) -> Surprise:
    """Tables of windows; each answer has the losses of consecutive tokens."""
    deciles, contrasts = [], []
    for lag in range(1, lags + 1):
        change, before, owner = _pairs(answers, documents, lag)
        if len(change) < DECILES:
            raise ArgumentError(
                f"texts: {len(change)} tokens have one {lag} before them; {DECILES} deciles need "
                "more, and intervals many more."
            )
        rows, contrast = _lag(change, before, owner, provenance["seed"])
        deciles.append(rows.assign(lag=lag))
        contrasts.append({"lag": lag, **contrast})
    names = ["lag", "decile", "change", "low", "high", "surprisal", "first", "last", "count"]
    return Surprise(
        provenance=provenance,
        deciles=pd.concat(deciles, ignore_index=True).reindex(columns=names),
        contrasts=pd.DataFrame(contrasts),
    )


def _pairs(
    answers: Sequence[dict[str, np.ndarray]], documents: np.ndarray, lag: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change at each token, surprisal of the one `lag` before it, and the text: float64, int."""
    change, before, owner = [], [], []
    for answer, document in zip(answers, documents, strict=True):
        plain = answer["plain_loss"].astype(np.float64)
        change.append((answer["loss"] - plain)[lag:])
        before.append(plain[: max(0, len(plain) - lag)])
        owner.append(np.full(len(change[-1]), document))
    return np.concatenate(change), np.concatenate(before), np.concatenate(owner)


def _lag(
    change: np.ndarray, before: np.ndarray, owner: np.ndarray, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The deciles of one lag, and the difference of the outer two."""
    # By rank and not by value: ties (a text that repeats itself) leave no decile empty.
    order = np.argsort(before, kind="stable")
    decile = np.empty(len(before), dtype=int)
    decile[order] = np.arange(len(before)) * DECILES // len(before)
    texts, row = np.unique(owner, return_inverse=True)
    sums, counts = np.zeros((2, DECILES, len(texts)))
    np.add.at(sums, (decile, row), change)
    np.add.at(counts, (decile, row), 1.0)
    value, low, high = interval(sums, counts, seed=seed)
    groups = [before[decile == number] for number in range(DECILES)]
    frame = pd.DataFrame(
        {
            "decile": np.arange(1, DECILES + 1),
            "change": value,
            "low": low,
            "high": high,
            "surprisal": [group.mean() for group in groups],
            "first": [group.min() for group in groups],
            "last": [group.max() for group in groups],
            "count": counts.sum(-1).astype(int),
        }
    )
    return frame, _contrast(sums[[0, -1]], counts[[0, -1]], seed)


def _contrast(sums: np.ndarray, counts: np.ndarray, seed: int) -> dict[str, Any]:
    value, drawn = resampled(sums, counts, seed=seed)
    low, high = ends(drawn[1] - drawn[0])
    return {
        "change": float(value[1] - value[0]),
        "low": float(low),
        "high": float(high),
        "count": int(counts.sum()),
    }
