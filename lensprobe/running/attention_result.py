"""The attention patterns of one text, in bytes, with exact measures of every head."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..citations import ELHAGE, GU
from ..errors import ArgumentError
from ..results import Result

__all__ = ["Attention"]


@dataclass(frozen=True, repr=False, eq=False)
class Attention(Result):
    """Every attention pattern of one text.

    The tables are computed from the weights before they are rounded, in float32 or wider.

    Attributes:
        heads: one row a layer and head, means over queries: `entropy` in nats; `value`, the attention
            to the first token (Gu et al. 2410.10781); `previous`, to the token before the query (Elhage
            et al. 2021), NaN in a text of one token; `own`, to the query itself.
        tokens: one row a token: `position`, `token`, `id`, and `value`, the attention that it gets from
            itself and all later tokens, mean over queries, layers and heads.
        patterns: uint8 `[layers heads query key]`, weights in steps of 1/255; what is not finite is 0
            there and counted in the provenance.
        layers: which layers they are.
    """

    kind: ClassVar[str] = "attention"
    citations: ClassVar[tuple[str, ...]] = (GU, ELHAGE)
    steps: ClassVar[int] = 255
    """A byte `b` stands for the weight `b / steps`, at most half a step from the exact one."""

    heads: pd.DataFrame
    tokens: pd.DataFrame
    patterns: np.ndarray
    layers: list[int]

    def pattern(self, layer: int, head: int) -> np.ndarray:
        """float32 `[query key]` of one head, within 1/510 of what the model computed.

        Raises:
            ArgumentError: that layer or head is not in this result.
        """
        count = self.patterns.shape[1]
        if layer not in self.layers or isinstance(head, bool) or head not in range(count):
            raise ArgumentError(
                f"layer={layer!r}, head={head!r}: this result has the layers {self.layers} and the "
                f"heads 0 to {count - 1}."
            )
        return self.patterns[self.layers.index(layer), head].astype(np.float32) / self.steps

    def summary(self) -> dict[str, Any]:
        """Model, tokens, layers, heads, and what the first token gets from all of them."""
        known = self.heads.dropna(subset=["value"])
        facts: dict[str, Any] = {
            **super().summary(),
            "tokens": len(self.tokens),
            "layers": len(self.layers),
            "heads": self.patterns.shape[1],
            "first_token": float(known["value"].mean()),
        }
        for name, column in (("strongest_sink", "value"), ("strongest_previous", "previous")):
            if self.heads[column].notna().any():
                top = self.heads.loc[self.heads[column].idxmax()]
                where = f"L{int(top['layer'])}H{int(top['head'])}"
                facts[name] = f"{where} ({float(top[column]):.2f})"
        return facts

    def _repr_html_(self) -> str:
        """The table, and the heads as a grid that opens one of them."""
        view = importlib.import_module("lensprobe.reporting.attention_view")
        return super()._repr_html_() + view.notebook(self)
