"""What the figures of interpolated texts share."""

from __future__ import annotations

from typing import Any

from .theme import number

__all__ = ["CONDITIONS", "blend_of"]

CONDITIONS = ("interpolated", "plain")
"""The two models that are set side by side, as columns name them."""


def blend_of(result: Any) -> str:
    """Where and how much, in a few words: `weight 0.3 after layer 9`."""
    blend = result.provenance["blend"]
    layers, weights = list(blend["layers"]), [float(weight) for weight in blend["weights"]]
    even = min(weights) == max(weights)
    ends = [weights[0]] if even else [min(weights), max(weights)]
    weight = " to ".join(number(end) for end in ends)
    if len(layers) == 1:
        return f"weight {weight} after layer {layers[0]}"
    run = layers == list(range(layers[0], layers[-1] + 1))
    where = f"{layers[0]} to {layers[-1]}" if run else ", ".join(map(str, layers))
    return f"weight {weight} after layers {where}"
