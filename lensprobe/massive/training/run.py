"""One run: one recipe, one seed, step after step, watched."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import ArgumentError
from ...interrupts import uninterrupted
from ...models.adapter import adapter_for
from ...models.copying import named_weights
from ...models.exporting import write_folder
from .account import Account, splits
from .log import Log
from .material import Material
from .moments import Bound, Change, WarmStart
from .passes import backward
from .place import Place
from .recipes import Recipe, build, describe
from .rows import Trace, peak_row, reading_row
from .state import Shelf, moved_into
from .watching import Reading, Watch
from .writer import Writer, find_writer

__all__ = ["Run", "Setup"]

PATIENCE = 300.0
"""Seconds between states on disk where no number of steps is given."""


@dataclass(frozen=True)
class Setup:
    """What all runs of a call share.

    Attributes:
        material: the sequences.
        steps: optimizer steps of each run.
        every: steps from one look to the next; None never looks.
        account: whether watched steps are taken apart.
        place: the coordinate, or None for the largest magnitude wherever it is.
        writer: the weights that write it, where it is fixed.
        epsilon: least attention of a sink.
        batch_tokens: most tokens in one forward pass.
        checkpoints: steps after which the model is kept as a folder.
        save_every: steps from one state on disk to the next; None is by the clock.
    """

    material: Material
    steps: int
    every: int | None
    account: bool
    place: Place | None
    writer: Writer | None
    epsilon: float
    batch_tokens: int | None
    checkpoints: frozenset[int]
    save_every: int | None

    def due(self, step: int) -> bool:
        """Whether the model is looked at after `step` steps."""
        return self.every is not None and (step % self.every == 0 or step == self.steps)

    def settings(self) -> dict[str, Any]:
        """What decides a run's numbers, as JSON."""
        return {
            "steps": self.steps,
            "every": self.every,
            "account": self.account,
            "place": None if self.place is None else asdict(self.place),
            "epsilon": self.epsilon,
            "batch_tokens": self.batch_tokens,
            "batch_size": self.material.batch_size,
            "texts": self.material.fingerprint(),
            "checkpoints": sorted(self.checkpoints),
        }


class Run:
    """Trains `model`, which is its own to change.

    Args:
        setup: see `Setup`.
        recipe: with nothing left open.
        seed: of the order of the sequences.
        model: a copy; its weights are trained in place.
        folder: where states and checkpoints go; None keeps nothing.
        origin: what else decides the numbers (a hash of the weights), checked when taken up again.

    Raises:
        ArgumentError: an intervention or an optimizer that does not fit the model.
    """

    def __init__(
        self,
        setup: Setup,
        recipe: Recipe,
        seed: int,
        model: Any,
        folder: Path | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.setup = setup
        self.recipe = recipe
        self.seed = seed
        self.model = model
        self.folder = folder
        self.adapter = adapter_for(model)
        self.weights: dict[str, nn.Parameter] = named_weights(model)
        self.optimizers: list[Optimizer] = build(recipe, self.weights)
        self.facts = describe(recipe, self.optimizers)
        self.bases = [
            [float(group["lr"]) for group in optimizer.param_groups]
            for optimizer in self.optimizers
        ]
        self.changes = [
            Bound(change, self.weights, self.optimizers, setup.writer)
            for change in recipe.interventions
            if isinstance(change, Change)
        ]
        self.watch = Watch(
            self.adapter,
            setup.material.rows,
            setup.place,
            epsilon=setup.epsilon,
            batch_tokens=setup.batch_tokens,
        )
        self.log = Log()
        self.shelf = None
        if folder is not None:
            settings = {**setup.settings(), **(origin or {}), "seed": seed, "recipe": self.facts}
            self.shelf = Shelf(folder, settings)
        self._saved_at = time.monotonic()

    def train(self, bar: Any = None) -> Log:
        """Take all steps that are left; returns what was recorded, over all of them.

        The random state of torch is the run's own inside and the caller's again afterwards.

        Raises:
            KeyboardInterrupt: with the state saved and `log` complete up to its step.
        """
        over = None if self.shelf is None else self.shelf.finished()
        if over is not None:
            self.log = over
            return over
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            resumed = None if self.shelf is None else self._resume(self.shelf)
            if resumed is None:
                self._begin()
            if bar is not None:
                bar.update(self.log.step)
            try:
                while self.log.status == "running":
                    done = self.log.step
                    self._step()
                    if bar is not None:
                        # The last look takes no step.
                        bar.update(self.log.step - done)
            except KeyboardInterrupt:
                self._save(now=True)
                raise
        if self.shelf is not None:
            self.shelf.finish(self.log)
        return self.log

    def close(self) -> None:
        """Give back the memory of gradients and moments."""
        for weight in self.weights.values():
            weight.grad = None
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def _resume(self, shelf: Shelf) -> Log | None:
        log = shelf.resume(self.weights, self.optimizers)
        if log is not None:
            self.log = log
        return log

    def _begin(self) -> None:
        """Warm starts, and what is recorded before any step."""
        if not splits(self.optimizers) and self.setup.account:
            names = ", ".join(dict.fromkeys(type(one).__name__ for one in self.optimizers))
            self.log.notes.append(
                f"{names}: the step is not a sum of a gradient's and a momentum's part, or not one "
                'known here; the account gives it as "update"'
            )
        for start in self.recipe.interventions:
            if isinstance(start, WarmStart):
                self._warm(start)
        self._keep_checkpoint()

    def _warm(self, start: WarmStart) -> None:
        before = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._set_rates(0.0)
        for turn in range(1, start.batches + 1):
            self._gradients(self.setup.material.batch(self.seed, turn, warming=True))
            for optimizer in self.optimizers:
                optimizer.step()
        if not all(torch.equal(before[name], weight) for name, weight in self.weights.items()):
            raise ArgumentError("WarmStart: this optimizer moves weights at learning rate 0.")
        start.finish(self.optimizers)

    def _gradients(self, batch: list[int]) -> float:
        for weight in self.weights.values():
            weight.grad = None
        rows = self.setup.material.sequences(batch)
        loss = backward(self.adapter, rows, self.setup.batch_tokens)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.recipe.clip)
        return loss

    def _set_rates(self, factor: float) -> None:
        for optimizer, bases in zip(self.optimizers, self.bases, strict=True):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * factor

    def _step(self) -> None:
        """One optimizer step, with the look before it where one is due."""
        done, setup = self.log.step, self.setup
        step = done + 1
        reading = self.watch.read() if setup.due(done) else None
        if done == setup.steps:
            self._commit(done, reading, [], {}, {})
            self.log.status = "finished"
            return
        loss = self._gradients(setup.material.batch(self.seed, step))
        if not torch.isfinite(torch.tensor(loss)):
            self._commit(done, reading, [], {}, {})
            self.log.status = "diverged"
            self.log.notes.append(
                f"with seed {self.seed} the loss of step {step} is not finite; training ended there"
            )
            return
        # Weights, moments and records change together or not at all.
        with uninterrupted():
            self._set_rates(self.recipe.rate(step))
            for change in self.changes:
                change.before(step)
            shares, facts, written = self._optimize(reading)
            for change in self.changes:
                change.after(step)
            rate = self.optimizers[0].param_groups[0]["lr"]
            self.log.tables["losses"].append(
                {"step": step, "loss": loss, "learning_rate": float(rate)}
            )
            self._commit(done, reading, shares, facts, written)
            self.log.step = step
            self._keep_checkpoint()
        self._save()

    def _optimize(self, reading: Reading | None) -> tuple[list[Any], dict, dict]:
        """The step itself, taken apart where it is watched."""
        if reading is None:
            for optimizer in self.optimizers:
                optimizer.step()
            return [], {}, {}
        place, writer = reading.place, self.setup.writer
        prefix = self.watch.prefix(place)
        if self.setup.place is None:
            writer = find_writer(self.adapter, place, prefix, self.weights)
        account, value = None, float("nan")
        slope: dict[str, Tensor] = {}
        if self.setup.account:
            value, slope = prefix.gradient(place, self.weights)
            account = Account(slope, self.weights, self.optimizers, writer)
        trace = None if writer is None else Trace(writer, self.weights, self.optimizers)
        for optimizer in self.optimizers:
            optimizer.step()
        shares = [] if account is None else account.close()
        facts = {}
        if account is not None:
            predicted = sum(share.value for share in shares)
            measured = prefix.value(place) - value
            facts = {
                **asdict(place),
                "value": value,
                "predicted": predicted,
                "measured": measured,
                "remainder": measured - predicted,
            }
        return shares, facts, {} if trace is None else trace.close(slope)

    def _commit(
        self,
        done: int,
        reading: Reading | None,
        shares: Sequence[Any],
        facts: Mapping[str, Any],
        written: Mapping[str, Any],
    ) -> None:
        if reading is None:
            return
        tables = self.log.tables
        tables["steps"].append(reading_row(done, reading))
        if reading.peak is not None:
            tables["peaks"].append(peak_row(done, reading))
        step = done + 1
        tables["account"] += [{"step": step, **asdict(share)} for share in shares]
        if facts:
            tables["changes"].append({"step": step, **facts})
        if written:
            tables["writers"].append({"step": step, **written["whole"]})
            tables["neurons"] += [{"step": step, **row} for row in written["each"]]

    def _keep_checkpoint(self) -> None:
        step = self.log.step
        if step not in self.setup.checkpoints or self.folder is None:
            return
        path = self.folder / f"step-{step:08d}"
        if not path.exists():
            moved_into(path, lambda fresh: write_folder(self.model, fresh))
        self.log.tables["checkpoints"].append({"step": step, "path": str(path)})

    def _save(self, *, now: bool = False) -> None:
        if self.shelf is None or self.log.status != "running":
            return
        every = self.setup.save_every
        due = (
            time.monotonic() - self._saved_at > PATIENCE
            if every is None
            else self.log.step % every == 0
        )
        if now or due:
            with uninterrupted():
                self.shelf.save(self.log, self.weights, self.optimizers)
            self._saved_at = time.monotonic()
