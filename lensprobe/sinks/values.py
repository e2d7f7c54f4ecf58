"""What sits at a sink: small values, and a key that queries point at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..citations import GU, GUO
from ..corpus import Batch, Corpus
from ..costs import Plan
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.weights import weights_of
from ..planning import plan
from ..results import Result
from ..scanning import Hooks, Scan
from ..settings import current
from ..statistics import Bundle, Moments
from ..tokens import Bos
from .checks import checked_position
from .rotation import Turns, key_points, rotations
from .scan import LENGTH

__all__ = ["SinkValues", "values"]

MEASURES = ("value", "written", "key", "query", "cosine", "product")


@dataclass(frozen=True, repr=False, eq=False)
class SinkValues(Result):
    """Values and keys at a sink position against all other positions.

    Attributes:
        heads: one row a layer, head and `measure`: its `value` at the sink, the mean of `others`, and
            the `ratio` of the two (not of cosines); `count` of sequences.

            - "value": norm of the value vector; "written": norm of v · W_O, which is what the head
              would add to the stream if it attended there alone (Guo et al. 2410.13835)
            - "key": norm of the key; "query": norm of the queries after the sink (`others`: all)
            - "cosine": cosine of a query with the key, over queries after the sink; `others`: the
              mean over the other keys up to the query
            - "product": norm of the query times norm of the key, the same pairs. The score before
              its scale is product times cosine: where the sink's product is no larger and its cosine
              is, heads find it by an angle and not by a norm (Gu et al. 2410.10781, section 6)
    """

    kind: ClassVar[str] = "sinks.values"
    citations: ClassVar[tuple[str, ...]] = (GU, GUO)

    heads: pd.DataFrame

    def measure(self, name: str) -> pd.DataFrame:
        """The rows of one measure."""
        return self.heads.query("measure == @name").reset_index(drop=True)

    def summary(self) -> dict[str, Any]:
        """Model, position, and the median over heads of each measure at the sink and elsewhere."""
        middle = self.heads.groupby("measure", sort=False)[["value", "others", "ratio"]].median()
        facts = {**super().summary(), "position": int(self.provenance["position"])}
        for name in ("written", "key"):
            facts[f"{name}_ratio"] = float(middle.loc[name, "ratio"])
        facts["cosine"] = float(middle.loc["cosine", "value"])
        facts["other_cosine"] = float(middle.loc["cosine", "others"])
        return facts


def values(
    model: Any,
    texts: Any,
    *,
    position: int = 0,
    length: int | None = None,
    layers: int | Sequence[int] | Literal["all"] = "all",
    bos: Bos = "auto",
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
    dry_run: bool | None = None,
) -> SinkValues | Plan:
    """Norms of values and keys at a sink, and the angle between queries and its key.

    Every number is a mean over a sequence's tokens first and over sequences then. Keys and queries are
    as the scores see them, after rotary turns and norms of their own; with grouped queries, heads of
    a group share keys and values. Sequences that end at the position or before it are left out.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.sinks.scan` takes, as one corpus.
        position: of the sink, from 0.
        length: window in tokens, BOS included; None is 64.
        layers: which layers are read; layers above the last of them are not run.
        bos, limit, column, batch_tokens, progress, dry_run: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: an argument out of range, no texts, a position that no text has.
        ModelError: packed weights, LoRA layers that are not merged, an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `SinkValues` of the finished batches.

    Examples:
        >>> found = lp.sinks.values(model, "The cat sat on the mat.")
        >>> row = found.heads.query("layer == 2 and head == 1 and measure == 'value'").iloc[0]
        >>> round(float(row["value"]), 3), round(float(row["others"]), 3)  # drained at the sink
        (0.0, 1.0)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.values")
    chosen = adapter.layers(layers)
    corpus = Corpus(
        adapter, texts, bos=bos, length=length, longest=LENGTH, limit=limit, column=column,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    checked_position(position, corpus.length)
    run = Scan(adapter, corpus, _Reading(adapter, chosen, position, corpus.length))
    if current("dry_run", dry_run):
        return plan(run)
    return run.run(_finish, progress=progress)


class _Reading:
    """Hooks at queries, keys and values of every chosen layer; see `scanning.Reading`.

    The statistics, Moments `[L, H]` over sequences: each measure at the sink, and `other_` elsewhere.
    """

    def __init__(
        self, adapter: Adapter, layers: tuple[int, ...], position: int, length: int
    ) -> None:
        self.layers = layers
        self.last = layers[-1]
        self.position = position
        self.heads, self.groups, self.width = adapter.n_heads, adapter.n_kv_heads, adapter.d_head
        points = [key_points(adapter, layer) for layer in layers]
        self.queries = [names[0] for names, _ in points]
        self.keys = [names[1] for names, _ in points]
        self.turns: list[tuple[Turns, Turns] | None] = [
            rotations(adapter, layer, length) if turn == "hidden" else None
            for layer, (_, turn) in zip(layers, points, strict=True)
        ]
        self.values = [adapter.hook_name("attn.v", layer) for layer in layers]
        weights = weights_of(adapter)
        self.outputs = [weights.output_norms(n) for n in layers]

    def open(self, batch: Batch) -> tuple[Hooks, Callable[[], Bundle]]:
        """See `scanning.Reading`."""
        seen = _Seen(self, batch)
        hooks: dict[str, Callable[[Tensor], None]] = {}
        for index in range(len(self.layers)):
            hooks[self.values[index]] = partial(seen.value, index)
            hooks[self.queries[index]] = partial(seen.query, index)
            hooks[self.keys[index]] = partial(seen.key, index)
        return hooks, seen.collect

    def blank(self) -> Bundle:
        """The statistics of no sequence at all."""
        shape = (len(self.layers), self.heads)
        return Bundle(
            {f"{side}{name}": Moments(shape) for name in MEASURES for side in ("", "other_")}
        )

    def check(self, part: Bundle) -> None:
        """See `scanning.Reading`."""
        self.blank().check(part)

    def by_head(self, x: Tensor, heads: int) -> Tensor:
        """`[batch pos head d_head]` float32 of what a hook sees, all heads, keys shared out."""
        x = x.detach().float().flatten(2).unflatten(-1, (heads, -1))
        return x.repeat_interleave(self.heads // x.shape[2], dim=2)


class _Seen:
    """What the hooks of one batch have left so far: `[batch head]` at the sink and elsewhere."""

    def __init__(self, reading: _Reading, batch: Batch) -> None:
        self.reading = reading
        self.batch = batch
        places = torch.arange(batch.tokens.ids.shape[1])
        real = batch.tokens.mask.cpu()
        self.after = real & (places > reading.position)
        self.others = real & (places != reading.position)
        self.turned: dict[int, Tensor] = {}
        self.found: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def _mean(self, x: Tensor, counted: Tensor) -> Tensor:
        """Mean over the counted tokens of `[batch pos head]`; NaN where there are none."""
        counted = counted.to(x.device)[..., None]
        # where, because pads may hold anything, NaN too.
        return torch.where(counted, x, 0.0).double().sum(1) / counted.sum(1)

    def _norms(self, name: str, layer: int, norm: Tensor) -> None:
        at = norm[:, self.reading.position].double()
        self.found[name, layer] = at, self._mean(norm, self.others)

    def value(self, layer: int, value: Tensor) -> None:
        value = self.reading.by_head(value, self.reading.groups)
        written = torch.einsum(
            "bthd,hwd->bthw", value, self.reading.outputs[layer].to(value.device)
        )
        self._norms("value", layer, value.norm(dim=-1))
        self._norms("written", layer, written.norm(dim=-1))

    def _turned(self, layer: int, side: int, x: Tensor) -> Tensor:
        """As the scores see it, where no hook point shows that."""
        turns = self.reading.turns[layer]
        if turns is None:
            return x
        return torch.einsum("pij,bphj->bphi", turns[side][: x.shape[1]].to(x), x)

    def query(self, layer: int, query: Tensor) -> None:
        by_head = self.reading.by_head(query, self.reading.heads)
        self.turned[layer] = self._turned(layer, 0, by_head)

    def key(self, layer: int, key: Tensor) -> None:
        # Queries come first on both classes.
        query, place = self.turned.pop(layer), self.reading.position
        key = self._turned(layer, 1, self.reading.by_head(key, self.reading.groups))
        sizes, lengths = query.norm(dim=-1), key.norm(dim=-1)
        self._norms("key", layer, lengths)
        self.found["query", layer] = self._mean(sizes, self.after), self._mean(sizes, self.after)
        unit, points = query / sizes[..., None], key / lengths[..., None]
        # Keys up to each query, the sink's left out: sums over keys and not a pattern.
        steps = torch.arange(1, key.shape[1] + 1, device=key.device)[:, None] - 1
        cosine = (unit * points[:, place, None]).sum(-1)
        rest = points.cumsum(1) - points[:, place, None]
        other = (unit * rest).sum(-1) / steps
        product = sizes * lengths[:, place, None]
        other_product = sizes * (lengths.cumsum(1) - lengths[:, place, None]) / steps
        for name, at, elsewhere in (
            ("cosine", cosine, other),
            ("product", product, other_product),
        ):
            self.found[name, layer] = self._mean(at, self.after), self._mean(elsewhere, self.after)

    def collect(self) -> Bundle:
        """The statistics of the batch."""
        parts = self.reading.blank()
        usable = self.after.any(1).numpy()
        for name in MEASURES:
            for which, label in enumerate((name, f"other_{name}")):
                found = [self.found[name, n][which] for n in range(len(self.reading.layers))]
                table = torch.stack(found, 1).cpu().numpy()
                parts[label].update(table[usable])
        return parts


def _finish(run: Scan, complete: bool) -> SinkValues:
    reading, total = run.reading, run.total
    assert isinstance(reading, _Reading)
    assert total is not None
    facts = run.provenance(complete)
    if not total["value"].count.any():
        raise ArgumentError(f"position={reading.position}: no text has a token after it.")
    left_out = facts["sequences"] - int(total["value"].count.max())
    if left_out:
        facts["notes"].append(
            f"{left_out} of {facts['sequences']} sequences have no token after position "
            f"{reading.position} and are left out"
        )
    layer, head = np.meshgrid(reading.layers, range(reading.heads), indexing="ij")
    frames = []
    for name in MEASURES:
        at, others = total[name].result(), total[f"other_{name}"].result()["mean"]
        with np.errstate(divide="ignore", invalid="ignore"):
            # Cosines have signs and zeros; a ratio of two says nothing.
            ratio = at["mean"] / others if name != "cosine" else np.full_like(others, np.nan)
        frames.append(
            pd.DataFrame(
                {
                    "layer": layer.reshape(-1),
                    "head": head.reshape(-1),
                    "measure": name,
                    "value": at["mean"].reshape(-1),
                    "others": others.reshape(-1),
                    "ratio": ratio.reshape(-1),
                    "count": at["count"].reshape(-1),
                }
            )
        )
    provenance = {
        **facts,
        "site": "attn.q, attn.k, attn.v",
        "layers": list(reading.layers),
        "position": reading.position,
    }
    return SinkValues(provenance=provenance, heads=pd.concat(frames, ignore_index=True))
