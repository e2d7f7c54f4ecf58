"""The full sink scan against the forward passes it is made of, and long contexts in chunks.

    python benchmarks/sinks.py [--write]

Every rival reads the same batches in the same process, in turn, and medians are compared. "plain" is
the hooked model called on the same windows; the plain way of a long context is one pass whose patterns
are length x length. Peak memory is measured in a process of its own for each way. The patching map is
one of every few layers, against a loop of `run_with_hooks` that reads the same attention.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import interleaved, record

import lensprobe as lp
from lensprobe.corpus import Batch, Corpus
from lensprobe.costs import PeakMemory, resident
from lensprobe.models.adapter import adapter_for
from lensprobe.texts import default_texts

LENGTH = 64
LONG = 4096

Row = tuple[str, float, float | None]


def passes(model: torch.nn.Module, batches: list[Batch]) -> Callable[[], None]:
    """Eager forward passes that return logits and keep nothing."""

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                mask = batch.tokens.mask.long() if batch.tokens.ragged else None
                model(batch.tokens.ids, attention_mask=mask, use_cache=False)

    return run


def long_text(model: object, length: int) -> list[int]:
    """Natural text of that many tokens: the default texts, one after the other, again and again."""
    windows = Corpus(adapter_for(model), default_texts(), length=1024).windows()
    ids = [token for window in windows for token in window.ids[1:]]
    return [windows_bos(model), *np.resize(ids, length - 1).tolist()]


def windows_bos(model: object) -> int:
    """The token that windows begin with."""
    return int(adapter_for(model).tokenizer.bos_token_id)


def full_scan(model: object, repeats: int, limit: int | None) -> list[Row]:
    """All measures of a scan, at the paper's window."""
    texts = default_texts()[:limit]
    batches = list(Corpus(adapter_for(model), texts, length=LENGTH).batches())
    times = interleaved(
        {
            "plain": passes(model, batches),  # pyright: ignore[reportArgumentType]
            "sinks": lambda: lp.sinks.scan(model, texts, length=LENGTH, progress=False),
        },
        repeats,
    )
    return [("full scan / eager passes", times["sinks"] / times["plain"], 1.3)]


def chunked_time(model: object, repeats: int, length: int) -> list[Row]:
    """The same long text in chunks and in one pass."""
    text = [long_text(model, length)]
    options = {"length": length, "bos": False, "progress": False}
    times = interleaved(
        {
            "whole": lambda: lp.sinks.scan(model, text, chunk=length, **options),
            "chunks": lambda: lp.sinks.scan(model, text, **options),
        },
        max(1, repeats // 3),
        warm=False,
    )
    label = f"chunked / plain scan of {length:,} tokens"
    return [(label, times["chunks"] / times["whole"], 1.3)]


def peak(name: str, length: int, chunk: int | None) -> int:
    """Bytes above the loaded model that a scan takes, in this process."""
    model = lp.load(name)
    text = [long_text(model, length)]
    # Kernels are loaded and pools filled before anything is counted.
    lp.sinks.scan(model, [text[0][:64]], bos=False, progress=False)
    before = resident()
    with PeakMemory(torch.device("cpu")) as memory:
        lp.sinks.scan(model, text, length=length, bos=False, chunk=chunk, progress=False)
    return memory.bytes - before


def chunked_memory(name: str, length: int) -> list[Row]:
    """Peaks above the weights, each in a fresh process."""
    found = []
    for chunk in (0, length):
        command = [sys.executable, __file__, "--model", name, "--peak", str(chunk)]
        run = subprocess.run(
            [*command, "--long", str(length)],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(int(run.stdout.split()[-1]))
        print(
            f"{'whole' if chunk else 'chunks':>28}  {found[-1] / 2**20:,.0f} MB above the weights"
        )
    return [("chunked / plain peak above the weights", found[0] / found[1], 0.25)]


def patching_map(model: Any, length: int, layers: list[int]) -> list[Row]:
    """Layer x position map of the residual stream, against one `run_with_hooks` a cell, once each."""
    adapter = adapter_for(model)
    clean = long_text(model, length)
    corrupt = [clean[0], *[clean[length // 2]] * (length - 1)]
    _, cache = model.run_with_cache(torch.tensor([clean]), names_filter=_residuals(layers))

    def loop() -> None:
        ids = torch.tensor([corrupt])
        for layer in layers:
            held = cache[adapter.hook_name("resid_pre", layer)]
            for place in range(length):
                taken = held[:, place]

                def write(
                    value: torch.Tensor,
                    hook: Any,
                    place: int = place,
                    taken: torch.Tensor = taken,
                ) -> torch.Tensor:
                    out = value.clone()
                    out[:, place] = taken
                    return out

                seen: list[torch.Tensor] = []

                def paid(pattern: torch.Tensor, hook: Any, seen: list = seen) -> None:
                    seen.append(pattern[..., 0].mean(-1))

                hooks: list[Any] = [(f"blocks.{layer}.hook_resid_pre", write)]
                names = (f"blocks.{n}.attn.hook_pattern" for n in range(adapter.n_layers))
                hooks += [(name, paid) for name in names]
                model.run_with_hooks(ids, fwd_hooks=hooks)

    with torch.no_grad():
        times = interleaved(
            {
                "map": lambda: lp.sinks.patch(model, clean, corrupt, layers=layers, progress=False),
                "loop": loop,
            },
            1,
            warm=False,
        )
    return [
        (
            f"patching map of {length} tokens / loop of hooked runs",
            times["map"] / times["loop"],
            0.2,
        )
    ]


def _residuals(layers: list[int]) -> Callable[[str], bool]:
    wanted = {f"blocks.{layer}.hook_resid_pre" for layer in layers}
    return lambda name: name in wanted


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, help="most texts of the full scan")
    parser.add_argument("--long", type=int, default=LONG)
    parser.add_argument("--peak", type=int, help="print one peak in bytes; 0 chooses the chunk")
    parser.add_argument("--map", type=int, default=64, help="tokens of the patching map")
    parser.add_argument("--every", type=int, default=6, help="every which layer the map has")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.peak is not None:
        print(peak(given.model, given.long, given.peak or None))
        return
    model = lp.load(given.model)
    rows = full_scan(model, given.repeats, given.limit)
    rows += chunked_time(model, given.repeats, given.long)
    # From the middle of each stretch, so that the layers' mean depth is the model's.
    depths = range(given.every // 2, adapter_for(model).n_layers, given.every)
    rows += patching_map(model, given.map, list(depths))
    del model
    rows += chunked_memory(given.model, given.long)
    record(
        "sinks",
        f"{given.model}, float32; the full scan reads windows of {LENGTH}, the long text has "
        f"{given.long:,} tokens in one row",
        rows,
        write=given.write,
    )


if __name__ == "__main__":
    main()
