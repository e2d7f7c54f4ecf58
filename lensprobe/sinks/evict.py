"""The first keys leave the cache, or were never there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..corpus import Corpus, positive_whole
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import Outcome, each_group
from ..running.fanning import tokens_that_fit
from ..running.measures import losses
from ..settings import current
from ..tokens import Bos, Encoded, TokenBatch
from .comparing import compared, documents_table, threshold
from .evict_result import Evict
from .sight import Sight, read

__all__ = ["evict"]

WINDOWS = 4
"""How many windows a sequence is long where no length is given."""
AS_READ = (
    "this model's positions are not rotary: keys keep the position at which they were read, because "
    "one that was added to the embedding cannot be changed in the cache"
)
TWICE = "hooks of your own met each sequence twice, side by side, where first keys were kept"


@torch.no_grad()
def evict(
    model: Any,
    texts: Any,
    *,
    keep: int | Sequence[int] = (0, 1, 2, 4, 8),
    window: int = 64,
    epsilon: float = 0.3,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Evict:
    """Streaming with a cache of `window` keys, the first few kept or not (Xiao et al. 2309.17453).

    A query attends to the first `keep` keys and to the latest, `window` in all, its own included;
    what has left is never seen again. Positions are counted inside the cache, so that distances to
    the kept keys stop growing. All of that is computed in one pass a run and equals reading token by
    token over a cache that evicts (`sinks.sight` says why).

    Masking the first keys from the start is another thing and stands beside it: then the next
    token sees nothing before it, and takes the sink over.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.sinks.scan` takes, long enough that keys leave the cache.
        keep: how many of the first keys stay, one number or several.
        window: most keys that a query sees.
        epsilon: least attention of a sink, exclusive.
        bos: whether sequences begin with BOS.
        length: longest sequence in tokens; longer texts are split. None is four windows.
        limit, column: as in `lp.sinks.scan`.
        seed: of the bootstrap.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: a window that is not larger than every `keep`; texts that all end before
            anything is predicted behind a full cache.
        HookPointError: the model computes attention without scores that can be read.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Evict` of the finished sequences.

    Examples:
        >>> text = "The cat sat on the mat, and the dog lay on the log."
        >>> found = lp.sinks.evict(model, text, keep=[0, 1], window=16)
        >>> [round(float(found.effect("perplexity", "evicted", n)["value"]), 1) for n in (0, 1)]
        [20.1, 10.0]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.evict")
    kept = _kept(keep, window)
    least = threshold(epsilon)
    corpus = Corpus(
        adapter, texts, bos=bos, length=length, longest=WINDOWS * window, limit=limit,
        column=column, batch_tokens=batch_tokens,
    )  # fmt: skip
    windows = list(corpus.windows())
    long = [one for one in windows if len(one.ids) > window + 1]
    if not long:
        raise ArgumentError(
            f"window={window}: the longest of these texts has "
            f"{max(len(one.ids) for one in windows)} tokens; to predict one behind a full cache it "
            f"takes {window + 2}. Longer texts, a larger length= or a smaller window= will do."
        )
    rotary = str(getattr(adapter.model.cfg, "positional_embedding_type", "")) == "rotary"
    sights = [Sight("plain", 0, window), *(Sight("evicted", n, window) for n in kept)]
    sights += [Sight("masked", n, window) for n in kept if n]
    run = _Run(adapter, [Encoded(one.ids) for one in long], sights, rotary, least)
    outcome = each_group(
        run.rows,
        run.work,
        batch_tokens=tokens_that_fit(adapter, batch_tokens),
        progress=progress,
    )
    notes = [*corpus.notes(corpus.read), *outcome.notes, *([] if rotary else [AS_READ])]
    if len(long) < len(windows):
        notes.append(
            f"{len(windows) - len(long)} sequences of up to {window + 1} tokens were left out: "
            "nothing is predicted in them behind a full cache"
        )
    if adapter.user_hooks() and rotary and max(kept):
        notes.append(TWICE)
    seeded = current("seed", seed)
    facts = {
        **adapter.provenance(),
        "bos": corpus.bos,
        "length": corpus.length,
        "window": window,
        "keep": list(kept),
        "epsilon": least,
        "positions": "inside the cache" if rotary else "as read",
        "seed": 0 if seeded is None else seeded,
        "sequences": len(long),
        "notes": notes,
    }
    return _finished(run, outcome, [one.document for one in long], facts)


def _kept(keep: Any, window: Any) -> tuple[int, ...]:
    size = positive_whole("window", window)
    given = list(keep) if isinstance(keep, Sequence) else [keep]
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ArgumentError(f"keep={keep!r}: whole numbers from 0 on.")
    if not given:
        raise ArgumentError("keep=(): give at least one number.")
    if max(given) >= size:
        raise ArgumentError(
            f"window={window!r}: {max(given)} kept keys leave no room for the latest; "
            "a window is larger than keep."
        )
    return tuple(sorted(set(given)))


@dataclass
class _One:
    """What all runs left of one sequence: losses `[run token]`, attention `[run layer head]`."""

    losses: np.ndarray
    attention: np.ndarray


@dataclass
class _Run:
    adapter: Adapter
    rows: list[Encoded]
    sights: list[Sight]
    rotary: bool
    epsilon: float

    def work(self, index: list[int]) -> list[_One]:
        """Some sequences in all runs."""
        batch = TokenBatch.pad(self.adapter, [self.rows[i] for i in index])
        each = [self._under(batch, sight) for sight in self.sights]
        losses, attention = (np.stack(part, 1) for part in zip(*each, strict=True))
        lengths = batch.lengths - 1
        return [_One(losses[i, :, :length], attention[i]) for i, length in enumerate(lengths)]

    def _under(self, batch: TokenBatch, sight: Sight) -> tuple[np.ndarray, np.ndarray]:
        """Losses `[row token]` and attention to the oldest key `[row layer head]` of one run."""
        oldest = sight.oldest(batch.ids.shape[1])[sight.window :]
        late = batch.mask[:, sight.window :]
        found: dict[str, np.ndarray] = {}

        def probe(name: str) -> Any:
            def see(pattern: Tensor) -> None:
                rows = pattern[:, :, sight.window :].float()
                place = oldest.to(rows.device).expand(*rows.shape[:2], -1)[..., None]
                paid = rows.gather(-1, place)[..., 0]
                real = late.to(rows.device)[:, None]
                # where, because rows of pads may hold anything, NaN too.
                total = torch.where(real, paid, 0.0).double().sum(-1) / real.sum(-1)
                found[name] = total.cpu().numpy()

            return see

        layers = range(self.adapter.n_layers)
        names = [self.adapter.hook_name("attn.pattern", layer) for layer in layers]
        probes = {name: probe(name) for name in names}
        logits = read(self.adapter, batch, sight, rotary=self.rotary, probes=probes)
        lost = torch.stack(
            # Row by row: the float32 copy of all logits at once would be most of the memory.
            [losses(row[:-1], ids[1:]) for row, ids in zip(logits, batch.ids, strict=True)]
        )
        return lost.double().cpu().numpy(), np.stack([found[name] for name in names], 1)


def _finished(
    run: _Run, outcome: Outcome[_One], documents: Sequence[int], facts: dict[str, Any]
) -> Evict:
    if not outcome.answers:
        raise Interrupted("interrupted before the first sequences were read.")
    order = sorted(outcome.answers)
    ones = [outcome.answers[i] for i in order]
    own = [documents[i] for i in order]
    window = run.sights[0].window
    counts = np.array([one.losses.shape[1] - window for one in ones], dtype=float)
    each = np.ones(len(ones))
    sums = {
        "loss": (np.stack([one.losses[:, window:].sum(1) for one in ones], 1), counts),
        "attention": (np.stack([one.attention.mean((1, 2)) for one in ones], 1), each),
        "sink_rate": (
            np.stack([(one.attention > run.epsilon).mean((1, 2)) for one in ones], 1),
            each,
        ),
    }
    labels = {"kind": [s.kind for s in run.sights], "keep": [s.keep for s in run.sights]}
    result = Evict(
        provenance={**facts, "finished": len(ones), "complete": outcome.complete},
        effects=compared(sums, own, labels, base=[0] * len(run.sights), seed=int(facts["seed"])),
        curve=_curve(ones, labels),
        documents=documents_table(sums, own, labels),
    )
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(ones)} of {len(run.rows)} sequences.", partial=result
        )
    return result


def _curve(ones: Sequence[_One], labels: dict[str, list[Any]]) -> pd.DataFrame:
    longest = max(one.losses.shape[1] for one in ones)
    runs = len(labels["kind"])
    padded = np.full((len(ones), runs, longest), np.nan)
    for row, one in zip(padded, ones, strict=True):
        row[:, : one.losses.shape[1]] = one.losses
    return pd.DataFrame(
        {
            **{name: np.repeat(values, longest) for name, values in labels.items()},
            "position": np.tile(np.arange(longest), runs),
            "loss": np.nanmean(padded, 0).reshape(-1),
            "count": np.isfinite(padded).sum(0).reshape(-1),
        }
    )
