"""All runs of one call, one after another, and the result they make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import Interrupted
from ...models.adapter import adapter_for
from ...models.copying import named_weights
from ...running.batching import progress_bar
from .asking import LARGEST
from .log import Log
from .recipes import Recipe
from .result import TrainingWatch
from .run import Run, Setup
from .state import slug
from .tables import log_tables, order_table, runs_table, spread_tables

__all__ = ["Work"]


class Work:
    """All runs of a call."""

    def __init__(
        self,
        model: Any,
        setup: Setup,
        recipes: Mapping[str, Recipe],
        seeds: Sequence[int],
        out: Path | None,
        notes: list[str],
    ) -> None:
        self.model = model
        self.setup = setup
        self.recipes = recipes
        self.seeds = seeds
        self.out = out
        self.notes = notes
        self.logs: dict[tuple[str, int], Log] = {}
        self.facts: dict[str, dict[str, Any]] = {}

    def run(self, copy: Any, progress: bool | None) -> TrainingWatch:
        """Run after run on the one `copy`, put back to the given weights before each."""
        origin = {} if self.out is None else {"weights": _hash(copy)}
        # Every run is checked before the first is paid for; nothing is written yet.
        for recipe in self.recipes.values():
            Run(self.setup, recipe, self.seeds[0], copy)
        total = len(self.recipes) * len(self.seeds) * self.setup.steps
        with progress_bar("step", progress, total=total) as bar:
            for name, recipe in self.recipes.items():
                for seed in self.seeds:
                    _put_back(copy, self.model)
                    folder = None if self.out is None else self.out / slug(name) / f"seed-{seed}"
                    run = Run(self.setup, recipe, seed, copy, folder, origin)
                    self.facts[name] = run.facts
                    bar.set_postfix_str(f"{name}, seed {seed}")
                    self._one(name, seed, run, bar)
                    # The next run's moments need the room.
                    run.close()
        return self._result(True)

    def _one(self, name: str, seed: int, run: Run, bar: Any) -> None:
        try:
            self.logs[name, seed] = run.train(bar)
        except KeyboardInterrupt as interrupt:
            self.logs[name, seed] = run.log
            raise Interrupted(
                f"interrupted in step {run.log.step + 1} of run {name!r}, seed {seed}.",
                partial=self._result(False),
            ) from interrupt

    def _result(self, complete: bool) -> TrainingWatch:
        frames = log_tables(self.logs)
        spread, paired = spread_tables(frames["steps"])
        return TrainingWatch(
            provenance=self._provenance(complete),
            **frames,
            spread=spread,
            paired=paired,
            runs=runs_table(self.logs, self.facts, frames["steps"]),
            order=order_table(self.setup.material, self.seeds, self.setup.steps),
        )

    def _provenance(self, complete: bool) -> dict[str, Any]:
        adapter, setup = adapter_for(self.model), self.setup
        notes = [*setup.material.facts["notes"], *self.notes]
        for (name, _), log in self.logs.items():
            notes += [f"{name}: {note}" for note in log.notes if f"{name}: {note}" not in notes]
        if adapter.user_hooks():
            notes.append("hooks of the user's own were not copied: training ran without them")
        if torch.finfo(adapter.dtype).bits < 32:
            notes.append(f"weights are {adapter.dtype}: small updates are lost in rounding")
        settings = {k: v for k, v in setup.settings().items() if k not in ("place", "texts")}
        return {
            **adapter.provenance(),
            **setup.material.facts,
            **settings,
            "watched_place": setup.settings()["place"] or LARGEST,
            "writer": None if setup.writer is None else setup.writer.describe(),
            "texts_hash": setup.material.fingerprint(),
            "site": "resid_post",
            "recipes": self.facts,
            "seeds": list(self.seeds),
            "complete": complete,
            "notes": notes,
        }


@torch.no_grad()
def _put_back(copy: Any, model: Any) -> None:
    given = named_weights(model)
    for name, weight in named_weights(copy).items():
        weight.copy_(given[name])


def _hash(model: Any) -> str:
    """A hash of every weight, by name."""
    found = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(named_weights(model).items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
