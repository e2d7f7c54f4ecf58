"""Who reads the pieces of a corpus: this process, several of this machine, or a Ray cluster's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..corpus import positive_whole
from ..errors import ArgumentError, nearest
from ..models.adapter import Adapter
from ..settings import current
from .line import Done, Keep
from .pieces import Piece
from .pool import in_processes
from .recipe import Read, Recipe, recipe

if TYPE_CHECKING:
    from ..scanning import Ranges, Reading
    from .run import Run, Show

__all__ = ["Crew", "Engine", "Part", "checked_part", "crew", "here"]

Engine = Literal["local", "ray"]
ENGINES = ("local", "ray")
Part = tuple[int, int]


@dataclass(frozen=True)
class Crew:
    """Other processes that read as this one would.

    Attributes:
        workers: how many.
        engine: what starts them.
        gpus: GPUs of each on a cluster; None is as many as the model is on here.
        reading: makes the reading for a model; it is pickled.
        ranges: makes the column ranges for a model, likewise; None is whole batches.
    """

    workers: int
    engine: Engine
    gpus: float | None
    reading: Callable[[Adapter], Reading]
    ranges: Callable[[Adapter], Ranges] | None

    def read(self, scan: Run, found: Iterator[Piece], keep: Keep) -> Generator[Done, None, None]:
        """Pieces as they have been read, in order; closing the iterator ends the others.

        Raises:
            ArgumentError: the model cannot be loaded by others; `engine="ray"` without Ray.
            LensprobeError: what another process raised, or one that dies again and again.
        """
        made = recipe(scan, self.reading, self.ranges)
        if self.engine == "ray":
            # Ray is an extra.
            from .on_ray import on_ray

            gpus = _gpus(scan.adapter.model) if self.gpus is None else self.gpus
            return on_ray(made, self.workers, gpus, found, keep)
        threads = max(1, torch.get_num_threads() // self.workers)
        return in_processes(partial(_opened, made, threads), self.workers, found, keep)


def here(scan: Run, found: Iterator[Piece], keep: Keep, show: Show) -> Generator[Done, None, None]:
    """Pieces as this process reads them."""
    for piece in found:
        if piece.kept is None:
            done = Done(piece, *scan.alone(piece.windows, partial(show, piece.tally)))
            keep(done)
        else:
            done = Done(piece, piece.kept.state, piece.kept.facts.get("notes", []))
        yield done


def crew(
    workers: int | None,
    engine: Engine | None,
    reading: Callable[[Adapter], Reading],
    ranges: Callable[[Adapter], Ranges] | None,
) -> Crew | None:
    """The crew that a call wants; None where it is this process alone.

    Raises:
        ArgumentError: no number of workers or GPUs, or an engine of another name.
    """
    count = positive_whole("workers", current("workers", workers))
    name = current("engine", engine)
    if name not in ENGINES:
        allowed = " or ".join(map(repr, ENGINES))
        raise ArgumentError(f"engine={name!r}: {allowed}.{nearest(str(name), ENGINES)}")
    gpus = current("num_gpus")
    if gpus is not None and (
        isinstance(gpus, bool) or not isinstance(gpus, int | float) or gpus < 0
    ):
        raise ArgumentError(f"num_gpus={gpus!r}: a number from 0 on, or None.")
    if name == "local" and count == 1:
        return None
    return Crew(count, name, gpus, reading, ranges)


def checked_part(part: Any, out: Any) -> Part | None:
    """Which share of the pieces is to be read, `(i, n)`; None is all.

    Raises:
        ArgumentError: no two whole numbers with 0 <= i < n; or no folder to keep the share in.
    """
    if part is None:
        return None
    if (
        not isinstance(part, tuple | list)
        or len(part) != 2
        or not all(isinstance(each, int) and not isinstance(each, bool) for each in part)
        or not 0 <= part[0] < part[1]
    ):
        raise ArgumentError(f"part={part!r}: (i, n) with 0 <= i < n, such as (0, 8).")
    if out is None:
        raise ArgumentError(f"part={part!r}: a share is kept in a folder; pass out= as well.")
    return part[0], part[1]


def _gpus(model: Any) -> int:
    """On how many GPUs the model is here."""
    return len({weight.device for weight in model.parameters() if weight.device.type == "cuda"})


def _opened(made: Recipe, threads: int, number: int) -> Read:
    """In a worker of this machine: GPUs are taken in turn."""
    device = made.device
    if device.startswith("cuda"):
        device = f"cuda:{number % torch.cuda.device_count()}"
    return made.open(threads, device)
