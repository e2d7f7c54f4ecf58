"""When a coordinate is born, stands and dies: a stated rule over its values after each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["STANDS", "stages_table"]

STANDS = 0.5
"""Share of the peak from which on a value stands. Written and erased within a layer or two, massive
activations cross it once up and once down; the share itself hardly matters."""

COLUMNS = ["dim", "position", "kind", "first", "last", "component", "value", "ratio"]
WRITERS = {"attn_out": "attn", "mlp_out": "mlp"}


def stages_table(values: pd.DataFrame) -> pd.DataFrame:
    """`Trajectory.stages` of `Trajectory.values`; see there for the rule."""
    rows = []
    for dim, position in dict.fromkeys(zip(values["dim"], values["position"], strict=True)):
        own = values.loc[(values["dim"] == dim) & (values["position"] == position)]
        rows += [{"dim": dim, "position": position, **stage} for stage in _stages(own)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _stages(part: pd.DataFrame) -> list[dict[str, Any]]:
    wide = part.pivot(index="layer", columns="site", values="value").sort_index()
    after = wide["resid_post"].to_numpy()
    layers = wide.index.to_numpy()
    if not np.isfinite(after).any():
        return []
    peak = int(np.nanargmax(np.abs(after)))
    sign = -1.0 if after[peak] < 0 else 1.0
    stands = sign * after >= STANDS * abs(after[peak])
    first, last = peak, peak
    while first > 0 and stands[first - 1]:
        first -= 1
    while last < len(after) - 1 and stands[last + 1]:
        last += 1
    ratio = part.loc[part["site"] == "resid_post"].sort_values("layer")["ratio"].to_numpy()

    def stage(kind: str, begin: int, end: int, component: str = "") -> dict[str, Any]:
        return {
            "kind": kind,
            "first": int(layers[begin]),
            "last": int(layers[end]),
            "component": component,
            "value": float(after[begin]),
            "ratio": float(ratio[begin]),
        }

    before = wide["resid_pre"].to_numpy()
    there = first == 0 and sign * before[0] >= STANDS * abs(after[peak])
    born = "embed" if there and layers[0] == 0 else _strongest(wide.iloc[first], sign)
    found = [stage("birth", first, first, born), stage("plateau", first, last)]
    found.append(stage("peak", peak, peak))
    if last + 1 < len(after):
        found.append(stage("death", last + 1, last + 1, _strongest(wide.iloc[last + 1], -sign)))
    return found


def _strongest(layer: pd.Series, sign: float) -> str:
    """The part of a layer that moved the value most in one direction."""
    moved = {name: sign * layer[site] for site, name in WRITERS.items() if site in layer.index}
    return max(moved, key=lambda name: moved[name]) if moved else ""
