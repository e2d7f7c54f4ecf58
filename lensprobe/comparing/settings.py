"""What two results must have in common before their numbers mean the same thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["cautions", "settings_table"]

OWN = (
    *("model", "revision", "source", "adapter", "quantisation", "package", "device", "line"),
    *("versions", "notes", "complete", "user_hooks", "short", "sequences", "seconds", "shape"),
    *("n_layers", "n_heads", "d_model"),
)
"""Facts that belong to a model or to a run, and may well differ."""

SAID = {"bos": "BOS"}
WHY = {
    "bos": "with and without BOS another token stands at position 0",
    "length": "sink rates and means over positions change with the length of the windows",
    "dtype": "values were rounded differently",
    "coordinates": "folding and centring shift every residual value",
    "site": "another point of the block was read",
    "documents": "not the same texts were read",
    "texts": "not the same texts were read",
    "tokens": "the texts were cut into other tokens, so nats a token are over other tokens",
    "training": "dropout is on in one of them",
}


def settings_table(facts: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a setting that is not the same in all of them, and result: `setting`, `model`, `value`.

    The four that move every number (BOS, length, dtype, coordinates) come first.
    """
    names = dict.fromkeys([*WHY, *(name for given in facts.values() for name in given)])
    rows = []
    for name in names:
        if name in OWN:
            continue
        told = {label: _text(given.get(name)) for label, given in facts.items()}
        if len(set(told.values())) > 1:
            rows += [(name, label, value) for label, value in told.items()]
    return pd.DataFrame(rows, columns=["setting", "model", "value"])


def cautions(settings: pd.DataFrame) -> list[str]:
    """A sentence for each setting that differs and that numbers are known to depend on."""
    sentences = []
    for name, why in WHY.items():
        rows = settings[settings["setting"] == name]
        if len(rows):
            given = ", ".join(
                f"{value} ({label})"
                for label, value in zip(rows["model"], rows["value"], strict=True)
            )
            sentences.append(f"{SAID.get(name, name)} differs: {given}; {why}.")
    others = [name for name in dict.fromkeys(settings["setting"]) if name not in WHY]
    if others:
        sentences.append(f"asked with other settings: {', '.join(others)}.")
    return sentences


def _text(value: Any) -> str:
    if value is None:
        return "not said"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
