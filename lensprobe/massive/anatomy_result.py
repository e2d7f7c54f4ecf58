"""What a massive activation is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from ..citations import ELHAGE
from ..results import Result
from .result import SUN

__all__ = ["Anatomy"]

YU = """@article{yu2024super,
  title = {The Super Weight in Large Language Models},
  author = {Yu, Mengxia and Wang, De and Shan, Qi and Reed, Colorado J. and Wan, Alvin},
  journal = {arXiv preprint arXiv:2411.07191},
  year = {2024}
}"""


@dataclass(frozen=True, repr=False, eq=False)
class Anatomy(Result):
    """One coordinate of the residual stream as an exact sum, and what carries most of it.

    Every table has `dim` and `position`; numbers are means over sequences, `share` is relative to the
    coordinate's value after the layer it was taken apart at. Where there is no layer or no head (the
    embedding, a bias), `layer` or `head` is -1.

    Attributes:
        components: the parts of the sum: `component` ("embed", "pos_embed", "head", "attn_bias",
            "mlp", "mlp_bias" and "remainder", what rounding or an edit left), `layer`, `head`,
            `value`, `std`, `share`. Their values sum to the coordinate's.
        values: one row a coordinate: the `layer` it was taken apart at, its `value` there, `std`,
            `count` of sequences, and the `remainder`.
        layers: one row a `component` ("embed", "pos_embed", "attn", "mlp") and `layer`, as far as was
            read: `value` added, `std`, `total` after it, and `kind`: "writer" or "eraser" where it
            adds or takes at least a share `threshold` of the coordinate's value, else "".
        neurons: every neuron of the writing and erasing MLPs: `activation` (after the gate, where
            there is one), `weight` (`W_out[neuron, dim]`), `scale` (of the norm behind the MLP, with
            its gain; 1 without one), `value` (the mean of their product), `share`.
        sources: the heads of the writing and erasing attention layers by `key` position: `token` there,
            `probability` (the attention paid to it), `value` (what the head brings from it), `share`.
        weights: the smallest set of neurons whose contributions sum to 95% of the value, and with them
            of single weights `W_out[neuron, dim]`, largest first: `rank`, `layer`, `neuron`,
            `activation`, `weight`, `value`, `share`, `total` (the share so far). Empty where neurons
            do not carry that much.
        ablations: with `ablate`, the model without them: `kind` ("plain"; "neurons", the set's rows
            of `W_out` set to zero; "weights", only their single weights; "random neurons", as many
            others of the same layers; "weight", one single weight alone, with its `layer` and
            `neuron`), `count` of what was zeroed, the coordinate's `value` then, its `share` of the
            plain one, and the `loss` in nats.
    """

    kind: ClassVar[str] = "massive.anatomy"
    citations: ClassVar[tuple[str, ...]] = (SUN, YU, ELHAGE)

    components: pd.DataFrame
    values: pd.DataFrame
    layers: pd.DataFrame
    neurons: pd.DataFrame
    sources: pd.DataFrame
    weights: pd.DataFrame
    ablations: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Model, and of the first coordinate its value, main writer, and how few weights carry it."""
        first = self.values.iloc[0]
        writer = self._writer(first)
        weights = self.weights
        own = (weights["dim"] == first["dim"]) & (weights["position"] == first["position"])
        facts = {
            **super().summary(),
            "dim": int(first["dim"]),
            "position": int(first["position"]),
            "layer": int(first["layer"]),
            "value": float(first["value"]),
            "remainder": float(first["remainder"]),
            "writer": writer,
            "weights": int(own.sum()),
        }
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts

    def _writer(self, first: Any) -> str:
        """The layer that adds most to a coordinate, in the direction of its value."""
        layers = self.layers
        own = (layers["dim"] == first["dim"]) & (layers["position"] == first["position"])
        until = layers.loc[own & (layers["layer"] <= first["layer"])]
        signed = until["value"].to_numpy(float) * (-1.0 if first["value"] < 0 else 1.0)
        top = until.iloc[int(signed.argmax())]
        return f"{top['component']} {int(top['layer'])}" if top["layer"] >= 0 else top["component"]
