"""What training does to a massive activation: the grid of optimizers and seeds, resumable.

    python scripts/training_grid.py short   [--out FOLDER]     three optimizers, two seeds, twenty steps
    python scripts/training_grid.py grid    [--out FOLDER]     every recipe, two seeds, an hour or two
    python scripts/training_grid.py scratch [--out FOLDER]     a small GPT-2 from nothing

`short` and `grid` go on training SmolLM2-135M on short passages, `scratch` trains a byte-level GPT-2 of
a million weights; the text is WikiText-2 from the folder that LENSPROBE_DATA names, and without it the
opening of Alice that ships with lensprobe. States are kept in `--out` (by default `training-runs` in
the current folder), where a call that was ended goes on, and where a run that is finished is not run
again when `--seeds` grows; results go to `docs/results/training/NAME` as small Parquet files with
their provenance. `--steps`, `--seeds`, `--length` and `--batch-size` change the size.
"""

from __future__ import annotations

import argparse
import os
import re
from itertools import chain, zip_longest
from pathlib import Path

import lensprobe as lp
from lensprobe.errors import Interrupted
from lensprobe.massive import (
    FreezeMoment,
    Recipe,
    ScaleMoment,
    TrainingWatch,
    WarmStart,
    ZeroMoment,
)
from lensprobe.texts import default_texts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "training"
RATE = 1e-4
"""AdamW's, a tenth or so of what such models are trained with at first. SGD's rates below lower the
loss about as fast."""
HEADING = re.compile(r"(?m)^ (?== [^=]+ =\s*$)")
PASSAGE = 240
"""Characters of a passage: a few more than the tokens of a short sequence take."""
UNSEEN = 2
"""Articles at the end that nothing is trained on."""

ADAMW = Recipe("adamw", learning_rate=RATE, weight_decay=0.1)
SHORT = {
    "AdamW": ADAMW,
    "AdamW, β₁ = 0": Recipe("adamw", learning_rate=RATE, weight_decay=0.1, betas=(0.0, 0.999)),
    "SGD with momentum": Recipe("momentum", learning_rate=1e-3),
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
        "AdamW, η / 3": Recipe(**{**common, "learning_rate": RATE / 3}),
        "AdamW, η / 10": Recipe(**{**common, "learning_rate": RATE / 10}),
        "SGD": Recipe("sgd", learning_rate=1e-2),
        "SGD, Nesterov": Recipe("nesterov", learning_rate=1e-3),
        "Muon": Recipe("muon", learning_rate=RATE, weight_decay=0.1),
        "AdamW, second moments warmed": Recipe(**common, interventions=(WarmStart("second", 16),)),
        "AdamW, both moments warmed": Recipe(**common, interventions=(WarmStart("both", 16),)),
        "AdamW, writer without momentum": Recipe(
            **common, interventions=(ZeroMoment("first", "writer"),)
        ),
        "AdamW, writer's momentum reversed": Recipe(
            **common, interventions=(ScaleMoment("first", "writer", factor=-1.0),)
        ),
        "AdamW, second moments frozen": Recipe(
            **common,
            interventions=(FreezeMoment("second", steps=range(max(2, steps // 2), steps + 1)),),
        ),
    }


def articles() -> list[str]:
    """The articles of WikiText-2's validation text; without it the shipped text."""
    path = Path(os.environ.get("LENSPROBE_DATA", ""), "wikitext-2", "valid.txt")
    if not path.is_file():
        return default_texts()
    found = HEADING.split(path.read_text("utf-8"))
    return [article for article in found if len(article) > PASSAGE]


def passages() -> list[str]:
    """Beginnings of paragraphs, of each article in turn, so that neighbours are of different ones."""
    each = [
        [part[:PASSAGE] for part in article.splitlines() if len(part) >= PASSAGE]
        for article in articles()
    ]
    turns = chain.from_iterable(zip_longest(*each))
    return [passage for passage in turns if passage is not None]


def continued(args: argparse.Namespace, runs: dict[str, Recipe], every: int) -> TrainingWatch:
    """SmolLM2-135M, trained on with each recipe."""
    return lp.massive.train_and_watch(
        lp.load("smollm2-135m"),
        passages(),
        runs=runs,
        steps=args.steps,
        every=every,
        held_out=8,
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
        articles()[:-UNSEEN],
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


def trained(args: argparse.Namespace) -> TrainingWatch:
    """What the command line names."""
    if args.what == "scratch":
        return scratch(args)
    if args.what == "short":
        return continued(args, SHORT, every=1)
    return continued(args, grid(args.steps), every=5)


SIZES = {
    "short": {"steps": 20, "seeds": 2, "length": 48, "batch_size": 4},
    "grid": {"steps": 30, "seeds": 2, "length": 48, "batch_size": 4},
    "scratch": {"steps": 4000, "seeds": 1, "length": 64, "batch_size": 16},
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
    try:
        watch = trained(args)
    except Interrupted as interrupt:
        if not isinstance(interrupt.partial, TrainingWatch):
            raise
        print(f"{interrupt} What there is by now is written; call again to go on.")
        watch = interrupt.partial
    folder = watch.to_folder(args.results / args.what, overwrite=True)
    if args.what == "scratch":
        series = lp.massive.over_checkpoints(list(watch.checkpoints["path"]), articles()[-UNSEEN:])
        series.checkpoints.to_parquet(folder / "scans.parquet", index=False, compression="zstd")
        print(series.checkpoints.to_string())
    for name, value in watch.summary().items():
        print(f"{name:>40}  {value}")
    print(f"{folder}")


if __name__ == "__main__":
    main()
