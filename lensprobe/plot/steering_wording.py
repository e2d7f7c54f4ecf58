"""What the figures of steering sweeps say, and which of their rows are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import ArgumentError, nearest
from .axes import rows_of
from .theme import number
from .wording import plural

if TYPE_CHECKING:
    from ..steering import Sweep

__all__ = [
    "NAMES",
    "chosen_layers",
    "documents",
    "measured",
    "scale_text",
    "strongest",
    "with_ends",
]

NAMES = {
    "probability": "probability of the matching answer",
    "log_odds": "log-odds of the matching answer (nats)",
    "kl": "KL from plain (nats)",
    "loss": "loss (nats a token)",
    "perplexity": "perplexity",
    "ratio": "perplexity / plain perplexity",
}
SHOWN = 4
"""Layers whose curves are drawn unless told otherwise."""


def measured(sweep: Sweep, measure: str | None) -> tuple[str, list[str]]:
    """A measure the sweep has (None: its first), and the groups that have it.

    Raises:
        ArgumentError: the sweep has no such measure.
    """
    known = list(dict.fromkeys(sweep.effects["measure"]))
    if not known:
        raise ArgumentError("this sweep kept tokens only: .plot.tokens().")
    chosen = known[0] if measure is None else measure
    if chosen not in known:
        raise ArgumentError(
            f"measure={measure!r}: this sweep has {', '.join(known)}.{nearest(str(measure), known)}"
        )
    frame = rows_of(sweep.effects, measure=chosen)
    return chosen, list(dict.fromkeys(str(name) for name in frame["group"]))


def chosen_layers(frame: pd.DataFrame, layers: int | Sequence[int] | None) -> list[int]:
    """The layers asked for; None is the one that changes most and some spread over the depth.

    Raises:
        ArgumentError: a layer that the sweep has not.
    """
    known = sorted(int(layer) for layer in frame["layer"].unique())
    if layers is not None:
        asked = [layers] if isinstance(layers, int) else [int(layer) for layer in layers]
        for layer in asked:
            if layer not in known:
                raise ArgumentError(f"layers={layers!r}: this sweep has the layers {known}.")
        return asked
    top = int(frame.loc[frame["change"].abs().idxmax(), "layer"])
    spread = np.linspace(0, len(known) - 1, min(SHOWN, len(known))).round().astype(int)
    return sorted({top, *(known[i] for i in spread)})


def strongest(sweep: Sweep, measure: str, groups: Iterable[str]) -> str:
    """The largest change of each group, and whether its interval holds zero."""
    parts = []
    for group in groups:
        frame = rows_of(sweep.effects, measure=measure, group=group)
        row = frame.loc[frame["change"].abs().idxmax()]
        plain = rows_of(sweep.plain, measure=measure, group=group).iloc[0]["value"]
        sure = row["change_low"] > 0 or row["change_high"] < 0
        parts.append(
            f"{group}, from {number(plain)} to {number(row['value'])} at layer "
            f"{int(row['layer'])} and scale {scale_text(row['scale'])}"
            + ("" if sure else " (within the noise)")
        )
    return f"Here the largest change in {NAMES[measure]} is, for {'; for '.join(parts)}."


def documents(sweep: Sweep) -> str:
    """How many questions and texts it was measured on."""
    counts = sweep.provenance.get("finished", {})
    return ", ".join(
        plural(count, "question" if name in sweep.provenance.get("asks", ()) else "text")
        for name, count in counts.items()
    )


def scale_text(value: float) -> str:
    """A scale as axes and sentences write it."""
    return f"{value:g}"


def with_ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `effects` whose `low` and `high` are those of the paired change.

    A value's own interval mostly says how much documents differ; what a curve is about is how far
    steering moves each of them.
    """
    plain = rows["value"] - rows["change"]
    low, high = plain + rows["change_low"], plain + rows["change_high"]
    if "measure" in rows and set(rows["measure"]) == {"probability"}:
        # The plain value is of all documents, the change of resampled ones: a sum may pass an end.
        low, high = low.clip(0.0, 1.0), high.clip(0.0, 1.0)
    return rows.assign(low=low, high=high)
