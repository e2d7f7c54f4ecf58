"""Generation under edits against generation without them and against the model's own `generate`.

    python benchmarks/generation.py [--write]

Runs are interleaved and the medians' ratios are printed, all from one process.
"""

from __future__ import annotations

import argparse

import torch
from common import interleaved, record

import lensprobe as lp

TOKENS = 64


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = lp.load(given.model)
    ids = model.to_tokens("Once upon a time, in a village by the sea, there was a")
    width = model.cfg.d_model
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0)) * 0.01
    middle = model.cfg.n_layers // 2
    edits = [
        lp.Add(vector, layers=middle),
        lp.Scale(factor=0.99, layers=middle + 1, positions=lp.positions.after_prompt()),
        lp.ProjectOut(vector, layers=middle + 2, positions=lp.positions.generated()),
    ]
    options = {"max_new_tokens": TOKENS, "stop_at_eos": False}
    times = interleaved(
        {
            "plain": lambda: lp.generate(model, ids[0], **options),
            "three edits": lambda: lp.generate(model, ids[0], edits=edits, **options),
            "model.generate": lambda: model.generate(
                ids, do_sample=False, verbose=False, **options
            ),
        },
        given.repeats,
    )
    record(
        "generation",
        f"{TOKENS} greedy tokens, batch of one, {given.model}",
        [
            ("three edits / no edits", times["three edits"] / times["plain"], 1.05),
            ("three edits / model.generate", times["three edits"] / times["model.generate"], 1.05),
        ],
        write=given.write,
    )


if __name__ == "__main__":
    main()
