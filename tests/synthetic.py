"""Made-up scans with GPT-2's published shape, so that figures and pages are tested without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensprobe.massive import MassiveScan
from lensprobe.sinks import SinkScan

HOSTILE = [
    "<s>",
    "<img src=x onerror=alert(1)>",
    "\n",
    " the",
    "🙂",
    "%{x}",
    "\u202e",
    "&lt;",
    " the",
]
DIM_447 = [53, 141, 2475, 2648, 2795, 2892, 2949, 2985, 3007, 3019, 3021, 366]
DIM_138 = [40, 611, 760, 780, 790, 796, 796, 790, 780, 770, 760, 120]
LAST = [30, 60, 180, 200, 210, 220, 230, 240, 250, 260, 270, 90]


def provenance(**changes: Any) -> dict[str, Any]:
    return {
        "model": "gpt2-made-up",
        "revision": "607a30d",
        "dtype": "float32",
        "device": "cpu",
        "bos": True,
        "site": "resid_post",
        "length": 64,
        "documents": 13,
        "sequences": 60,
        "tokens": 3840,
        "short": 2,
        "coordinates": "raw weights, nothing folded or centred",
        "complete": True,
        "versions": {"lensprobe": "0.1.0", "torch": "2.13.0"},
        "notes": ["2 texts longer than 64 tokens were split"],
        **changes,
    }


def massive_scan(
    layers: int = 12,
    *,
    empty: bool = False,
    nonfinite: int = 0,
    tokens: list[str] | None = None,
    **changes: Any,
) -> MassiveScan:
    names = HOSTILE * 6 if tokens is None else tokens
    median = np.linspace(0.59, 2.8, 12)[:layers]
    ranks = [DIM_447, DIM_138, LAST]
    if empty:
        ranks = [[v / 100 for v in rank] for rank in ranks]
    table = pd.DataFrame(
        [
            (layer, "resid_post", rank + 1, ranks[rank][layer] * 1.05, float(ranks[rank][layer]),
             median[layer], ranks[rank][layer] / median[layer])
            for layer in range(layers)
            for rank in range(3)
        ],
        columns=["layer", "site", "rank", "value", "mean", "median", "ratio"],
    )  # fmt: skip
    return MassiveScan(
        provenance=provenance(**{"thresholds": {"magnitude": 100.0, "ratio": 1000.0}, **changes}),
        layers=table,
        findings=_findings(layers, [*names, *HOSTILE]).iloc[: 0 if empty else None],
        kinds=_kinds(layers),
        nonfinite=pd.DataFrame(
            {"layer": [0], "site": ["resid_post"], "position": [3], "count": [nonfinite]}
        ),
        trajectories=_trajectories(layers).iloc[: 0 if empty else None],
        landscape=_landscape(len(names)) if names else np.zeros((0, 768), np.float32),
        landscape_tokens=list(names),
        landscape_layer=min(8, layers - 1),
    )


def _findings(layers: int, names: list[str]) -> pd.DataFrame:
    top, last = min(8, layers - 1), min(10, layers - 1)
    first = min(2, layers - 1)
    rows = [
        (447, 0, names[0], "first", top, first, last, 3012.4, 8.5, 1.0, 60, 1300.0),
        (138, 0, names[0], "first", min(5, last), first, last, 796.0, 4.0, 1.0, 60, 1010.0),
        (378, -1, names[1], "other", last, last, last, -131.0, 12.0, 0.4, 24, 1001.0),
    ]
    columns = [
        "dim",
        "position",
        "token",
        "kind",
        "layer",
        "first",
        "last",
        "value",
        "std",
        "share",
    ]
    return pd.DataFrame(rows, columns=[*columns, "count", "ratio"])


def _kinds(layers: int) -> pd.DataFrame:
    rows = [
        (layer, "resid_post", kind, size * 1.4, size, count)
        for layer in range(layers)
        for kind, size, count in (
            ("first", float(DIM_447[layer]), 60),
            ("delimiter", 30.0 + 4 * layer, 300),
            ("other", 20.0 + 5 * layer, 3480),
        )
    ]
    return pd.DataFrame(rows, columns=["layer", "site", "kind", "value", "mean", "count"])


def _trajectories(layers: int) -> pd.DataFrame:
    rows = [
        (dim, 0, layer, "resid_post", sign * values[layer], 0.01 * values[layer], 60)
        for dim, sign, values in ((447, 1, DIM_447), (138, -1, DIM_138))
        for layer in range(layers)
    ]
    return pd.DataFrame(rows, columns=["dim", "position", "layer", "site", "value", "std", "count"])


def _landscape(tokens: int) -> np.ndarray:
    full = np.random.default_rng(0).normal(0, 3, (tokens, 768)).astype(np.float32)
    full[:, [447, 138, 378]] *= 8
    full[0, 447], full[0, 138], full[0, 378] = 3012.4, -790.0, 250.0
    return full


def sink_scan(
    layers: int = 12,
    heads: int = 12,
    keys: int = 4,
    *,
    tokens: list[str] | None = None,
    **changes: Any,
) -> SinkScan:
    rng = np.random.default_rng(1)
    depth = np.clip(np.arange(layers) / max(1, layers - 1) * 4, 0, 1)
    base = depth[:, None] * rng.uniform(0.2, 0.95, (layers, heads))
    rows = []
    for layer in range(layers):
        for head in range(heads):
            for key in range(keys):
                value = float(base[layer, head] if key == 0 else 0.04 / key)
                rows.append((layer, head, key, value, float(np.clip(value * 1.1, 0, 1)), 60))
    frame = pd.DataFrame(rows, columns=["layer", "head", "key", "value", "sink_rate", "count"])
    by_layer = frame.groupby(["layer", "key"], as_index=False)[["sink_rate", "value"]].mean()
    first = frame[frame["key"] == 0]
    ratio = np.exp(-2.5 * first["value"] + rng.normal(0, 0.2, len(first)) + 0.3)
    profile = pd.DataFrame(
        {
            "layer": first["layer"].to_numpy(),
            "head": first["head"].to_numpy(),
            "entropy": (3.2 * (1 - first["value"])).to_numpy(),
            "value_norm": ratio.to_numpy() * 2.0,
            "other_norm": 2.0,
            "ratio": ratio.to_numpy(),
        }
    )
    return SinkScan(
        provenance=provenance(**{"site": "attn.pattern", "epsilon": 0.3, "keys": keys, **changes}),
        heads=frame,
        layers=by_layer,
        profile=profile,
        key_tokens=list(HOSTILE[:keys] if tokens is None else tokens),
    )
