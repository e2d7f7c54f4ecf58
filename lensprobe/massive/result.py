"""What a massive-activation scan found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..errors import ArgumentError
from ..results import Result

__all__ = ["Finding", "MassiveScan"]

SUN = """@inproceedings{sun2024massive,
  title = {Massive Activations in Large Language Models},
  author = {Sun, Mingjie and Chen, Xinlei and Kolter, J. Zico and Liu, Zhuang},
  booktitle = {Conference on Language Modeling (COLM)},
  year = {2024},
  eprint = {2402.17762},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class Finding:
    """One massive activation: what `at=` takes, so that nobody types its dimension twice.

    Attributes:
        dim: dimension of the site.
        position: token position; -1 where it is not always the same.
        layers: scanned layers from the first to the last at which it is massive.
        site: where it was read.
        value: mean signed value at the layer where it is strongest.

    Examples:
        >>> known = lp.massive.Finding(447, 0, (1, 2, 3), "resid_post", 3000.0)
        >>> lp.massive.trajectory(model, "The cat sat.", at=known).summary()["birth"]
        1
    """

    dim: int
    position: int
    layers: tuple[int, ...]
    site: str
    value: float


@dataclass(frozen=True, repr=False, eq=False)
class MassiveScan(Result):
    """Massive activations of a corpus, after Sun et al. (2402.17762).

    Attributes:
        layers: one row a layer and rank (1 to 3): `value` the largest magnitude of that rank over
            all sequences, `mean` its mean over sequences, `median` the mean over sequences of the
            median magnitude of the whole hidden state, `ratio` mean / median.
        findings: one row a massive activation, strongest first: `dim`, `position` (-1: not always
            the same), `token` (the most common one there), `kind`, `layer` (where it is strongest),
            `first` and `last` layer, `value` (mean signed value at `layer`) and `std`, `share` of
            sequences that show it at any layer, `count` of tokens that show it at `layer`, `ratio`
            of |value| to the median there.
        kinds: one row a layer and kind of token: `value` the largest magnitude, `mean` over tokens
            of each token's largest magnitude, `count` of tokens.
        nonfinite: one row a layer and position that had any: `count` of infinite and NaN numbers,
            which enter nothing else.
        trajectories: for each finding at position 0 and every scanned layer: mean signed `value`,
            `std` and `count` over sequences.
        landscape: float32 `[pos dim]`, the first text's leading positions at `landscape_layer`.
        landscape_tokens: its tokens.
        landscape_layer: the layer of the strongest finding, or the last one scanned.
    """

    kind: ClassVar[str] = "massive.scan"
    citations: ClassVar[tuple[str, ...]] = (SUN,)

    layers: pd.DataFrame
    findings: pd.DataFrame
    kinds: pd.DataFrame
    nonfinite: pd.DataFrame
    trajectories: pd.DataFrame
    landscape: np.ndarray
    landscape_tokens: list[str]
    landscape_layer: int

    @property
    def strongest(self) -> Finding:
        """The finding with the largest mean magnitude.

        Raises:
            ArgumentError: the scan found none.
        """
        return self.at(0)

    def at(self, index: int) -> Finding:
        """The finding in row `index` of `findings`.

        Raises:
            ArgumentError: there is no such row.
        """
        if not len(self.findings):
            raise ArgumentError(
                "no massive activation was found; lower threshold or ratio, or name a dim."
            )
        if not -len(self.findings) <= index < len(self.findings):
            raise ArgumentError(f"at({index}): there are {len(self.findings)} findings.")
        row, scanned = self.findings.iloc[index], self.provenance["layers"]
        return Finding(
            dim=int(row["dim"]),
            position=int(row["position"]),
            layers=tuple(n for n in scanned if row["first"] <= n <= row["last"]),
            site=str(self.provenance["site"]),
            value=float(row["value"]),
        )

    def summary(self) -> dict[str, float | int | str | bool]:
        """Model, texts, and the strongest massive activation if there is one."""
        facts: dict[str, Any] = {
            **super().summary(),
            "site": str(self.provenance["site"]),
            "sequences": int(self.provenance["sequences"]),
            "findings": len(self.findings),
            "nonfinite": int(self.nonfinite["count"].sum()),
        }
        if len(self.findings):
            row = self.findings.iloc[0]
            facts |= {name: int(row[name]) for name in ("dim", "position", "layer")}
            facts["value"] = float(row["value"])
        if not self.provenance["complete"]:
            facts["complete"] = False
        return facts
