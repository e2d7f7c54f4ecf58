"""What training does to a massive activation: the grid of optimizers and seeds, resumable.

    python scripts/training_grid.py short   [--out FOLDER]     three optimizers, two seeds, twenty steps
    python scripts/training_grid.py grid    [--out FOLDER]     every recipe, three seeds, hours on a CPU
    python scripts/training_grid.py scratch [--out FOLDER]     a small GPT-2 from nothing

`short` and `grid` go on training SmolLM2-135M, `scratch` a byte-level GPT-2 of a million weights; the
text is tinyshakespeare from the folder that LENSPROBE_DATA names, and without it the opening of Alice
that ships with lensprobe. States are kept in `--out` (by default `training-runs` in the current
folder), where a call that was ended goes on; results go to `docs/results/training/NAME` as small
Parquet files with their provenance. `--steps`, `--seeds`, `--length` and `--batch-size` change the
size.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import lensprobe as lp
from lensprobe.massive import FreezeMoment, Recipe, TrainingWatch, WarmStart, ZeroMoment
from lensprobe.texts import default_texts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "training"
RATE = 1e-5
"""AdamW's: a continued training that lowers the loss from the first step on."""

ADAMW = Recipe("adamw", learning_rate=RATE, weight_decay=0.1)
SHORT = {
    "AdamW": ADAMW,
    "AdamW, β₁ = 0": Recipe("adamw", learning_rate=RATE, weight_decay=0.1, betas=(0.0, 0.999)),
    "SGD, momentum": Recipe("momentum", learning_rate=1e-3),
}


def grid(steps: int) -> dict[str, Recipe]:
    """Every way to train of the full grid, by the name figures show."""
    warm = max(1, steps // 5)
    common = {"optimizer": "adamw", "learning_rate": RATE, "weight_decay": 0.1}
    return {
        **SHORT,
        "AdamW, warm-up": Recipe(**common, warmup=warm),
        "AdamW, β₂ = 0.95": Recipe(**common, betas=(0.9, 0.95)),
        "AdamW, no decay": Recipe(**{**common, "weight_decay": 0.0}),
        "AdamW, η × 10": Recipe(**{**common, "learning_rate": 10 * RATE}),
        "AdamW, η × 3": Recipe(**{**common, "learning_rate": 3 * RATE}),
        "AdamW, η / 10": Recipe(**{**common, "learning_rate": RATE / 10}),
        "SGD": Recipe("sgd", learning_rate=1e-2),
        "SGD, Nesterov": Recipe("nesterov", learning_rate=1e-3),
        "Muon": Recipe("muon", learning_rate=RATE, weight_decay=0.1),
        "AdamW, second moments warmed": Recipe(**common, interventions=(WarmStart("second", 16),)),
        "AdamW, both moments warmed": Recipe(**common, interventions=(WarmStart("both", 16),)),
        "AdamW, writer without momentum": Recipe(
            **common, interventions=(ZeroMoment("first", "writer"),)
        ),
        "AdamW, second moments frozen": Recipe(
            **common,
            interventions=(FreezeMoment("second", steps=range(max(2, steps // 2), steps + 1)),),
        ),
    }


def texts() -> list[str]:
    """Tinyshakespeare by its speeches' blank lines, a few at a time; else the shipped text."""
    path = Path(os.environ.get("LENSPROBE_DATA", ""), "tinyshakespeare", "input.txt")
    if not path.is_file():
        return default_texts()
    speeches = path.read_text("utf-8").split("\n\n")
    return ["\n\n".join(speeches[begin : begin + 40]) for begin in range(0, len(speeches), 40)]


def continued(args: argparse.Namespace, runs: dict[str, Recipe], every: int) -> TrainingWatch:
    """SmolLM2-135M, trained on with each recipe."""
    return lp.massive.train_and_watch(
        lp.load("smollm2-135m"),
        texts(),
        runs=runs,
        steps=args.steps,
        every=every,
        seeds=list(range(args.seeds)),
        length=args.length,
        batch_size=args.batch_size,
        out=args.out / args.what,
        progress=True,
    )


def scratch(args: argparse.Namespace) -> TrainingWatch:
    """A GPT-2 of four layers from random weights, looked at all the way, checkpoints kept."""
    recipe = Recipe(
        "adamw", learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup=50, clip=1.0
    )
    return lp.massive.train_and_watch(
        lp.massive.untrained(),
        texts(),
        runs={"AdamW": recipe},
        steps=args.steps,
        every=max(1, args.steps // 40),
        watch="largest",
        seeds=list(range(args.seeds)),
        length=args.length,
        batch_size=args.batch_size,
        out=args.out / args.what,
        checkpoints=max(1, args.steps // 5),
        progress=True,
    )


SIZES = {
    "short": {"steps": 20, "seeds": 2, "length": 64, "batch_size": 4},
    "grid": {"steps": 200, "seeds": 3, "length": 128, "batch_size": 8},
    "scratch": {"steps": 2400, "seeds": 1, "length": 64, "batch_size": 16},
}


def main() -> None:
    """Run what the command line names and write its results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=SIZES)
    parser.add_argument("--out", type=Path, default=Path("training-runs"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    for name in ("steps", "seeds", "length", "batch-size"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    for name, value in SIZES[args.what].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.what == "scratch":
        watch = scratch(args)
    elif args.what == "short":
        watch = continued(args, SHORT, every=1)
    else:
        watch = continued(args, grid(args.steps), every=10)
    folder = watch.to_folder(args.results / args.what, overwrite=True)
    if args.what == "scratch":
        series = lp.massive.over_checkpoints(list(watch.checkpoints["path"]), texts()[-2:])
        series.checkpoints.to_parquet(folder / "scans.parquet", index=False, compression="zstd")
        print(series.checkpoints.to_string())
    for name, value in watch.summary().items():
        print(f"{name:>40}  {value}")
    print(f"{folder}")


if __name__ == "__main__":
    main()
