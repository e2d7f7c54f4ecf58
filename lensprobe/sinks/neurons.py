"""Sink neurons: the few whose removal takes the massive activation away, and the sink with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus import positive_whole
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..models.weights import Projection, Weights, weights_of
from ..running.batching import buckets
from ..running.session import hooked
from ..running.silencing import other_neurons, silence_neurons
from ..settings import current
from ..tokens import Bos, Encoded, TokenBatch
from .comparing import compared, threshold
from .heads import HeadStatistics, head_statistics
from .neurons_result import Neurons
from .onset import Onset, onset_of
from .trials import Material, each_run, material

__all__ = ["neurons"]


@torch.no_grad()
def neurons(
    model: Any,
    texts: Any,
    *,
    n: int = 8,
    layer: int | None = None,
    ratio: float = 0.1,
    repeats: int = 3,
    epsilon: float = 0.3,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Neurons:
    """Find the neurons that make the sink, after Yona et al. (2503.08908), and take them away.

    The neurons of the sink layer are ranked by the norm of what they write at position 0: the
    activation behind the nonlinearity (on a gated MLP the product with the gate, not the gate alone)
    times the row of `W_out`, through the norm behind it where a block has one. Each of the first `n`
    is silenced by itself; those without which the massive value loses `ratio` of its size are the
    sink neurons, and are silenced together, against as many random neurons of the layer.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.sinks.scan` takes.
        n: how many of the ranked neurons are silenced one by one.
        layer: the sink layer; None finds it (see `provenance["notes"]` of the result).
        ratio: least share of the massive value that goes with a sink neuron.
        repeats: draws of random neurons.
        epsilon: least attention of a sink, exclusive (Gu et al. 2410.10781).
        bos, length, limit, column: as in `lp.sinks.scan`; `length` None is 64.
        seed: of the draws and the bootstrap.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: an argument out of range; a text of one token.
        ModelError: an encoder-decoder; weights that cannot be read; a layer without neurons.
        HookPointError: the model keeps no attention patterns.
        Interrupted: Ctrl-C; `.partial` is the `Neurons` of the finished runs.

    Examples:
        >>> found = lp.sinks.neurons(model, "The cat sat on the mat.", n=4, repeats=1, seed=0)
        >>> found.kept  # (layer, neuron)
        ((1, 11), (1, 42))
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.neurons")
    weights = weights_of(adapter)
    count, draws = positive_whole("n", n), positive_whole("repeats", repeats)
    least, epsilon = _ratio(ratio), threshold(epsilon)
    chosen = current("seed", seed) or 0
    read = material(
        adapter, texts, bos=bos, length=length, limit=limit, column=column,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    onset = onset_of(adapter, layer)
    ranking = _ranking(weights, read.rows, onset.layer, batch_tokens)
    run = _Run(adapter, weights, read, onset, epsilon, batch_tokens)
    tops = [int(neuron) for neuron in ranking["neuron"].iloc[:count]]
    tried = [_Trial("plain")] + [_Trial("alone", (neuron,)) for neuron in tops]
    found, complete = each_run(tried, run.measured, progress=progress)
    if not found:
        raise Interrupted("interrupted before the plain run was done.")
    kept = _kept(found, onset, tops, least)
    if complete and kept:
        own = [(onset.layer, neuron) for neuron in kept]
        more = [_Trial("together", kept)]
        for draw in range(draws):
            others = other_neurons(weights, own, chosen + draw)
            more.append(_Trial("random", tuple(neuron for _, neuron in others), draw))
        rest, complete = each_run(more, run.measured, progress=progress)
        tried, found = tried + more[: len(rest)], found + rest
    result = run.result(tried[: len(found)], found, ranking.iloc[: max(count, 50)], kept, chosen)
    result.provenance.update({"n": count, "ratio": least, "repeats": draws, "complete": complete})
    if not complete:
        raise Interrupted(f"interrupted after {len(found)} runs.", partial=result)
    return result


def _ratio(ratio: Any) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise ArgumentError(f"ratio={ratio!r}: a share of the massive value, above 0, at most 1.")
    return float(ratio)


@dataclass(frozen=True)
class _Trial:
    """Neurons of the sink layer that are silent in one run."""

    kind: str
    neurons: tuple[int, ...] = ()
    draw: int = -1


@dataclass
class _Run:
    """The sequences, and how a run of them is measured."""

    adapter: Adapter
    weights: Weights
    read: Material
    onset: Onset
    epsilon: float
    batch_tokens: int | None

    def measured(self, trial: _Trial) -> HeadStatistics:
        """One run with a trial's neurons silent."""
        chosen = [(self.onset.layer, neuron) for neuron in trial.neurons]
        hooks = silence_neurons(self.weights, chosen)
        return head_statistics(
            self.adapter, self.read.rows, hooks=hooks, batch_tokens=self.batch_tokens
        )

    def result(
        self,
        tried: Sequence[_Trial],
        found: Sequence[HeadStatistics],
        ranking: pd.DataFrame,
        kept: Sequence[int],
        seed: int,
    ) -> Neurons:
        ones = np.ones(len(self.read.rows))
        values = np.stack([one.largest[:, self.onset.layer, 0] for one in found])
        sums = {
            "value": (values, ones),
            "sink_rate": (np.stack([one.sink_rate(self.epsilon) for one in found]), ones),
            "loss": (np.stack([one.loss for one in found]), found[0].count),
        }
        labels = {
            "kind": [trial.kind for trial in tried],
            "neuron": [t.neurons[0] if t.kind == "alone" else -1 for t in tried],
            "draw": [trial.draw for trial in tried],
            "count": [len(trial.neurons) for trial in tried],
        }
        notes = [*self.read.notes, self.onset.note]
        if not kept:
            notes.append("no single neuron takes that share of the massive value with it")
        return Neurons(
            provenance={
                **self.adapter.provenance(),
                **self.read.facts,
                **self.onset.facts(),
                "site": "mlp.post",
                "position": 0,
                "epsilon": self.epsilon,
                "seed": seed,
                "kept": list(kept),
                "notes": notes,
            },
            effects=compared(sums, self.read.documents, labels, base=[0] * len(tried), seed=seed),
            ranking=ranking.assign(kept=ranking["neuron"].isin(kept)),
        )


def _kept(
    found: Sequence[HeadStatistics], onset: Onset, tops: Sequence[int], least: float
) -> tuple[int, ...]:
    """Neurons without which the mean massive value falls to `1 - least` of the plain one."""
    plain, *alone = (float(one.largest[:, onset.layer, 0].mean()) for one in found)
    return tuple(
        neuron for neuron, value in zip(tops, alone, strict=False) if value <= (1 - least) * plain
    )


def _ranking(
    weights: Weights, rows: Sequence[Encoded], layer: int, batch_tokens: int | None
) -> pd.DataFrame:
    """Every neuron of the layer by the norm that it writes at position 0, mean over sequences."""
    adapter, projection = weights.adapter, weights.mlp(layer)
    stop = None if adapter.user_hooks() else layer + 1
    seen: list[Tensor] = []
    # What comes later does not change position 0; hooks of the user's own still see whole texts.
    few = rows if stop is None else list(dict.fromkeys(Encoded(row.ids[:1]) for row in rows))
    weight = np.array([sum(row.ids[0] == one.ids[0] for row in rows) for one in few], dtype=float)
    point = adapter.hook_name("mlp.post", layer)
    order: list[int] = []
    with hooked(adapter, {point: lambda post: seen.append(post[:, 0].detach().float())}):
        for group in buckets(few, batch_tokens):
            batch = TokenBatch.pad(adapter, [few[index] for index in group])
            order += group
            adapter.run(batch.ids, mask=batch.mask if batch.ragged else None, stop=stop)
    if stop is None:
        weight[:] = 1.0
    post = torch.cat(seen)
    shares = torch.from_numpy(weight[order] / weight.sum()).to(post)[:, None]
    activation = (post * shares).sum(0)
    scale = projection.scale(post)[:, None]
    norms = ((post * scale).abs() * shares).sum(0) * written_norms(projection)
    frame = pd.DataFrame(
        {
            "layer": layer,
            "neuron": np.arange(len(norms)),
            "activation": activation.double().cpu().numpy(),
            "norm": norms.double().cpu().numpy(),
        }
    )
    frame["share"] = frame["norm"] / frame["norm"].sum()
    frame = frame.sort_values("norm", ascending=False, kind="stable").reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame


def written_norms(projection: Projection) -> Float[Tensor, " neuron"]:
    """Norm of each row of `W_out` as it reaches the stream, but for the scale of the pass."""
    matrix = projection.matrix.detach().float()
    norm = projection.norm
    if norm is not None:
        # The norm behind the MLP is linear at the scale of one pass: its gain, and its centring.
        matrix = matrix - matrix.mean(1, keepdim=True) if norm.centred else matrix
        matrix = matrix * norm.gain.to(matrix)
    return matrix.norm(dim=1)
