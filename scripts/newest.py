"""Every analysis once, with the newest packages that are allowed: `make newest`.

Prints the versions and what failed; its exit code is 1 where anything did.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import every_analysis
from tiny_models import write_gpt2_folder, write_llama_folder, write_t5_folder

import lensprobe as lp

PACKAGES = ("transformer-lens", "transformers", "torch", "numpy", "pandas", "plotly", "tokenizers")


def models(folder: Path) -> dict[str, Any]:
    """One of each shape that the library is tested with most."""
    made: dict[str, Any] = {"planted": lp.load("planted", device="cpu")}
    for name, write in (("gpt2", write_gpt2_folder), ("llama", write_llama_folder)):
        path = folder / name
        path.mkdir()
        made[name] = lp.load(write(path), device="cpu")
    return made


def failures(name: str, model: Any) -> list[str]:
    """The analyses that should run on this model and do not."""
    said = lp.check(model).analyses
    broken = []
    for analysis, call in every_analysis.calls(model).items():
        if said[analysis]:
            continue
        try:
            call()
        except Exception:
            traceback.print_exc()
            broken.append(f"{analysis} on {name}")
    print(f"{name}: {len(said)} analyses, {sum(map(bool, said.values()))} do not apply")
    return broken


def main() -> int:
    """Try everything; 1 where something is broken."""
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        broken = [each for name, model in models(folder).items() for each in failures(name, model)]
        (folder / "t5").mkdir()
        t5 = lp.load(write_t5_folder(folder / "t5"), device="cpu")
        if len(lp.generate(t5, ["Hello world"], max_new_tokens=3).texts) != 1:
            broken.append("lp.generate on t5")
        lp.report(lp.load("planted"), ["Hello world."]).to_html(folder / "report.html")
    print("\n".join(f"BROKEN {each}" for each in broken) or "everything runs")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
