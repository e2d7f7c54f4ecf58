"""A training on disk: everything that decides what comes next, written whole or not at all.

Safetensors for weights, moments and the random state, Parquet for what has been recorded, JSON for the
rest; nothing is ever unpickled. A state is written beside the older one and moved into its place, so a
process may be killed at any instruction.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import ArgumentError, OutputError
from .account import laid_out
from .log import TABLES, Log

__all__ = ["Shelf", "moved_into", "slug"]

STATE = re.compile(r"state-(\d+)")
WEIGHT, MOMENT, RANDOM = "weight:", "moment:", "random"


class Shelf:
    """The folder of one run. `settings` decide what its numbers are; a folder with others is refused.

    Raises:
        ArgumentError: the folder holds a run with other settings, weights or texts.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"out={str(folder)!r} cannot be written: {error.strerror or error}."
            ) from error
        wanted = json.loads(json.dumps(settings, default=str))
        known = folder / "settings.json"
        if known.exists():
            there = json.loads(known.read_text("utf-8"))
            other = sorted(k for k in {*there, *wanted} if there.get(k) != wanted.get(k))
            if other:
                raise ArgumentError(
                    f"out={str(folder)!r} holds a run with other {', '.join(other)}; name another "
                    "folder, or another run."
                )
        else:
            _write_json(known, wanted)

    def finished(self) -> Log | None:
        """What the run recorded, if it is over."""
        path = self.folder / "finished"
        return _read_log(path) if path.is_dir() else None

    def finish(self, log: Log) -> None:
        """Keep what was recorded and drop the weights."""
        moved_into(self.folder / "finished", lambda path: _write_log(path, log))
        for old in self._states():
            shutil.rmtree(old, ignore_errors=True)

    def save(
        self, log: Log, weights: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]
    ) -> None:
        """Write the state after `log.step` steps and remove older ones."""
        target = self.folder / f"state-{log.step:08d}"

        def write(path: Path) -> None:
            tensors = {WEIGHT + name: kept(weight) for name, weight in weights.items()}
            found = [_state_of(optimizer) for optimizer in optimizers]
            for number, (moments, _) in enumerate(found):
                tensors |= {f"{MOMENT}{number}:{key}": kept(t) for key, t in moments.items()}
            tensors[RANDOM] = torch.get_rng_state()
            save_file(tensors, path / "tensors.safetensors")
            _write_json(path / "optimizers.json", [plain for _, plain in found])
            _write_log(path, log)

        older = self._states()
        if not target.exists():
            moved_into(target, write)
        for old in older:
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def resume(
        self, weights: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]
    ) -> Log | None:
        """Put weights, moments and random numbers back to the newest state; None without one."""
        states = self._states()
        if not states:
            return None
        path = states[-1]
        tensors = load_file(path / "tensors.safetensors")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(tensors[WEIGHT + name])
        plain = json.loads((path / "optimizers.json").read_text("utf-8"))
        for number, optimizer in enumerate(optimizers):
            start = f"{MOMENT}{number}:"
            moments = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
            _put_back(optimizer, moments, plain[number])
        torch.set_rng_state(tensors[RANDOM])
        return _read_log(path)

    def _states(self) -> list[Path]:
        found = [path for path in self.folder.iterdir() if STATE.fullmatch(path.name)]
        return sorted(found)


def kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU that owns its memory, as safetensors wants it."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _state_of(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's tensors by `index:key`, and what else it holds, as JSON."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, state in whole["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}:{key}"] = value
            elif value is not None:
                numbers[f"{index}:{key}"] = value
    groups = [
        {key: value for key, value in group.items() if isinstance(value, bool | int | float | str)}
        for group in whole["param_groups"]
    ]
    return tensors, {"state": numbers, "groups": groups}


def _put_back(optimizer: Optimizer, tensors: Mapping[str, Tensor], plain: Any) -> None:
    whole = optimizer.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *plain["state"].items()]:
        index, _, key = name.partition(":")
        if isinstance(value, Tensor):
            weight = weights[int(index)]
            # In the layout of the weight, as the optimizer itself would have made it.
            value = laid_out(value, weight.detach().cpu()) if value.shape == weight.shape else value
        state.setdefault(int(index), {})[key] = value
    whole["state"] = state
    for group, given in zip(whole["param_groups"], plain["groups"], strict=True):
        group.update(given)
    optimizer.load_state_dict(whole)


def moved_into(target: Path, write: Callable[[Path], object]) -> None:
    """Have a folder written under another name and moved into place when it is complete.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            write(fresh)
            os.replace(fresh, target)
    except OSError as error:
        raise OutputError(
            f"{str(target)!r} cannot be written: {error.strerror or error}."
        ) from error


def slug(name: str) -> str:
    """A run's name as a folder's: different names stay different."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def _write_log(path: Path, log: Log) -> None:
    for name in TABLES:
        pd.DataFrame(log.tables[name]).to_parquet(path / f"{name}.parquet", index=False)
    _write_json(path / "log.json", {"step": log.step, "status": log.status, "notes": log.notes})


def _read_log(path: Path) -> Log:
    facts = json.loads((path / "log.json").read_text("utf-8"))
    log = Log(facts["step"], facts["status"], facts["notes"])
    for name in TABLES:
        frame = pd.read_parquet(path / f"{name}.parquet")
        log.tables[name] = [dict(zip(frame.columns, row, strict=True)) for row in _rows(frame)]
    return log


def _rows(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(frame.itertuples(index=False, name=None))


def _write_json(path: Path, content: Any) -> None:
    fresh = path.with_name(f".{path.name}.part")
    fresh.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    os.replace(fresh, path)
