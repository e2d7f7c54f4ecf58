"""Steering against steering-vectors and repeng, and against the same work without sharing.

    python benchmarks/steering.py [--write] [--sweeps]

The rivals are installed into an environment of their own, `.venv-rivals`, and run there in a second
process, in turn with lensprobe, over the same weights from the same folder. Questions come from
`LENSPROBE_DATA`; without it the benchmark says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import interleaved, record
from transformers import AutoModelForCausalLM, AutoTokenizer

import lensprobe as lp
from lensprobe.models.sources import find

ROOT = Path(__file__).parent.parent
RIVALS = ROOT / ".venv-rivals"
PACKAGES = ["steering-vectors==0.12.2", "repeng==0.4.0"]
SET = "anthropic-evals/coordinate-other-ais.jsonl"
PAIRS, LAYER = 64, 15


def environment() -> Path:
    """The rivals' interpreter, installed on first use."""
    python = RIVALS / "bin" / "python"
    mark = RIVALS / "installed"
    if not mark.exists():
        subprocess.run([sys.executable, "-m", "venv", str(RIVALS)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pin = f"torch=={torch.__version__.split('+')[0]}"
        subprocess.run([*pip, pin], check=True)
        subprocess.run([*pip, pin, *PACKAGES], check=True)
        mark.touch()
    return python


class Rivals:
    """The second process."""

    def __init__(self, folder: str) -> None:
        command = [environment(), Path(__file__).parent / "_rivals.py", folder]
        self.process = subprocess.Popen(
            [*map(str, command), str(torch.get_num_threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self._answer()

    def ask(self, call: str, *arguments: object) -> dict:
        """One job; its seconds are counted in the other process."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the rivals' process ended; run benchmarks/_rivals.py by hand")
        return json.loads(line)

    def close(self) -> None:
        """End the second process."""
        self.process.communicate()


def folder_of(name: str, folder: Path) -> str:
    """The weights as one Hugging Face folder that all of them load."""
    source = find(name)
    place, file = str(source.folder), source.file
    unpacked = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    # A model that came from GGUF refuses to be saved, though its weights are plain by now.
    config = type(unpacked.config).from_dict(
        {k: v for k, v in unpacked.config.to_dict().items() if k != "quantization_config"}
    )
    # transformers 4, which the rivals need, looks for it here and would take 10,000 without a word.
    config.rope_theta = config.rope_parameters["rope_theta"]
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=file).save_pretrained(folder)
    return str(folder)


def extraction(model, rivals: Rivals, asked, repeats: int) -> list[tuple[str, float, float | None]]:
    """Mean-difference vectors of the same pairs at the same layer."""
    # Everyone reads the same tokens: lensprobe begins as TransformerLens does, with BOS.
    start = model.tokenizer.bos_token
    pairs = [
        [start + q.question + answer for answer in (q.matching, q.not_matching)] for q in asked
    ]
    names = ("steering_vectors", "repeng")
    last: dict[str, np.ndarray] = {}

    def rival(name: str):
        def run() -> None:
            last[name] = np.array(rivals.ask(name, pairs, LAYER)["value"])

        return run

    def ours() -> None:
        last["ours"] = lp.steering.difference(model, asked, layers=LAYER, progress=False).values

    times = interleaved({"lensprobe": ours, **{name: rival(name) for name in names}}, repeats)
    rows: list[tuple[str, float, float | None]] = []
    for name in names:
        rows.append((f"extraction / {name}", times["lensprobe"] / times[name], 0.25))
        a, b = last["ours"], last[name]
        gap = 1 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        rows.append((f"1 - cosine with {name}", gap, 1e-4))
    return rows


def all_layers(model, asked, repeats: int) -> tuple[str, float, float | None]:
    """Every layer in one pass against the deepest alone."""
    top = model.cfg.n_layers - 1
    times = interleaved(
        {
            "deepest layer": lambda: lp.steering.difference(
                model, asked, layers=top, progress=False
            ),
            "all layers": lambda: lp.steering.difference(
                model, asked, layers="all", progress=False
            ),
        },
        repeats,
    )
    return ("all layers / deepest layer", times["all layers"] / times["deepest layer"], 1.3)


def generation(model, vector, repeats: int) -> tuple[str, float, float | None]:
    """Greedy tokens with a vector added after the prompt, and without."""
    options = {"max_new_tokens": 64, "stop_at_eos": False}
    prompt = "Once upon a time, in a village by the sea, there was a"
    times = interleaved(
        {
            "plain": lambda: lp.generate(model, prompt, **options),
            "steered": lambda: lp.generate(model, prompt, edits=[vector.add(1.0)], **options),
        },
        repeats,
    )
    return ("steered / plain generation", times["steered"] / times["plain"], 1.05)


def sweeps(model, vector, asked, texts) -> list[tuple[str, float, float | None]]:
    """Thirty layers and nine scales at once, against a run for each cell that reads the same."""
    scales = np.linspace(-2, 2, 9)
    rows: list[tuple[str, float, float | None]] = []
    asked_texts = [q.question + q.matching[:2] for q in asked]
    cases = {
        "questions": (asked, asked_texts, lp.positions.after_prompt(), "last", answered),
        "texts": (texts, texts, lp.positions.all() - lp.positions.front(1), "all", told),
    }
    for name, (given, plain, where, logits, measured) in cases.items():
        ids = torch.cat([model.to_tokens(text)[0] for text in plain])

        def loop(plain=plain, where=where, logits=logits, measured=measured, ids=ids) -> None:
            bare = lp.forward(model, plain, logits=logits, progress=False)
            for layer in range(model.cfg.n_layers):
                for scale in scales:
                    edits = [vector.add(float(scale), where, layers=layer)]
                    run = lp.forward(model, plain, edits=edits, logits=logits, progress=False)
                    measured(run, bare, ids)

        def at_once(given=given, where=where) -> None:
            lp.steering.sweep(
                model, given, vector=vector, scales=scales, positions=where, progress=False
            )

        times = interleaved({f"sweep of {name}": at_once, f"loop over {name}": loop}, 1, warm=False)
        ratio = times[f"sweep of {name}"] / times[f"loop over {name}"]
        rows.append((f"30 x 9 sweep / loop, {name}", ratio, 1 / 3))
    return rows


def independent(model, vector, texts) -> list[tuple[str, float, float | None]]:
    """Every third layer of the texts, against runs that share nothing: each has its own plain run."""
    scales, layers = np.linspace(-2, 2, 9), range(1, model.cfg.n_layers, 3)
    where = lp.positions.all() - lp.positions.front(1)
    ids = torch.cat([model.to_tokens(text)[0] for text in texts])

    def alone() -> None:
        for layer in layers:
            for scale in scales:
                bare = lp.forward(model, texts, progress=False)
                edits = [vector.add(float(scale), where, layers=layer)]
                told(lp.forward(model, texts, edits=edits, progress=False), bare, ids)

    def at_once() -> None:
        options = {"scales": scales, "layers": layers, "positions": where, "progress": False}
        lp.steering.sweep(model, texts, vector=vector, **options)

    times = interleaved({"sweep": at_once, "independent runs": alone}, 1, warm=False)
    ratio = times["sweep"] / times["independent runs"]
    return [(f"{len(layers)} x 9 sweep / independent runs, texts", ratio, 1 / 3)]


def answered(run, bare, ids) -> None:
    """What a sweep reads of questions: the odds of two answers, and the divergence."""
    scores = torch.from_numpy(run.logits)
    (scores[:, 0] - scores[:, 1]).sigmoid()
    divergences(scores.log_softmax(-1), bare)


def told(run, bare, ids) -> None:
    """What a sweep reads of texts: the loss of each token, and the divergence."""
    logs = torch.from_numpy(run.logits).log_softmax(-1)
    -logs[:-1].gather(-1, ids[1:, None])
    divergences(logs, bare)


def divergences(logs, bare) -> None:
    """KL from the plain run, token by token."""
    (logs.exp() * (logs - torch.from_numpy(bare.logits).log_softmax(-1))).sum(-1)


def round_trip(rivals: Rivals, vectors, folder: Path) -> tuple[str, float, float | None]:
    """A control vector written here and read by repeng."""
    path = vectors.save(folder / "vectors.gguf")
    read = rivals.ask("gguf", str(path))["value"]
    gaps = [np.abs(np.array(read[str(layer)]) - v.values).max() for layer, v in vectors.items()]
    assert len(read) == len(vectors)
    return ("GGUF read by repeng, largest error", float(max(gaps)), 1e-9)


def main() -> None:
    """Measure and print; `--write` also refreshes the section in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sweeps", action="store_true", help="the sweeps alone")
    parser.add_argument("--independent", action="store_true", help="independent runs alone")
    given = parser.parse_args()
    data = os.environ.get("LENSPROBE_DATA")
    if not data or not (Path(data) / SET).is_file():
        print(f"skipped: set LENSPROBE_DATA to the folder that has {SET}")
        return
    asked = lp.steering.questions(Path(data) / SET, limit=PAIRS)
    with tempfile.TemporaryDirectory() as name:
        folder = folder_of("smollm2-135m", Path(name))
        model = lp.load(folder)
        if not given.sweeps and not given.independent:
            against_rivals(model, folder, asked, given)
        vector = lp.steering.difference(model, asked, layers=LAYER, progress=False)
        texts = [q.question for q in asked[:2]]
        rows = independent(model, vector, texts)
        what = (
            "Two texts, every third layer; each run has a plain run of its own to be compared with"
        )
        record("steering: independent runs", what, rows, write=given.write)
        if given.independent:
            return
        rows = sweeps(model, vector, asked[:3], texts)
    record(
        "steering: sweeps",
        f"Three questions and two texts of {Path(SET).stem}, 30 layers, 9 scales, once; each run of "
        "the loop computes what the sweep reports, and the plain run is read once for all",
        rows,
        write=given.write,
    )


def against_rivals(model, folder: str, asked, given) -> None:
    """Extraction and generation."""
    rivals = Rivals(folder)
    try:
        rows = extraction(model, rivals, asked, given.repeats)
        vectors = lp.steering.difference(model, asked, layers=range(1, 30), progress=False)
        rows.append(round_trip(rivals, vectors, Path(folder)))
    finally:
        rivals.close()
    rows.append(all_layers(model, asked, given.repeats))
    rows.append(generation(model, vectors[LAYER], 2 * given.repeats))
    record(
        "steering",
        f"{PAIRS} contrast pairs of {Path(SET).stem}, layer {LAYER}, SmolLM2-135M; rivals "
        f"{', '.join(PACKAGES)} with batches of 8 and 32; GGUF round trip through repeng",
        rows,
        write=given.write,
    )


if __name__ == "__main__":
    main()
