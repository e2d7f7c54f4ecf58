"""The cells of a trace: which token each layer and position is about, and how nearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .axes import finite, rows_of
from .facets import on
from .steering_parts import rgba
from .theme import Look, number
from .tokens import label

if TYPE_CHECKING:
    from ..interpolation import Trace

__all__ = ["NAMES", "Cells", "key", "tint"]

STRONGEST = 0.38
"""How much of its colour a cell takes at most: tokens must be read on it."""
FAR = 1000
"""The rank from which on a token leaves no colour."""
NAMES = {
    "both": "the next token, which was the guess",
    "next": "the next token",
    "guess": "the plain model's guess",
    "current": "the token itself",
}
"""What a position can be about, the colours' names."""


class Cells:
    """One panel's cells: which kind of token comes first there, how near to the top, in what words."""

    def __init__(
        self, found: Trace, condition: str, layers: Sequence[int], shown: Sequence[int]
    ) -> None:
        rows = rows_of(found.lens, condition=condition)
        rows = rows.loc[rows["layer"].isin(layers) & rows["position"].isin(shown)]

        def table(kind: str, column: str) -> pd.DataFrame:
            own = rows_of(rows, kind=kind)
            wide = own.pivot(index="layer", columns="position", values=column)
            return wide.reindex(index=list(layers), columns=list(shown))

        kinds = ("current", "next", "guess")
        self.layers = layers
        self.condition = condition
        self.ranks = {kind: table(kind, "rank").to_numpy(float) for kind in kinds}
        self.chances = {
            kind: table(kind, "probability").to_numpy(float) for kind in (*kinds, "top")
        }
        self.top = table("top", "token").to_numpy()
        self.tokens = found.tokens.set_index("position").loc[list(shown)]
        stacked = np.stack([np.nan_to_num(self.ranks[kind], nan=np.inf) for kind in kinds])
        self.best = np.array(kinds)[stacked.argmin(0)]
        self.near = np.clip(1 - np.log10(stacked.min(0)) / np.log10(FAR), 0, 1)
        right = (self.tokens["next"] == self.tokens["guess"]).to_numpy()
        # Of equal ranks the first counts, so "next" is what was guessed as well.
        self.best = np.where((self.best == "next") & right, "both", self.best.astype(object))

    def heat(self, kind: str, look: Look, panel: int) -> go.Heatmap:
        """The cells that are about one kind of token."""
        mine = self.best == kind
        near = np.where(mine, self.near, np.nan)
        texts = [
            [label(str(token), 7) if yes else "" for token, yes in zip(*row, strict=True)]
            for row in zip(self.top, mine, strict=True)
        ]
        return go.Heatmap(
            x=list(range(near.shape[1])),
            y=list(range(near.shape[0])),
            z=[finite(row) for row in near],
            zmin=0.0,
            zmax=1.0,
            colorscale=[
                [0.0, rgba(tint(kind, look), 0.0)],
                [1.0, rgba(tint(kind, look), STRONGEST)],
            ],
            showscale=False,
            text=texts,
            texttemplate="%{text}",
            textfont={"size": look.theme.size - 4, "color": look.theme.ink},
            xgap=1,
            ygap=1,
            customdata=self._hover(),
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            **on(panel),
        )

    def _hover(self) -> list[list[str]]:
        return [
            [self._cell(row, column) for column in range(self.near.shape[1])]
            for row in range(self.near.shape[0])
        ]

    def _cell(self, row: int, column: int) -> str:
        token = self.tokens.iloc[column]
        lines = [
            f"<b>layer {self.layers[row]}, position {self.tokens.index[column]}</b>, {self.condition}",
            f"the lens reads {label(str(self.top[row, column]))} "
            f"({number(self.chances['top'][row, column])})",
        ]
        names = {"current": token["token"], "next": token["next"], "guess": token["guess"]}
        for kind, name in names.items():
            rank = self.ranks[kind][row, column]
            if np.isfinite(rank):
                chance = number(self.chances[kind][row, column])
                lines.append(f"{kind} {label(str(name))}: rank {int(rank):,}, p = {chance}")
        return "<br>".join(lines)


def tint(kind: str, look: Look) -> str:
    """The colour of one kind of token."""
    lines = look.theme.lines
    return {"both": lines[2], "next": lines[0], "guess": lines[1], "current": lines[4]}[kind]


def key(kind: str, look: Look) -> go.Scatter:
    """The square of one kind in the legend."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        name=NAMES[kind],
        marker={
            "symbol": "square",
            "size": 11,
            "color": rgba(tint(kind, look), STRONGEST),
            "line": {"color": tint(kind, look), "width": 1.5},
        },
        hoverinfo="skip",
    )
