"""What a watched step leaves in the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .account import laid_out
from .moments import moment_of
from .watching import Reading
from .writer import Writer

__all__ = ["MAGNITUDE", "RATIO", "Trace", "peak_row", "reading_row"]

MAGNITUDE, RATIO = 100.0, 1000.0
"""Massive, after Sun et al. (2402.17762, section 2.2)."""


def reading_row(step: int, reading: Reading) -> dict[str, Any]:
    """A row of `steps`."""
    ratio = abs(reading.value) / reading.median if reading.median else float("nan")
    return {
        "step": step,
        **asdict(reading.place),
        "value": reading.value,
        "median": reading.median,
        "ratio": ratio,
        "loss": reading.loss,
        "sink_rate": reading.sink_rate,
    }


def peak_row(step: int, reading: Reading) -> dict[str, Any]:
    """A row of `peaks`."""
    peak = reading.peak
    assert peak is not None
    ratio = abs(peak.value) / peak.median if peak.median else float("inf")
    return {
        "step": step,
        **asdict(peak.place),
        "value": peak.value,
        "median": peak.median,
        "ratio": ratio,
        "massive": bool(abs(peak.value) > MAGNITUDE and ratio >= RATIO),
    }


class Trace:
    """The writer's weights through one step: made right before it, closed right after it."""

    def __init__(
        self,
        writer: Writer,
        weights: Mapping[str, nn.Parameter],
        optimizers: Sequence[Optimizer],
    ) -> None:
        self.writer = writer
        self.weight = weights[writer.view.tensor]
        # A frozen weight has none.
        self.owner = next((one for one in optimizers if _owns(one, self.weight)), None)
        self.before = self._of(self.weight)

    def close(self, slope: Mapping[str, Tensor]) -> dict[str, Any]:
        """Columns of `writers` under `"whole"`, rows of `neurons` under `"each"`.

        The moments are those the step has used, gradients included; `slope` is the gradient of the
        value before it.
        """
        columns = {
            "weight": self.before,
            "gradient": self._of(self.weight.grad),
            "update": self._of(self.weight) - self.before,
            "momentum": self._of(self._moment("first")),
            "second": self._of(self._moment("second")),
        }
        columns["value"] = self._of(slope.get(self.writer.view.tensor)) * columns["update"]
        place = {"layer": self.writer.layer, "component": self.writer.component}
        whole = {name: float(values.norm()) for name, values in columns.items()}
        # A second moment is a mean square and a value adds up; the rest are vectors.
        whole |= {"second": float(columns["second"].mean()), "value": float(columns["value"].sum())}
        each = [
            {
                **place,
                "neuron": neuron,
                **{name: float(values[neuron]) for name, values in columns.items()},
            }
            for neuron in self.writer.strongest
        ]
        return {"whole": {**place, **whole}, "each": each}

    def _moment(self, moment: str) -> Tensor | None:
        return None if self.owner is None else moment_of(self.owner, self.weight, moment)

    def _of(self, tensor: Tensor | None) -> Tensor:
        """The writer's entries of a tensor shaped as the weight, float64 `[inputs]`, a copy."""
        if tensor is None:
            return torch.full((self.writer.view.size,), torch.nan, dtype=torch.float64)
        values = laid_out(tensor.detach(), self.weight)
        return self.writer.view.of(values).double().cpu().clone()


def _owns(optimizer: Optimizer, weight: nn.Parameter) -> bool:
    return any(weight is other for group in optimizer.param_groups for other in group["params"])
