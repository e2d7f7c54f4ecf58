"""Try every fault and write down what happened.

    python -m faults [--only FAMILY ...] [--quick | --share 0.2] [--write]

`--write` replaces the section of each family that was run in `docs/reliability.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before torch is imported: children are forked, and a fork has no threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tiny models and the made-up scans of the tests serve here too.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from . import families
from .page import refresh, section
from .trying import Outcome, attempt


def main() -> int:
    """Run the families that were asked for; 1 where a promise was broken."""
    known = families()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument("--quick", action="store_true", help="as few trials as the tests make")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    broken = 0
    for family in given.only:
        title, faults = known[family]
        outcomes: list[Outcome] = []
        for fault in faults:
            trials = fault.quick if given.quick else max(1, round(given.share * fault.trials))
            outcomes.append(attempt(fault, trials))
            last = outcomes[-1]
            print(f"{fault.name}: {dict(last.outcomes)} {last.missing} {last.seconds:.0f} s")
            print(*(f"  BROKEN {words}" for words in last.broken[:5]), sep="\n", flush=True)
            broken += len(last.broken)
            if given.write:
                # After each, so that what ends the whole run early leaves what came before.
                refresh(title, section(title, outcomes))
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
