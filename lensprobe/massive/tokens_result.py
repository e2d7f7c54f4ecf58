"""Which first tokens get a massive activation, and whether the position or the token brings it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..results import Result
from .result import SUN

__all__ = ["STANDS", "TokenStudy"]

STANDS = 0.5
"""Share of the value in texts from which on a token counts as having it."""
YONA = """@inproceedings{yona2025interpreting,
  title = {Interpreting the Repeated Token Phenomenon in Large Language Models},
  author = {Yona, Itay and Shumailov, Ilia and Hayes, Jamie and Carlini, Nicholas},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2025},
  eprint = {2503.08908},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True, repr=False, eq=False)
class TokenStudy(Result):
    """A coordinate of the residual after one layer, for many first tokens.

    Every table has `dim` and `layer`. `ratio` is to the value at position 0 of the texts as they are
    (`causes`, kind "plain"). A token *has* the activation where that ratio is at least one half.

    Attributes:
        groups: one row with and without BOS (`bos`) and `kind` of token ("all", "delimiter",
            "special", "other", and "bos" itself): `position` read, mean `value`, `std`, `low` and
            `high` (smallest and largest), `share` of the tokens that have it, `count`.
        tokens: one row a token of the sample and `bos`: `id`, `token`, `kind`, the `position` it is
            at (1 behind BOS), `value`, `ratio`.
        exceptions: the rows of `tokens` that are unlike the others with the same `bos`: without it
            where most have it, with it where most do not.
        delimiters: delimiters inside the texts: `token`, `kind` ("first", the first delimiter of
            its text, or "later"; "other" for all other tokens behind position 0), `value`, `std`,
            `ratio`, `share` that have it, `count`.
        causes: position or token. One row a change (`kind`) and `position` read: `value`, `std`,
            `ratio`, `count` of texts, and `why` there is no value where the model lacks what would be
            changed. "embedding zero": of the first token. "token moved": the first token, swapped
            with a later one; "another token first": the one it was swapped with. "token repeated":
            copies behind it. "position swapped": the first token with a later one's position
            embedding; "position given": a later token with the first one's. "positions shifted": all
            of them. "sees only itself": a later token that attends to nothing else, in all layers.
    """

    kind: ClassVar[str] = "massive.tokens"
    citations: ClassVar[tuple[str, ...]] = (SUN, YONA)

    groups: pd.DataFrame
    tokens: pd.DataFrame
    exceptions: pd.DataFrame
    delimiters: pd.DataFrame
    causes: pd.DataFrame

    def cause(self, dim: int | None = None) -> str:
        """What brings it: "position", "token", "either" or "both", by a stated rule.

        Position: most other tokens have it when they come first (the sample without BOS). Token: the
        first token of the texts still has it at a later position. Either suffices where both hold,
        both are needed where neither does. "unknown" where the texts have one token only.
        """
        chosen = int(self.causes["dim"].iloc[0]) if dim is None else dim
        groups, causes = self.groups, self.causes
        alone = (groups["dim"] == chosen) & (groups["kind"] == "all") & ~groups["bos"]
        moved = (causes["dim"] == chosen) & (causes["kind"] == "token moved")
        shares = groups.loc[alone, "share"].to_numpy(float)
        ratios = causes.loc[moved, "ratio"].to_numpy(float)
        if not len(shares) or not len(ratios) or np.isnan(ratios).any():
            return "unknown"
        position, token = bool((shares >= STANDS).all()), bool((ratios >= STANDS).all())
        if position and token:
            return "either"
        return "position" if position else "token" if token else "both"

    def summary(self) -> dict[str, Any]:
        """Model, and for the first coordinate how many first tokens have it, and what brings it."""
        plain = self.causes.iloc[0]
        facts = {
            **super().summary(),
            "dim": int(plain["dim"]),
            "layer": int(plain["layer"]),
            "value": float(plain["value"]),
        }
        groups = self.groups
        own = (groups["dim"] == plain["dim"]) & (groups["kind"] == "all")
        for bos, share in groups.loc[own, ["bos", "share"]].itertuples(index=False):
            facts["share_after_bos" if bos else "share_first"] = float(share)
        facts["cause"] = self.cause()
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
