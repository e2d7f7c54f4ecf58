"""Pieces read by actors of a Ray cluster, through Ray Data; what dies with a node is sent out again.

Ray Data takes data sets, not streams, and starts its actors for each: pieces go out in waves, a few
from each actor at first, twice as many the next time.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..corpus import Window
from ..errors import ArgumentError, LensprobeError
from .files import packed, unpacked
from .line import Done, Keep, Line
from .pieces import Piece
from .recipe import Read, Recipe

__all__ = ["FIRST", "MOST", "on_ray"]

FIRST, MOST = 16, 256
"""Pieces of each worker in the first wave, and in the largest."""
ATTEMPTS = 3
"""Times that pieces are sent out and none comes back before that is taken as final."""


def on_ray(
    recipe: Recipe, workers: int, gpus: float, found: Iterator[Piece], keep: Keep
) -> Generator[Done, None, None]:
    """Read pieces on the Ray cluster that this process is connected to, and give them back in order.

    Without a connection one is made as `ray.init()` makes it: to the cluster that `RAY_ADDRESS` names,
    or else to one of this machine alone, which ends with the call.

    Args:
        recipe: what each actor does.
        workers: how many actors.
        gpus: of each.
        found: the pieces.
        keep: see `Line`.

    Raises:
        ArgumentError: Ray is not installed.
        LensprobeError: what an actor raised; or Ray gave up.
    """
    ray = _installed()
    line = Line(found, keep, ahead=3 * MOST * workers)
    with _connected(ray):
        wave = _taken(line, FIRST * workers)
        while not line.over:
            yield from line.ready()
            following: list[Piece] = []
            for done in _wave(ray, recipe, workers, gpus, wave):
                line.done(done)
                room = MOST * workers - len(following)
                # Cut while others read: the next wave is there when this one is through.
                following += _taken(line, min(2, room))
                yield from line.ready()
            wave = following or _taken(line, FIRST * workers)


class Actor:
    """What runs in a worker process: pieces in, their statistics out, both as bytes."""

    def __init__(self, recipe: Recipe, threads: int | None, device: str) -> None:
        self.how = (recipe, threads, device)
        self.read: Read | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Read the pieces of a batch. What goes wrong comes back as words: Ray would try again."""
        answers = [self._answer(data) for data in batch["data"]]
        return {"number": batch["number"].tolist(), "data": answers}

    def _answer(self, data: bytes) -> bytes:
        try:
            if self.read is None:
                recipe, threads, device = self.how
                self.read = recipe.open(threads, device)
            state, notes = self.read(_windows(data))
        except Exception as error:
            return packed({"error": f"{type(error).__name__}: {error}"}, {})
        return packed({"notes": notes}, state)


def _wave(
    ray: Any, recipe: Recipe, workers: int, gpus: float, wave: Sequence[Piece]
) -> Iterator[Done]:
    """Each of these pieces once, in the order in which they are finished.

    What was lost with an actor is sent out again, as long as any piece comes back.
    """
    missing = {piece.number: piece for piece in wave}
    failures = 0
    while missing:
        before, why = len(missing), "workers died"
        try:
            for number, data in _rows(ray, recipe, workers, gpus, list(missing.values())):
                header, state = unpacked(data, f"the answer of a worker to piece {number}")
                if "error" in header:
                    raise LensprobeError(f"a worker failed on piece {number}: {header['error']}")
                piece = missing.pop(number, None)
                if piece is not None:
                    yield Done(piece, state, header["notes"])
        except ray.exceptions.RayError as error:
            why = f"{type(error).__name__}: {error}"
        failures = failures + 1 if len(missing) == before else 0
        if failures == ATTEMPTS:
            raise LensprobeError(
                f"{ATTEMPTS} times none of {before} pieces came back from Ray, the first of them "
                f"piece {min(missing)}: {why}."
            )


def _rows(
    ray: Any, recipe: Recipe, workers: int, gpus: float, wave: Sequence[Piece]
) -> Iterator[tuple[int, bytes]]:
    rows = [{"number": piece.number, "data": _bytes(piece.windows)} for piece in wave]
    threads = 1 if gpus else _threads(ray, workers)
    resources: dict[str, Any] = {"num_gpus": gpus} if gpus else {}
    device = "cuda" if gpus else "cpu"
    read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Actor,
        fn_constructor_args=(recipe, None if gpus else threads, device),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=threads,
        # A task of an actor that waits to be restarted, where there may be no room for it, would
        # wait with it for ever. Lost, it is sent out again.
        max_restarts=0,
        max_task_retries=0,
        **resources,
    )
    for row in read.iter_rows():
        yield int(row["number"]), row["data"]


def _threads(ray: Any, workers: int) -> int:
    """A fair share of the cluster's cores, as far as one machine has them."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, int(min(sum(machines) // workers, max(machines))))


def _taken(line: Line, count: int) -> list[Piece]:
    taken: list[Piece] = []
    while len(taken) < count and (piece := line.next()) is not None:
        taken.append(piece)
    return taken


def _bytes(windows: Sequence[Window]) -> bytes:
    facts = [(w.document, w.index, w.again, w.begin, len(w.ids)) for w in windows]
    ids = np.concatenate([np.array(window.ids, np.int64) for window in windows])
    return packed({}, {"windows/facts": np.array(facts, np.int64), "windows/ids": ids})


def _windows(data: bytes) -> list[Window]:
    _, arrays = unpacked(data, "a piece on its way to a worker")
    facts, ids = arrays["windows/facts"], arrays["windows/ids"]
    ends = np.cumsum(facts[:, -1])
    return [
        Window(document, index, tuple(ids[end - length : end].tolist()), again, begin)
        for (document, index, again, begin, length), end in zip(facts.tolist(), ends, strict=True)
    ]


def _installed() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ArgumentError(
            f"engine='ray' needs Ray, which is not installed here ({error}): "
            "pip install 'lensprobe[ray]'."
        ) from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connected to a cluster; silent where it is ours."""
    mine = not ray.is_initialized()
    if mine:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "max_errored_blocks": -1}
    before = {name: getattr(context, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        if mine:
            ray.shutdown()
