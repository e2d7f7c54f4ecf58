"""Memory that runs out, and numbers that overflow."""

from __future__ import annotations

import random
import resource
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

import lensprobe as lp
from lensprobe.errors import ArgumentError
from lensprobe.models import planted as model_folder

from . import Fault
from .scans import finished, forked, tiny

__all__ = ["FAULTS"]

LONG = ["Once upon a time there was a cat. " * 100] * 8
LARGEST = 65504.0
MARK = ord("#")


@cache
def _plain(kind: str) -> Any:
    """The scan of the long texts with all the memory it wants."""
    return _scan(kind, tiny())


def _scan(kind: str, model: Any) -> Any:
    return getattr(lp, kind).scan(model, LONG, length=256, batch_tokens=16384, progress=False)


def batch(chance: random.Random, folder: Path) -> str:
    """The system refuses memory (an address-space limit) to a batch that is too large for it."""
    kind = chance.choice(("massive", "sinks"))
    plain, more = _plain(kind), chance.randrange(2, 48) << 20

    def work() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + more, most))
        try:
            found = _scan(kind, tiny())
        except ArgumentError as error:
            return 3 if "memory ran out on a single sequence" in str(error) else 1
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        found.save(folder / "found.zip")
        return 0

    code = finished(forked(work))
    assert code in (0, 3), f"exit code {code}"
    if code:
        return "not even one sequence fitted: ArgumentError that says so"
    found = lp.open(folder / "found.zip")
    for table in plain.tables:
        pd.testing.assert_frame_equal(
            found.to_frame(table), plain.to_frame(table), rtol=1e-3, atol=1e-4
        )
    halved = any("memory ran out at" in note for note in found.provenance["notes"])
    return "halved, said so, same numbers" if halved else "it just fitted"


def overflow(chance: random.Random, folder: Path) -> str:
    """A float16 model in which one token, at some positions, drives a dimension past 65,504."""
    dim, places = chance.randrange(768), chance.sample(range(1, 40), 6)
    model = _overflowing(folder / "model", dim, places)
    texts = [_with_marks(chance) for _ in range(6)]
    found = lp.massive.scan(model, texts, batch_tokens=256, progress=False)
    expected = _broken(model, texts)
    rows = found.nonfinite[["layer", "position", "count"]].itertuples(index=False, name=None)
    assert {(layer, place): count for layer, place, count in rows} == expected
    counted = found.kinds[found.kinds["count"] > 0]
    assert np.isfinite(counted[["value", "mean"]]).all(axis=None)
    assert np.isfinite(found.layers[["value", "mean", "median"]]).all(axis=None)
    sinks = lp.sinks.scan(model, texts, progress=False)
    assert np.isfinite(sinks.heads.loc[sinks.heads["count"] > 0, "value"]).all()
    assert bool(sinks.provenance["nonfinite"]) == bool(expected)
    return "counted by layer and position, all means finite" if expected else "nothing overflowed"


def _overflowing(folder: Path, dim: int, places: list[int]) -> Any:
    """The planted model with a token and some positions whose sum is beyond float16."""
    folder.mkdir()
    for file in model_folder.folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    prefix = "transformer." if "transformer.wte.weight" in state else ""
    state[f"{prefix}wte.weight"][MARK, dim] = 0.6 * LARGEST
    state[f"{prefix}wpe.weight"][places, dim] = 0.6 * LARGEST
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return lp.load(folder, dtype="float16", device="cpu")


def _with_marks(chance: random.Random) -> str:
    return "".join("#" if chance.random() < 0.06 else chance.choice("abcdef ") for _ in range(48))


@torch.no_grad()
def _broken(model: Any, texts: list[str]) -> dict[tuple[int, int], int]:
    """Counted without lensprobe: one text at a time, TransformerLens's own cache."""
    counts: dict[tuple[int, int], int] = {}
    for text in texts:
        _, cache = model.run_with_cache(
            model.to_tokens(text), names_filter=lambda n: "resid_post" in n
        )
        for layer in range(model.cfg.n_layers):
            broken = (~cache[f"blocks.{layer}.hook_resid_post"][0].isfinite()).sum(-1)
            for place in broken.nonzero().flatten().tolist():
                counts[layer, place] = counts.get((layer, place), 0) + int(broken[place])
    return counts


FAULTS = (
    Fault("memory refused to a batch",
          "halved and tried again, and the result says so", batch, 10, 0, 180),
    Fault("float16 activations beyond 65,504",
          "infinities reported by layer and position; means over the rest finite", overflow, 10, 1),
)  # fmt: skip
