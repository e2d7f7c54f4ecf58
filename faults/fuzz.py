"""Coverage-guided fuzzing of the file readers, with atheris.

    python -m faults.fuzz [--seconds 60] [--write]

Every reader has a process of its own, in which lensprobe and gguf are instrumented. What does not end
in an error of lensprobe's ends the process, and its input is kept in `build/fuzz`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from . import Fault
from .page import refresh, section
from .trying import Outcome

__all__ = ["FOUND"]

ROOT = Path(__file__).parents[1]
FOUND = ROOT / "build" / "fuzz"
TITLE = "File readers under coverage-guided fuzzing"
NAMES = ("vectors, .safetensors", "vectors, .gguf", "models, .gguf", "pieces of a scan",
         "saved results (zip, JSON, npy, Parquet)", "documents, .jsonl", "documents, .txt")  # fmt: skip
LONGEST, SLOWEST, MEMORY = 65_536, 20, 3000


def one(name: str, seconds: int) -> None:
    """Fuzz one reader in this process, until the time is over or something is found."""
    import atheris

    sys.path.insert(0, str(ROOT / "tests"))
    with atheris.instrument_imports(include=["lensprobe", "gguf"]):
        from .readers import READERS, read

    reader = READERS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(reader.seeds()):
        if len(seed) <= LONGEST:
            (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={SLOWEST}"]
    options += [f"-rss_limit_mb={MEMORY}", "-print_final_stats=1", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: read(reader, data, folder))
    atheris.Fuzz()


def outcome(name: str, seconds: int) -> Outcome:
    """One reader, fuzzed in a process of its own."""
    FOUND.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    command = [sys.executable, "-m", "faults.fuzz", "--reader", name, "--seconds", str(seconds)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    told = done.stderr + done.stdout
    stated = re.findall(r"number_of_executed_units:\s*(\d+)|^#(\d+)\s", told, re.M)
    executed = max((int(a or b) for a, b in stated), default=0)
    broken: tuple[str, ...] = ()
    if done.returncode:
        raised = re.findall(r"^((?:\w+\.)*\w*(?:Error|Exception): .*|ALARM: .*)$", told, re.M)
        broken = (f"exit code {done.returncode}: {raised[0] if raised else told[-200:]}",)
    fault = Fault(name, "read, or refused with an error of lensprobe's", _nothing, 0)
    words = Counter({f"executions in {seconds} s without a finding": 0 if broken else executed})
    words.update({"executions before a finding": executed} if broken else {})
    return Outcome(fault, +words, broken, "", time.monotonic() - begin)


def _nothing(*_: object) -> str:
    return ""


def main() -> int:
    """Fuzz every reader; 1 where one was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error('atheris is not installed: pip install "lensprobe[fuzz]"')
    if given.reader:
        one(given.reader, given.seconds)
        return 0
    outcomes = [outcome(name, given.seconds) for name in NAMES]
    text = section(TITLE, outcomes)
    print(text)
    if given.write:
        refresh(TITLE, text)
    return int(any(each.broken for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
