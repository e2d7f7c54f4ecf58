"""The whole study of additions in a network for digits against a loop of `run_with_hooks` calls.

    LENSPROBE_DATA=... python benchmarks/mnist.py [--write]

90 pairs at 5 layers on 10,000 images. The study runs whole; of the loop's 450 cells a sample runs, each
layer equally often, and its time is extrapolated, which the section in RESULTS.md says. Both compute
the same outputs, which are compared. Without MNIST, scikit-learn's digits stand in.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from common import interleaved, record

import lensprobe as lp
from lensprobe.costs import PeakMemory
from lensprobe.mnist.study_tables import rows_where

PAIRS = [(a, b) for a in range(10) for b in range(10) if a != b]


def loop(model, data, cells) -> list[float]:
    """Each cell as TransformerLens's users write it; the losses without b's images, to compare."""
    images, labels = torch.from_numpy(data.test_images), torch.from_numpy(data.test_labels)
    shown = torch.nn.functional.one_hot(labels, 10).float()
    first = torch.from_numpy(np.stack([data.images[data.of(digit)[0]] for digit in range(10)]))
    losses = []
    with torch.no_grad():
        _, cache = model.run_with_cache(first)
        for layer, (a, b) in cells:
            name = f"layers.{layer}.hook_out"
            step = cache[name][a] - cache[name][b]
            logits = model.run_with_hooks(images, fwd_hooks=[(name, lambda x, hook, s=step: x + s)])
            log_p = logits.log_softmax(1)
            loss = -log_p.gather(1, labels[:, None])[:, 0]
            right = logits.argmax(1) == labels
            # The same outputs as the study's: means for each shown digit.
            shown.T @ torch.cat([logits, log_p.exp(), loss[:, None], right[:, None]], 1)
            losses.append(float(loss[labels != b].mean()))
    return losses


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=3, help="pairs of each layer in the loop")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    folder = Path(os.environ.get("LENSPROBE_DATA", "")) / "mnist"
    data = lp.mnist.load_digits_data(folder if folder.is_dir() else None)
    model = lp.mnist.HookedMLP((data.images.shape[1], given.hidden, given.hidden, 10))
    lp.mnist.train(model, data, target=0.09 if folder.is_dir() else None, epochs=5)
    chosen = PAIRS[:: len(PAIRS) // given.sample][: given.sample]
    cells = [(layer, pair) for layer in range(5) for pair in chosen]
    found = {}

    def study() -> None:
        found["study"] = lp.mnist.study(model, data, n=0, progress=False)

    def sample() -> None:
        found["loop"] = loop(model, data, cells)

    with PeakMemory(torch.device("cpu")) as peak:
        study()
    times = interleaved({"study": study, f"{len(cells)} cells of the loop": sample}, given.repeats)
    whole = times[f"{len(cells)} cells of the loop"] / len(cells) * len(PAIRS) * 5
    losses = rows_where(found["study"].effects, group="others", measure="loss")
    losses = losses.set_index(["layer", "positive", "negative"])["value"]
    gap = max(
        abs(losses[layer, a, b] / value - 1)
        for (layer, (a, b)), value in zip(cells, found["loop"], strict=True)
    )
    record(
        "mnist",
        f"{len(PAIRS)} pairs × 5 layers × {len(data.test_images):,} images of {data.name}, "
        f"{model.cfg.model_name}; the loop of run_with_hooks extrapolated to "
        f"{len(PAIRS) * 5} cells from {len(cells)}",
        [
            ("study, seconds", times["study"], None),
            ("loop, seconds, extrapolated", whole, None),
            ("study / loop", times["study"] / whole, 0.1),
            ("peak memory of the process, MB", peak.bytes / 2**20, 2048.0),
            ("largest relative difference in loss", gap, 1e-4),
        ],
        write=given.write,
    )


if __name__ == "__main__":
    main()
