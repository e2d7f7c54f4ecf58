"""Does the massive activation make the sink?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Edit, Set
from ..errors import Interrupted
from ..massive import Ablate, Finding, MassiveScan, ablate
from ..models.adapter import Adapter, adapter_for
from ..models.weights import weights_of
from ..positions import at as at_position
from ..running.batching import buckets
from ..running.session import Hook, Session, hooked, prompt_step
from ..running.silencing import silence_neurons, silence_weights
from ..tokens import Bos, Encoded, TokenBatch
from .cause_result import Cause
from .comparing import threshold
from .trials import LENGTH, material

__all__ = ["cause"]

WIDE = ("sink_rate", "attention", "loss", "kl")


@torch.no_grad()
def cause(
    model: Any,
    texts: Any,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    method: str | Sequence[str] = "all",
    repeats: int = 4,
    epsilon: float = 0.3,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Cause:
    """Take the massive activation away as `lp.massive.ablate` does, and see what is left of the sink.

    Each way is beside its control, and beside what it leaves of the number: neurons that were
    silenced may leave a third of it, which says as much about the sink as taking all of it. Where the
    sink stays with the number gone, something else makes it.

    Args:
        model: a TransformerLens model. No tensor of it is changed.
        texts: whatever `lp.massive.scan` takes; every text must go on after the position.
        at, dim, position: the coordinate, as in `lp.massive.ablate`; None is the strongest.
        layer: after which layer it is overwritten; None is where it is born.
        method: "all", or some of the kinds of `lp.massive.ablate`.
        repeats: draws of each random kind.
        epsilon: least attention of a sink, exclusive.
        bos: whether sequences begin with BOS.
        length: longest sequence in tokens; longer texts are split. None is 64, at which published
            sink rates are given.
        limit, column: as in `lp.massive.scan`.
        seed: of the draws and the bootstrap; None draws one and stores it.
        batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: see `lp.massive.ablate`.
        HookPointError: the model keeps no attention patterns.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Cause` of the finished sequences.

    Examples:
        >>> found = lp.sinks.cause(model, "The cat sat on the mat.", dim=447, method="zero")
        >>> [round(float(found.cause(kind)["sink_rate"]), 3) for kind in ("plain", "zero")]
        [0.125, 0.0]
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.cause")
    least = threshold(epsilon)
    length = min(LENGTH, adapter.context) if length is None else length
    # Read twice: by the ablations, and here for what they leave.
    texts = list(islice(texts, limit)) if isinstance(texts, Iterator) else texts
    corpus = {"bos": bos, "length": length, "limit": limit, "column": column}
    stopped: Interrupted | None = None
    try:
        found = ablate(
            model, texts, at=at, dim=dim, position=position, layer=layer, method=method,
            repeats=repeats, epsilon=least, seed=seed, batch_tokens=batch_tokens,
            progress=progress, **corpus,
        )  # fmt: skip
    except Interrupted as interrupt:
        if interrupt.partial is None:
            raise
        found, stopped = interrupt.partial, interrupt
    rows = material(adapter, texts, batch_tokens=batch_tokens, **corpus).rows
    left = _Left(adapter, rows, found, batch_tokens)
    result = Cause(
        provenance={**found.provenance, "peak": left.peak},
        causes=_table(found, left),
        effects=found.effects.copy(),
    )
    if stopped is not None:
        raise Interrupted(str(stopped), partial=result)
    return result


def _table(found: Ablate, left: _Left) -> pd.DataFrame:
    kinds = list(dict.fromkeys(found.effects["kind"]))
    plain = dict(zip(found.plain["measure"], found.plain["value"], strict=True))
    wide = found.effects.pivot(index="kind", columns="measure", values="value").loc[kinds]
    counts = dict(zip(found.effects["kind"], found.effects["count"], strict=True))
    values = [left.value(kind) for kind in ("plain", *kinds)]
    table = pd.DataFrame(
        {
            "kind": ["plain", *kinds],
            "count": [0, *(int(counts[kind]) for kind in kinds)],
            "value": values,
            "ratio": [value / values[0] if values[0] else np.nan for value in values],
        }
    )
    for name in WIDE:
        own = wide[name].tolist() if name in wide else [np.nan] * len(kinds)
        table[name] = [float(plain.get(name, 0.0 if name == "kl" else np.nan)), *own]
    table["change"] = table["loss"] - table["loss"].iloc[0]
    return table


@dataclass
class _Left:
    """What each kind of ablation leaves of a coordinate.

    Nothing after its position is read: no later token can change it.

    Attributes:
        peak: after which layer it is largest in the plain run, and is read.
    """

    adapter: Adapter
    texts: Sequence[Encoded]
    found: Ablate
    batch_tokens: int | None
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        facts = self.found.provenance
        self.dims = [int(dim) for dim in facts["dims"]]
        self.position, self.layer = int(facts["position"]), int(facts["layer"])
        rows = [row for row in self.texts if len(row) > self.position + 1]
        whole = bool(self.adapter.user_hooks())
        # Hooks of the user's may want to see the later tokens.
        self.rows = rows if whole else [Encoded(row.ids[: self.position + 1]) for row in rows]
        self.stop = None if whole else self.adapter.n_layers
        plain = self._vectors((), {}).mean(1)
        self.plain = plain[:, self.dims[0]]
        self.peak = int(self.plain[self.layer :].abs().argmax()) + self.layer
        self.mean = plain[self.layer]

    def value(self, kind: str) -> float:
        """Its signed mean over sequences, after layer `peak`."""
        if kind == "plain":
            return float(self.plain[self.peak])
        edits, hooks = self._taken(kind)
        return float(self._vectors(edits, hooks)[self.peak, :, self.dims[0]].mean())

    def _taken(self, kind: str) -> tuple[list[Edit], Mapping[str, Hook]]:
        sets: Any = self.found.sets
        # Of random kinds the first draw.
        rows: Any = sets[(sets["kind"] == kind) & (sets["draw"] <= 0)]
        if kind in ("neurons", "weights", "random neurons"):
            pairs = [(int(a), int(b)) for a, b in zip(rows["layer"], rows["neuron"], strict=True)]
            weights = weights_of(self.adapter)
            if kind == "weights":
                entries = [(n, neuron, dim) for n, neuron in pairs for dim in self.dims]
                return [], silence_weights(weights, entries)
            return [], silence_neurons(weights, pairs)
        dims = None if kind == "vector mean" else [int(dim) for dim in rows["dim"]]
        mean = self.mean if dims is None else self.mean[dims]
        value: Any = mean.float() if kind.endswith("mean") else 0.0
        place = at_position(self.position)
        return [Set(value=value, dim=dims, layers=self.layer, positions=place)], {}

    def _vectors(self, edits: Sequence[Edit], hooks: Mapping[str, Hook]) -> Tensor:
        """The residual at the position after every layer, float64 `[layer row d_model]`."""
        adapter, found = self.adapter, []
        points = [adapter.hook_name("resid_post", layer) for layer in range(adapter.n_layers)]
        for group in buckets(self.rows, self.batch_tokens):
            seen: dict[str, Tensor] = {}

            def reader(name: str, seen: dict[str, Tensor] = seen) -> Hook:
                return lambda x: seen.__setitem__(name, x[:, self.position].double().cpu())

            batch = TokenBatch.pad(adapter, [self.rows[i] for i in group])
            probes = {name: reader(name) for name in points}
            with Session(adapter, edits, probes) as session, hooked(adapter, hooks):
                session.read(prompt_step(batch), batch.ids, stop=self.stop)
            found.append(torch.stack([seen[name] for name in points]))
        return torch.cat(found, dim=1)
