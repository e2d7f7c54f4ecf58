"""What watching a training costs: the same training with a look every ten steps, and with none.

    python benchmarks/training.py [--write] [--steps 20]

A look reads the held-out sequences and takes the step that follows it apart. Looks at the beginning and
at the end are both counted, so a longer training pays a little less.
"""

from __future__ import annotations

import argparse

from common import interleaved, record

import lensprobe as lp
from lensprobe.texts import default_texts

EVERY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="refresh the section in RESULTS.md")
    args = parser.parse_args()
    model, texts = lp.load(args.model), default_texts()
    place = lp.massive.scan(model, texts, limit=2, length=64).strongest

    def training(every: int | None) -> None:
        lp.massive.train_and_watch(
            model,
            texts,
            at=place,
            optimizer=lp.massive.Recipe("adamw", learning_rate=1e-5),
            steps=args.steps,
            every=every,
            batch_size=4,
            length=64,
            progress=False,
        )

    times = interleaved(
        {"alone": lambda: training(None), "watched": lambda: training(EVERY)}, args.repeats
    )
    ratio = times["watched"] / times["alone"]
    record(
        "training",
        f"{args.model}, {args.steps} steps of AdamW on 4 sequences of 64 tokens, with the account",
        [(f"watched every {EVERY} steps / not watched", ratio, 1.05)],
        write=args.write,
    )


if __name__ == "__main__":
    main()
