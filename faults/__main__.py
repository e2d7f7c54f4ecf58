"""Try every fault and write down what happened.

    python -m faults [--only FAMILY ...] [--quick | --share 0.2] [--jobs 2] [--write]

`--write` replaces the section of each family that was run in `docs/reliability.md`. With `--jobs` so
many families are tried at a time, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Before torch is imported: children are forked, and a fork has no threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tiny models and the made-up scans of the tests serve here too.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
# A shell that starts this in the background has it ignore Ctrl-C; no trial of one would mean anything.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from . import families
from .page import refresh, section
from .trying import Outcome, attempt

LONGEST = "workers"
"""The family that takes longest, and mostly waits for processes to start."""


def main() -> int:
    """Run the families that were asked for; 1 where a promise was broken."""
    known = families()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument("--quick", action="store_true", help="as few trials as the tests make")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.jobs > 1 and len(given.only) > 1:
        return _apart(given)
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


def _apart(given: argparse.Namespace) -> int:
    """Every family in a process of its own, the long ones first; 1 where a promise was broken."""
    command = [sys.executable, "-m", "faults", "--share", str(given.share)]
    command += ["--quick"] * given.quick + ["--write"] * given.write

    def run(family: str) -> int:
        return subprocess.run([*command, "--only", family]).returncode

    with ThreadPoolExecutor(given.jobs) as pool:
        order = sorted(given.only, key=lambda family: (family != LONGEST, family))
        return max(pool.map(run, order))


if __name__ == "__main__":
    sys.exit(main())
