"""What watching a training costs: steps that are looked at beside those between them.

    python benchmarks/training.py [--write] [--steps 40]

A look reads the held-out sequences and takes the step that follows it apart. Whole trainings with looks
and without differ by less than a machine's moods, so that each step of one training is timed, and
medians are compared: ten steps of which one is watched, over ten that are not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from common import record

import lensprobe as lp
from lensprobe.massive.training.run import Run
from lensprobe.texts import default_texts

EVERY = 10


def timed(seconds: list[float], step: Callable[[Run], None]) -> Callable[[Run], None]:
    """A step that notes how long it took."""

    def run(self: Run) -> None:
        begin = time.perf_counter()
        step(self)
        seconds.append(time.perf_counter() - begin)

    return run


def training(model: Any, steps: int) -> list[float]:
    """Seconds of each step of a training with a look every ten; the last call only looks."""
    texts = default_texts()
    place = lp.massive.scan(model, texts, limit=2, length=64).strongest
    seconds: list[float] = []
    with patch.object(Run, "_step", timed(seconds, Run._step)):
        lp.massive.train_and_watch(
            model,
            texts,
            at=place,
            optimizer=lp.massive.Recipe("adamw", learning_rate=1e-5),
            steps=steps,
            every=EVERY,
            batch_size=4,
            length=64,
            progress=False,
        )
    return seconds[:steps]


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    seconds = training(lp.load(args.model), args.steps)
    # The first step of all also makes the optimizer's state.
    watched = statistics.median(seconds[EVERY::EVERY])
    plain = statistics.median(s for step, s in enumerate(seconds) if step % EVERY)
    record(
        "training",
        f"{args.model}, {args.steps} steps of AdamW on 4 sequences of 64 tokens, with the account",
        [
            (
                f"watched every {EVERY} steps / not watched",
                (watched + (EVERY - 1) * plain) / (EVERY * plain),
                1.05,
            ),
            ("a watched step / a step", watched / plain, None),
        ],
        write=args.write,
    )


if __name__ == "__main__":
    main()
