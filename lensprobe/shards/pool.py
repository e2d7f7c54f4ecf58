"""Pieces read by several processes of this machine; one that dies costs its piece's time, no more.

Nothing here knows models, so that a process is up as soon as what it is to run is.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from ..errors import LensprobeError
from .line import Done, Keep, Line

if TYPE_CHECKING:
    from .pieces import Piece
    from .recipe import Read

__all__ = ["ATTEMPTS", "in_processes"]

ATTEMPTS = 3
"""Workers that may die over the same piece before it is taken to be the reason."""

READY, READ, FAILED = "ready", "read", "failed"


def in_processes(
    open_reader: Callable[[int], Read], workers: int, found: Iterator[Piece], keep: Keep
) -> Generator[Done, None, None]:
    """Read pieces in other processes, and give them back in order.

    A worker is started only when there is a piece for it. The generator must be closed: that ends
    them all.

    Args:
        open_reader: called once in each worker, with its number from 0 on; it is pickled.
        workers: most processes at a time.
        found: the pieces.
        keep: see `Line`.

    Raises:
        LensprobeError: what a worker raised; or workers died `ATTEMPTS` times over a piece.
    """
    line = Line(found, keep, ahead=2 * workers)
    crew = _Crew(open_reader, workers)
    try:
        while not line.over:
            crew.hand_out(line)
            yield from line.ready()
            crew.listen(line)
    finally:
        crew.end()


@dataclass(eq=False)
class _Worker:
    """A process, and the piece that is its own until it has been read."""

    number: int
    process: BaseProcess
    connection: Connection
    piece: Piece | None = None
    started: bool = False

    def hand(self) -> None:
        """Send it its windows; one that has died meanwhile is seen when it is listened to."""
        assert self.piece is not None
        with suppress(OSError):
            self.connection.send(self.piece.windows)


class _Crew:
    """The workers there are."""

    def __init__(self, open_reader: Callable[[int], Read], most: int) -> None:
        self.open_reader = open_reader
        self.most = most
        self.workers: list[_Worker] = []
        self.deaths: Counter[int] = Counter()

    def hand_out(self, line: Line) -> None:
        """A piece for whoever has none, as long as there are some."""
        idle = [worker for worker in self.workers if worker.piece is None]
        while idle or len(self.workers) < self.most:
            piece = line.next()
            if piece is None:
                return
            worker = idle.pop() if idle else self._start()
            worker.piece = piece
            if worker.started:
                worker.hand()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        number = min(set(range(self.most)) - {worker.number for worker in self.workers})
        # A daemon ends with this process, whatever way that ends.
        process = context.Process(
            target=_serve, args=(there, self.open_reader, number), daemon=True
        )
        with _silenced():
            process.start()
        # Only the worker has the other end now, so that its death is the end of the file here.
        there.close()
        worker = _Worker(number, process, here)
        self.workers.append(worker)
        return worker

    def listen(self, line: Line) -> None:
        """Wait until one of those who work has something to say."""
        busy = [worker for worker in self.workers if worker.piece is not None]
        if not busy:
            return
        heard = wait([worker.connection for worker in busy])
        for worker in busy:
            if worker.connection in heard:
                self._hear(worker, line)

    def _hear(self, worker: _Worker, line: Line) -> None:
        try:
            what, *rest = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker, line)
            return
        if what == FAILED:
            error, trace = rest
            raise error from RuntimeError(f"in a worker:\n{trace}")
        if what == READY:
            worker.started = True
            worker.hand()
            return
        assert worker.piece is not None
        line.done(Done(worker.piece, *rest))
        worker.piece = None

    def _bury(self, worker: _Worker, line: Line) -> None:
        """A worker has died; its piece is read by another."""
        self.workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        code, piece = worker.process.exitcode, worker.piece
        assert piece is not None
        if not worker.started and code and code > 0:
            raise LensprobeError(
                f"a worker ended before it had begun (exit code {code}). Workers import the script "
                "that starts them: what it does belongs under `if __name__ == '__main__':`."
            )
        self.deaths[piece.number] += 1
        if self.deaths[piece.number] == ATTEMPTS:
            raise LensprobeError(
                f"{ATTEMPTS} workers died while they read piece {piece.number} of the texts, the last "
                f"with exit code {code}; -9 is often memory that ran out: pass fewer workers, or a "
                "smaller batch_tokens."
            )
        line.back(piece)

    def end(self) -> None:
        """No worker is left when this returns, whatever they were doing."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self.workers.clear()


@contextmanager
def _silenced() -> Iterator[None]:
    """Ctrl-C waits, here and in a process that is started meanwhile: that one never hears it."""
    if not hasattr(signal, "pthread_sigmask"):
        # Windows; there a worker may complain of Ctrl-C while it starts.
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, open_reader: Callable[[int], Read], number: int) -> None:
    """What a worker does: open a reader, read what comes, until nothing more does."""
    # Ctrl-C goes to every process of a terminal; the one that began decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        read = open_reader(number)
        connection.send((READY,))
        while True:
            connection.send((READ, *read(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The process that began is gone.
        sys.exit()
    except Exception as error:
        connection.send((FAILED, _portable(error), traceback.format_exc()))


def _portable(error: Exception) -> Any:
    """An error that another process can raise again."""
    if isinstance(error, LensprobeError):
        return error
    return LensprobeError(f"a worker failed: {type(error).__name__}: {error}")
