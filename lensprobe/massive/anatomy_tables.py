"""The parts of a coordinate, read and averaged → the tables of its anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..tokens import Encoded, token_strings
from .decomposition import EMBED, Decomposition, Parts
from .target import Target

__all__ = ["CARRIES", "Tables", "joined"]

CARRIES = 0.95
"""Share of the value that the smallest set of neurons and of single weights is to carry."""
EMPTY: dict[str, dict[str, type]] = {
    "components": {"component": str, "layer": int, "head": int, "value": float, "std": float,
                   "share": float},
    "values": {"layer": int, "value": float, "std": float, "count": int, "remainder": float},
    "layers": {"component": str, "layer": int, "value": float, "std": float, "total": float,
               "kind": str},
    "neurons": {"layer": int, "neuron": int, "activation": float, "weight": float, "scale": float,
                "value": float, "share": float},
    "sources": {"layer": int, "head": int, "key": int, "token": str, "probability": float,
                "value": float, "share": float},
    "weights": {"rank": int, "layer": int, "neuron": int, "activation": float, "weight": float,
                "value": float, "share": float, "total": float},
    "ablations": {"kind": str, "layer": int, "neuron": int, "count": int, "value": float,
                  "share": float, "loss": float},
}  # fmt: skip
"""Columns of each table after `dim` and `position`, with their types."""


class Tables:
    """The tables of one coordinate, taken apart after one layer.

    Attributes:
        layer: which; the layer of the largest |value| where None was asked for.
        value: mean of the coordinate there.
    """

    def __init__(
        self, plan: Decomposition, index: int, layer: int | None, threshold: float
    ) -> None:
        self.plan = plan
        self.index = index
        self.target: Target = plan.targets[index]
        self.parts: Parts = plan.parts[index]
        after = self.parts.after.mean
        self.layer = int(np.argmax(np.abs(after))) if layer is None else layer
        self.value = float(after[self.layer])
        self.threshold = threshold
        self.layers = self._layers()

    def share(self, values: np.ndarray) -> np.ndarray:
        """Relative to the coordinate's value, with its sign."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(values) / self.value

    def _frame(self, name: str, **columns: Any) -> pd.DataFrame:
        where = {"dim": self.target.dim, "position": self.target.position}
        frame = pd.DataFrame({**columns})
        for place, (column, value) in enumerate(where.items()):
            frame.insert(place, column, value)
        return frame.reindex(columns=[*where, *EMPTY[name]])

    def components(self) -> pd.DataFrame:
        """The parts of the sum, and what they leave."""
        labels = self.plan.components
        inside = [i for i, (_, layer, _) in enumerate(labels) if layer <= self.layer]
        moments = self.parts.components.result()
        value, std = moments["mean"][inside], moments["std"][inside]
        rest = self.value - value.sum()
        chosen = [*(labels[i] for i in inside), ("remainder", EMBED, EMBED)]
        value = np.append(value, rest)
        return self._frame(
            "components",
            component=[component for component, _, _ in chosen],
            layer=[layer for _, layer, _ in chosen],
            head=[head for _, _, head in chosen],
            value=value,
            std=np.append(std, 0.0),
            share=self.share(value),
        )

    def _layers(self) -> pd.DataFrame:
        moments = self.parts.layers.result()
        names, places = ["embed", "pos_embed"], [EMBED, EMBED]
        keep = [True, self.plan.positional]
        for n in range(self.plan.last + 1):
            names += ["attn", "mlp"]
            places += [n, n]
            keep += [self.plan.has_attention[n], self.plan.has_mlp[n]]
        value, inside = moments["mean"], np.array(keep)
        share = self.share(value)
        kind = np.select(
            [share >= self.threshold, share <= -self.threshold], ["writer", "eraser"], ""
        )
        return self._frame(
            "layers",
            component=np.array(names)[inside],
            layer=np.array(places)[inside],
            value=value[inside],
            std=moments["std"][inside],
            total=value.cumsum()[inside],
            kind=kind[inside],
        )

    def values(self) -> pd.DataFrame:
        """Where it was taken apart, and its value there."""
        rest = float(self.components()["value"].iloc[-1])
        return self._frame(
            "values",
            layer=[self.layer],
            value=[self.value],
            std=[float(self.parts.after.result()["std"][self.layer])],
            count=[int(self.parts.after.count[self.layer])],
            remainder=[rest],
        )

    def _open(self, component: str) -> list[int]:
        """Layers whose attention or MLP writes or erases."""
        frame = self.layers
        chosen = frame[(frame["component"] == component) & (frame["kind"] != "")]
        return [int(layer) for layer in chosen["layer"]]

    def _weights(self) -> np.ndarray:
        """`W_out[neuron, dim]` of every neuron, in the order of `Decomposition.neurons`."""
        columns = [mlp[self.index].projection.matrix for mlp in self.plan.mlp if mlp]
        found = [matrix[:, self.target.dim].detach().double().cpu().numpy() for matrix in columns]
        return np.concatenate([np.zeros(0), *found])

    def _scales(self) -> np.ndarray:
        """What is between activation × weight and the contribution, for every neuron."""
        norms = [mlp[self.index].projection.norm for mlp in self.plan.mlp if mlp]
        gains = [1.0 if norm is None else float(norm.gain[self.target.dim]) for norm in norms]
        scales = self.parts.scales.mean * np.array(gains)
        counts = [len(mlp[self.index].weights) for mlp in self.plan.mlp if mlp]
        return np.repeat(scales, counts)

    def neurons(self) -> pd.DataFrame:
        """All neurons of the writing and erasing MLPs, the largest contribution of a layer first."""
        layer, neuron = self.plan.neurons.T
        value = self.parts.neurons.mean
        chosen = np.flatnonzero(np.isin(layer, self._open("mlp")))
        chosen = chosen[np.lexsort((-np.abs(value[chosen]), layer[chosen]))]
        return self._frame(
            "neurons",
            layer=layer[chosen],
            neuron=neuron[chosen],
            activation=self.parts.activations.mean[chosen],
            weight=self._weights()[chosen],
            scale=self._scales()[chosen],
            value=value[chosen],
            share=self.share(value[chosen]),
        )

    def sources(self, rows: Sequence[Encoded]) -> pd.DataFrame:
        """The heads of the writing and erasing attention layers, by the position they read."""
        shape = (-1, self.plan.adapter.n_heads, self.target.position + 1)
        layers = np.flatnonzero(self.plan.has_attention)
        chosen = np.flatnonzero(np.isin(layers, self._open("attn")))
        if not self.plan.patterns or not len(chosen):
            return self._frame("sources", **{name: [] for name in EMPTY["sources"]})
        value = self.parts.sources.mean.reshape(shape)[chosen]
        layer, head, key = np.indices(value.shape)
        tokens = np.array(_common(self.plan.adapter.model, rows, shape[-1]), dtype=object)
        return self._frame(
            "sources",
            layer=layers[chosen][layer.reshape(-1)],
            head=head.reshape(-1),
            key=key.reshape(-1),
            token=tokens[key.reshape(-1)],
            probability=self.parts.patterns.mean.reshape(shape)[chosen].reshape(-1),
            value=value.reshape(-1),
            share=self.share(value.reshape(-1)),
        )

    def weights(self) -> pd.DataFrame:
        """The fewest neurons whose contributions sum to `CARRIES` of the value."""
        layer, neuron = self.plan.neurons.T
        share = np.where(layer <= self.layer, self.share(self.parts.neurons.mean), -np.inf)
        # No other set of k neurons carries more than the k largest.
        order = np.argsort(-share, kind="stable")
        total = np.cumsum(share[order])
        enough = np.flatnonzero(total >= CARRIES)
        order = order[: int(enough[0]) + 1] if len(enough) else order[:0]
        return self._frame(
            "weights",
            rank=np.arange(1, len(order) + 1),
            layer=layer[order],
            neuron=neuron[order],
            activation=self.parts.activations.mean[order],
            weight=self._weights()[order],
            value=self.parts.neurons.mean[order],
            share=share[order],
            total=total[: len(order)],
        )

    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        found = []
        if not self.plan.patterns:
            found.append("attention keeps no patterns here (load it eager): sources are missing")
        largest = float(np.abs(self.layers["total"]).max())
        # Each addition rounds to the stream's own precision, at the size the coordinate has by then.
        allowed = (2 * self.layer + 4) * self.plan.epsilon * max(largest, abs(self.value))
        rest = float(self.components()["value"].iloc[-1])
        if abs(rest) > allowed:
            found.append(
                f"{self.target}: {rest:.4g} of {self.value:.4g} is in no component: an edit or a hook "
                "writes to it, or this architecture adds something that is not known here"
            )
        neurons = self.parts.neurons.mean[self.plan.neurons[:, 0] <= self.layer]
        most = float(np.clip(self.share(neurons), 0, None).sum()) if self.value else 0.0
        if most < CARRIES:
            found.append(
                f"{self.target}: neurons carry at most {most:.0%} of the value, so no set of them "
                f"carries {CARRIES:.0%}"
            )
        return found


def joined(name: str, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all coordinates; its columns keep their types when there is no row."""
    full = [frame for frame in frames if len(frame)]
    kinds = {"dim": int, "position": int, **EMPTY[name]}
    frame = pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=list(kinds))
    return frame.astype({name: kind for name, kind in kinds.items() if kind is not str})


def _common(model: Any, rows: Sequence[Encoded], count: int) -> list[str]:
    """The most common token at each of the first positions."""
    ids = np.array([row.ids[:count] for row in rows])
    most = []
    for column in ids.T:
        values, counts = np.unique(column, return_counts=True)
        most.append(int(values[np.argmax(counts)]))
    return token_strings(getattr(model, "tokenizer", None), most)
