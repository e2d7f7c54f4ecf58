"""The loss of every token of a text whose later tokens saw what really came, in one pass."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from ..corpus import Batch, Window
from ..costs import Plan
from ..errors import ArgumentError, Interrupted
from ..models.adapter import adapter_for
from ..settings import OnError, Progress, checked_seed, current
from ..shards.keeping import Keeper
from ..tokens import Bos
from .blend import Blend, Norm, Target, resolve_blend
from .blended import Blended
from .score_result import InterpolatedScore, score_result
from .texts import Texts

__all__ = ["score"]


@torch.no_grad()
def score(
    model: Any,
    texts: Any,
    *,
    layer: Any = None,
    weight: Any = None,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    reference: bool = True,
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
) -> InterpolatedScore | Plan:
    """Next-token losses where every earlier position's late residual is blended with its next token.

    Token j + 1 is predicted as if from a pass over tokens 0 to j in which the residual after block
    `layer` at every position t < j is `(1 - weight) * h + weight * e(token t + 1)`, and j itself is
    left alone: what sampling with the same interpolation would have said. One pass computes it for
    all tokens: from the blended block up a *content* stream, which later tokens see, beside a *query*
    stream, which predicts. The idea of late layers that see the actual next token is a public note's
    on the logit lens.

    Args:
        model: a TransformerLens model.
        texts: as in `lp.massive.scan`. Longer ones are split into windows that overlap by a quarter;
            each token counts once.
        layer: after which block, or several. Required; nothing sees what is blended after the last.
        weight: 0 is the plain model, 1 replaces; or one for each layer. Required.
        target: what is blended in; see `resolve_blend`: "embedding", "unembedding", "early" or a layer.
        norm: "match" scales it to what it replaces, both without massive dimensions; "raw"; a number.
        keep_first: leave position 0, whose massive activation holds the attention sinks up, alone.
        below: only where the plain model's probability of the next token was below this.
        extrapolate: allow weights outside [0, 1].
        reference: score the plain model too; without it, what it would say is NaN.
        length: longest window in tokens, BOS included; None is the context, at most 1,024.
        out: a folder for what is finished. The same call with the same folder goes on where the last
            one ended and gives the same numbers; at its end the result is there for `lp.open(out)`.
        on_error: "raise" (what None is, unless `lp.options` says otherwise) or "skip" at a text that
            cannot be read, or has no second token; the notes in `.provenance` say which.
        seed: of the bootstrap in `.change()`.
        dry_run: True to return the `Plan` of the call instead of running it.

    Raises:
        ArgumentError: no layer or weight, one out of range, an empty text or one of one token, ids
            that the model does not have.
        ModelError: an encoder-decoder; weights that cannot be read.
        OutputError: `out` cannot be written, or holds another run or other texts.
        Interrupted: Ctrl-C; `.partial` holds the windows that were finished.

    Examples:
        >>> found = lp.interpolation.score(
        ...     model, "The cat sat on the mat.", layer=1, weight=1, keep_first=False
        ... )
        >>> round(found.loss - found.plain_loss, 2)  # without the massive activation at position 0
        0.66
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
    if not isinstance(reference, bool):
        raise ArgumentError(f"reference={reference!r}: True or False.")
    corpus = {"bos": bos, "length": length, "limit": limit, "column": column, "on_error": on_error}
    read = Texts[dict[str, np.ndarray]].of(adapter, texts, batch_tokens=batch_tokens, **corpus)
    chosen = checked_seed(seed) or 0

    def work(batch: Batch) -> list[dict[str, np.ndarray]]:
        return scored(blend, batch, reference=reference)

    if current("dry_run", dry_run):
        return read.plan(work, {**adapter.provenance(), "blend": blend.provenance()})
    keeper = (
        None
        if out is None
        else Keeper(out, "interpolation.score", {**blend.provenance(), "reference": reference})
    )
    read.read(work, progress=progress, keeper=keeper, left=left)
    facts = {**read.provenance(), "blend": blend.provenance(), "seed": chosen}
    facts["notes"] += unseen(blend)
    result = score_result(adapter, read.windows, read.answers, facts)
    if not read.complete:
        raise Interrupted("interrupted; .partial holds what was finished.", partial=result)
    if keeper is not None:
        keeper.stored(result)
    return result


def unseen(blend: Blend) -> list[str]:
    """A note where a blend writes what nobody reads."""
    last = blend.adapter.n_layers - 1
    if last not in blend.layers:
        return []
    return [f"layer {last} is the last: no later block looks back at what is blended after it"]


def counted(window: Window) -> slice:
    """The columns whose predictions count. Column k predicts token k + 1; a window's first tokens
    may be an earlier one's."""
    return slice(max(1, window.again) - 1, len(window.ids) - 1)


def left(window: Window) -> dict[str, int]:
    """How many numbers `scored` gives of a window."""
    new = counted(window)
    names = ("loss", "rank", "plain_loss", "plain_rank")
    return dict.fromkeys(names, new.stop - new.start)


def scored(blend: Blend, batch: Batch, *, reference: bool) -> list[dict[str, np.ndarray]]:
    """Loss and rank of each window's new tokens, with and without the blend; float32 `[token]`."""
    read = Blended(
        blend.adapter,
        batch.tokens,
        blend.layers,
        early=blend.early,
        logits=reference or blend.below is not None or blend.plain,
    )
    numbers = {"": read.predicted(read.logits(blend))}
    if reference:
        numbers["plain_"] = read.predicted(read.plain)
    arrays = {
        f"{prefix}{name}": getattr(found, name).cpu().numpy()
        for prefix, found in numbers.items()
        for name in ("loss", "rank")
    }
    answers = []
    for row, window in enumerate(batch.windows):
        new = counted(window)
        answer = {name: values[row, new] for name, values in arrays.items()}
        nothing = np.full(len(answer["loss"]), np.nan, np.float32)
        answers.append({"plain_loss": nothing, "plain_rank": nothing, **answer})
    return answers
