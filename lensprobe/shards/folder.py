"""A folder of finished shards: what belongs together, who works in it, what is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from typing_extensions import Self

from ..errors import OutputError
from ..results import writing
from .files import DamagedError, read_state, write_state

__all__ = ["Folder", "Kept"]

MANIFEST, LOCK = "manifest.json", ".lock"
PATIENCE = 10.0
"""Seconds that a share waits for others to have come in."""


@dataclass(frozen=True)
class Kept:
    """A shard that was finished and kept.

    Attributes:
        facts: what was said of it when it was kept; JSON values.
        state: its statistics.
    """

    facts: dict[str, Any]
    state: dict[str, np.ndarray]


class Folder:
    """Finished shards of one run. A context manager: inside it nobody else works in the folder.

    Only runs that each do another share of it may work in it together.

    Args:
        path: made if it is not there, with the folders above it.
        identity: what the run is: model, options, how texts are cut. JSON values. A folder of another
            run is refused, so that states of two runs never mix.
        part: `(i, n)` for share i of n; None for all of it.

    Raises:
        OutputError: a file of that name, a folder that cannot be written, one that holds something
            else or another run, or one that another process works in.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        part: tuple[int, int] | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = part
        # As it is read back: tuples are lists, and numpy's numbers would have failed here.
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True))
        self.damaged: list[int] = []

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with ExitStack() as held:
            if self.part is None:
                held.enter_context(self._locked(LOCK))
                for other in self.path.glob(f"{LOCK}-*"):
                    with self._locked(other.name):
                        pass
                self._claim()
            else:
                # Shares hold the folder's own lock only while they come in.
                with self._locked(LOCK, PATIENCE):
                    index, count = self.part
                    held.enter_context(self._locked(f"{LOCK}-{index}-of-{count}"))
                    self._claim()
            self._held = held.pop_all()
        return self

    @contextmanager
    def _locked(self, name: str, patience: float = 0.0) -> Iterator[None]:
        lock = FileLock(self.path / name, timeout=patience)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"out={str(self.path)!r}: another run is working in this folder."
            ) from error
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _unusable(self, error: OSError) -> OutputError:
        return OutputError(
            f"out={str(self.path)!r} cannot be used as a folder: {error.strerror or error}."
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def _claim(self) -> None:
        manifest = self.path / MANIFEST
        if self.part is None:
            for unfinished in self.path.glob(".*.part"):
                # Of a run that was killed while it wrote; nobody else is here.
                unfinished.unlink()
        if manifest.exists():
            self._compare(manifest)
            return
        others = [p.name for p in self.path.iterdir() if not p.name.startswith(LOCK)]
        if others:
            raise OutputError(
                f"out={str(self.path)!r} holds other files ({', '.join(sorted(others)[:3])}); "
                "name a folder of its own."
            )
        with writing(manifest, overwrite=True) as handle:
            handle.write(json.dumps(self.identity, indent=1, sort_keys=True).encode())

    def _compare(self, manifest: Path) -> None:
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise OutputError(f"{str(manifest)!r} cannot be read: {error}.") from error
        names = sorted({*found, *self.identity}) if isinstance(found, dict) else []
        differ = [name for name in names if found.get(name) != self.identity.get(name)]
        if differ or not names:
            told = "; ".join(
                f"{name}: {found.get(name)!r} there, {self.identity.get(name)!r} now"
                for name in differ
            )
            raise OutputError(
                f"out={str(self.path)!r} holds another run ({told or 'no manifest of ours'}); "
                "name another folder."
            )

    def load(self, number: int) -> Kept | None:
        """A finished shard; None where it is not there, or damaged and therefore to be done again.

        Raises:
            OutputError: a file that cannot be read, or one of another run.
        """
        file = self._file(number)
        if not file.exists():
            return None
        try:
            header, state = read_state(file)
        except DamagedError:
            self.damaged.append(number)
            return None
        mine = header.get("identity") == self.identity and header.get("shard") == number
        if not mine or not isinstance(header.get("facts"), dict):
            raise OutputError(f"{str(file)!r} is a shard of another run.")
        return Kept(header["facts"], state)

    def save(self, number: int, facts: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
        """Keep a finished shard.

        Raises:
            OutputError: the disk is full, or the folder cannot be written.
        """
        header = {"identity": self.identity, "shard": number, "facts": dict(facts)}
        write_state(self._file(number), header, state)

    def _file(self, number: int) -> Path:
        return self.path / f"shard-{number:06d}.npz"
