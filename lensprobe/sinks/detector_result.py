"""What marks a first token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..edits import Clamp
from ..errors import ArgumentError
from ..positions import all as every
from ..positions import front
from ..results import Result
from .citations import YONA

__all__ = ["FirstTokenDetector"]


@dataclass(frozen=True, repr=False, eq=False)
class FirstTokenDetector(Result):
    """The direction in which an attention layer marks first tokens, and who writes it.

    Attributes:
        heads: one row a `head` (-1 is all of them): `value`, the norm of the mean difference between a
            token alone and in its place; `share` of the direction that the head writes (they sum to 1);
            `separation`, the probability that along the direction a token alone lies above a token in
            its place, on documents that the direction was not found on (0.5 is chance).
        tokens: those documents token by token: `document`, `position`, `token`, and `value` along the
            direction, 0 at the mean of tokens in their places, 1 at that of tokens alone.
        distances: repeated tokens: `token`, `id`, `bos`, `count` of copies, `head` (-1 is all),
            `value`, the distance at the last copy from the output for the token alone, and its `ratio`
            to the norm of that output.
        direction: `[d_model]`, unit norm.
        components: `[2]`, mean component along it in place and alone, in units of the stream.
    """

    kind: ClassVar[str] = "sinks.detector"
    citations: ClassVar[tuple[str, ...]] = (YONA,)

    heads: pd.DataFrame
    tokens: pd.DataFrame
    distances: pd.DataFrame
    direction: np.ndarray
    components: np.ndarray

    @property
    def separation(self) -> float:
        """Of all heads together."""
        return float(self.heads.loc[self.heads["head"] == -1, "separation"].iloc[0])

    @property
    def strongest_head(self) -> int:
        """The head that writes the largest share of the direction."""
        own = self.heads.loc[self.heads["head"] >= 0]
        return int(own["head"].to_numpy()[own["share"].to_numpy(float).argmax()])

    def repair(self, *, amount: float = 1.0) -> Clamp:
        """An edit under which no token but the first looks like a first one to this layer.

        Behind position 0 the component along the direction is set to what tokens have in their places
        (`amount=1`), or as far beyond it as `amount - 1` of the gap between the two kinds of token.
        Use it as any other edit: `lp.generate(model, prompt, edits=detector.repair())`.

        Raises:
            ArgumentError: an amount that is not a finite number.
        """
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise ArgumentError(f"amount={amount!r}: a number.")
        if not np.isfinite(amount):
            raise ArgumentError(f"amount={amount!r}: a finite number.")
        placed, alone = (float(one) for one in self.components)
        return Clamp(
            torch.tensor(self.direction, dtype=torch.float32),
            value=placed - (amount - 1) * (alone - placed),
            layers=int(self.provenance["layer"]),
            site="attn_out",
            positions=every() - front(1),
            origin=str(self.provenance["model"]),
        )

    def summary(self) -> dict[str, Any]:
        """Model, layer, how well the direction separates, and its strongest head."""
        head = self.strongest_head
        share = self.heads.loc[self.heads["head"] == head, "share"].iloc[0]
        return {
            **super().summary(),
            "layer": int(self.provenance["layer"]),
            "separation": self.separation,
            "strongest_head": head,
            "share": float(share),
        }
