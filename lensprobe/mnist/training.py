"""Training a `HookedMLP` on digits, the curve kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import ArgumentError, Interrupted
from ..results import Result
from ..running.batching import progress_bar
from ..settings import checked_seed
from .adapter import MLPAdapter, network_adapter
from .data import DigitsData
from .fitting import checked_fit

__all__ = ["Training", "train"]

ROWS = 2000
"""Test images read at a time."""


@dataclass(frozen=True, repr=False, eq=False)
class Training(Result):
    """How a network learned.

    Attributes:
        curve: one row an evaluation: step, loss (test log loss, nats an image), perplexity (its
            exponential), accuracy (test), training_loss (mean over the steps since the last row; NaN
            in the first).
    """

    kind: ClassVar[str] = "mnist.training"

    curve: pd.DataFrame

    def summary(self) -> dict[str, float | int | str | bool]:
        """The last evaluation, and whether the target was reached."""
        last = self.curve.iloc[-1]
        return {
            **super().summary(),
            "step": int(last["step"]),
            "loss": float(last["loss"]),
            "accuracy": float(last["accuracy"]),
            "reached": bool(self.provenance["reached"]),
        }


def train(
    model: Any,
    data: DigitsData,
    *,
    target: float | None = None,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_size: int = 256,
    every: int = 25,
    seed: int | None = None,
    progress: bool | None = None,
) -> Training:
    """Train a `HookedMLP` with Adam on the log loss, in place: its weights are what changes.

    Stops at the first evaluation whose test log loss is at most `target`. That looks at the test
    set, as the published recipe ("trained to about 0.089 test log loss") does; a network to be
    judged by its test loss should not be stopped by it.

    Args:
        model: a `HookedMLP`.
        data: from `load_digits_data`.
        target: test log loss to stop at, nats; None trains all `epochs`.
        epochs: passes over the training images at most.
        learning_rate: Adam's.
        batch_size: images a step.
        every: steps between evaluations.
        seed: of the order of the images, which is a function of seed and epoch alone; None is 0.

    Raises:
        ArgumentError: images that do not fit the network, an option out of range.
        ModelError: the model is no `HookedMLP`.
        Interrupted: Ctrl-C; `.partial` is the training up to there, and the weights are those.

    Examples:
        >>> network, data = lp.mnist.HookedMLP((64, 24, 10)), lp.mnist.load_digits_data()
        >>> found = lp.mnist.train(network, data, epochs=8, learning_rate=0.01, batch_size=64)
        >>> found.summary()["accuracy"] > 0.85
        True
    """
    adapter = network_adapter(model, "lp.mnist.train")
    checked_fit(adapter, data)
    _check(target=target, learning_rate=learning_rate)
    _check_counts(epochs=epochs, batch_size=batch_size, every=every)
    order = checked_seed(seed) or 0
    run = _Run(adapter, data, learning_rate)
    settings = {
        "target": target,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "every": every,
        "seed": order,
    }
    steps = epochs * -(-len(data.images) // batch_size)
    complete = True
    with progress_bar("step", progress, total=steps) as bar:
        try:
            run.evaluate()
            for batch in _batches(len(data.images), batch_size, epochs, order):
                if target is not None and run.rows[-1]["loss"] <= target:
                    break
                run.step(batch)
                bar.update()
                if run.steps % every == 0 or run.steps == steps:
                    bar.set_postfix(loss=f"{run.evaluate():.4f}")
        except KeyboardInterrupt:
            complete = False
    result = run.result(settings, complete)
    if not complete:
        raise Interrupted(f"interrupted after {run.steps} of {steps} steps.", partial=result)
    return result


class _Run:
    """A training as it goes."""

    def __init__(self, adapter: MLPAdapter, data: DigitsData, learning_rate: float) -> None:
        self.adapter = adapter
        self.data = data
        self.images = torch.from_numpy(data.images).to(adapter.device, adapter.dtype)
        self.labels = torch.from_numpy(data.labels).to(adapter.device)
        self.optimizer = torch.optim.Adam(adapter.model.parameters(), lr=learning_rate)
        self.rows: list[dict[str, float]] = []
        self.losses: list[Tensor] = []
        self.steps = 0
        self.begin = time.perf_counter()

    def step(self, batch: Tensor) -> None:
        loss = cross_entropy(self.adapter.model(self.images[batch]), self.labels[batch])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.detach())
        self.steps += 1

    def evaluate(self) -> float:
        loss, accuracy = tested(self.adapter, self.data)
        seen = float(torch.stack(self.losses).double().mean()) if self.losses else float("nan")
        self.losses.clear()
        self.rows.append(
            {
                "step": self.steps,
                "loss": loss,
                "perplexity": float(np.exp(loss)),
                "accuracy": accuracy,
                "training_loss": seen,
            }
        )
        return loss

    def result(self, settings: dict[str, Any], complete: bool) -> Training:
        # Whoever takes gradients of this network next finds none of ours.
        self.optimizer.zero_grad(set_to_none=True)
        curve = pd.DataFrame(self.rows, columns=list(self.rows[0]) if self.rows else ["step"])
        target = settings["target"]
        facts = {
            **self.adapter.provenance(),
            **self.data.facts(),
            **settings,
            "optimizer": "Adam",
            "steps": self.steps,
            "seconds": time.perf_counter() - self.begin,
            "reached": target is not None and bool(self.rows) and self.rows[-1]["loss"] <= target,
            "complete": complete,
            "notes": [],
        }
        return Training(provenance=facts, curve=curve)


@torch.no_grad()
def tested(adapter: MLPAdapter, data: DigitsData) -> tuple[float, float]:
    """Log loss (nats) and accuracy on the test images."""
    total, right = 0.0, 0
    for begin in range(0, len(data.test_images), ROWS):
        images = torch.from_numpy(data.test_images[begin : begin + ROWS])
        labels = torch.from_numpy(data.test_labels[begin : begin + ROWS]).to(adapter.device)
        logits = adapter.run(images.to(adapter.device, adapter.dtype))
        assert logits is not None
        total += float(cross_entropy(logits.float(), labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return total / len(data.test_images), right / len(data.test_images)


def _batches(images: int, size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(images)
        for begin in range(0, images, size):
            yield torch.from_numpy(order[begin : begin + size])


def _check(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise ArgumentError(f"{name}={value!r}: a positive number.")


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name}={value!r}: a positive whole number.")
