"""The two scans against the passes they are made of and the loop they replace, and their memory.

    LENSPROBE_DATA=... python benchmarks/scans.py [--write]

The loop over single sequences reads WikiText-2 from the folder that `LENSPROBE_DATA` names; without it
that part says so and is left out. Every rival reads the same texts in the same process, in turn, and
medians are compared. "plain" is the hooked model called for logits; "transformers" is the same weights
without TransformerLens.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import interleaved, record
from transformers import AutoModelForCausalLM

import lensprobe as lp
from lensprobe.corpus import Batch, Corpus
from lensprobe.costs import PeakMemory
from lensprobe.models.adapter import adapter_for
from lensprobe.models.building import quiet
from lensprobe.models.sources import find
from lensprobe.texts import default_texts

MASSIVE_LENGTH, SINK_LENGTH = 1024, 64
LONG_LENGTH = 2048
ARTICLES = 3
MANY, FEW = 10_000, 100
# Small enough that the few sequences fill a batch too.
BATCH_TOKENS = 512
PARAGRAPHS = 96


def unhooked(name: str, attention: str, dtype: str = "float32") -> torch.nn.Module:
    """The transformers model of the same weights."""
    source = find(name)
    where = {} if source.file is None else {"gguf_file": source.file}
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            source.folder, attn_implementation=attention, dtype=getattr(torch, dtype), **where
        )
    return model.eval()


def passes(model: torch.nn.Module, batches: list[Batch]) -> Callable[[], None]:
    """Forward passes that return logits and keep nothing."""

    def run() -> None:
        with torch.no_grad():
            for batch in batches:
                tokens = batch.tokens
                mask = tokens.mask.long() if tokens.ragged else None
                model(tokens.ids, attention_mask=mask, use_cache=False)

    return run


def batches_of(model: object, texts: list[str], length: int) -> list[Batch]:
    """The batches that a scan of these texts reads."""
    return list(Corpus(adapter_for(model), texts, length=length).batches())


def measure_time(name: str, repeats: int, write: bool) -> None:
    """Ratios of the scans to their rivals."""
    model, texts = lp.load(name), default_texts()
    sdpa, eager = unhooked(name, "sdpa"), unhooked(name, "eager")
    documents = batches_of(model, texts, MASSIVE_LENGTH)
    windows = batches_of(model, texts, SINK_LENGTH)
    tokens = sum(int(batch.lengths.sum()) for batch in documents)
    times = interleaved(
        {
            "plain": passes(model, documents),
            "massive": lambda: lp.massive.scan(model, texts, length=MASSIVE_LENGTH),
            "transformers sdpa": passes(sdpa, documents),
            "plain, windows": passes(model, windows),
            "sinks": lambda: lp.sinks.scan(model, texts, length=SINK_LENGTH),
            "transformers eager, windows": passes(eager, windows),
        },
        repeats,
    )
    long = " ".join(texts)
    window = batches_of(model, [long], LONG_LENGTH)[:1]
    at_length = interleaved(
        {
            "plain": passes(model, window),
            "massive": lambda: lp.massive.scan(
                model, [window[0].tokens.ids[0]], bos=False, length=LONG_LENGTH
            ),
        },
        repeats,
    )
    record(
        "scans: time",
        f"All layers of {name}, float32; {len(texts)} documents, {tokens:,} tokens, "
        f"{len(documents)} batches; sinks in {len(windows)} batches of windows of {SINK_LENGTH}",
        [
            ("massive scan / plain", times["massive"] / times["plain"], 1.0),
            (
                "massive scan / transformers sdpa",
                times["massive"] / times["transformers sdpa"],
                1.1,
            ),
            (
                f"massive scan / plain, one window of {LONG_LENGTH:,}",
                at_length["massive"] / at_length["plain"],
                1.0,
            ),
            ("sink scan / plain", times["sinks"] / times["plain, windows"], 1.25),
            (
                "sink scan / transformers eager",
                times["sinks"] / times["transformers eager, windows"],
                1.25,
            ),
        ],
        write=write,
    )


def made_up(model: object, count: int) -> Iterator[list[int]]:
    """Short random sequences, made one at a time."""
    rng = np.random.default_rng(0)
    for size in rng.integers(3, 9, count):
        yield rng.integers(0, adapter_for(model).d_vocab, size).tolist()


def measure_memory(name: str, write: bool) -> None:
    """Megabytes that a long corpus takes more than a short one."""
    model = lp.load(name)
    rows: list[tuple[str, float, float | None]] = []
    for what, scan in (("massive", lp.massive.scan), ("sink", lp.sinks.scan)):
        peaks = []
        scan(model, made_up(model, FEW), batch_tokens=BATCH_TOKENS)
        for count in (FEW, MANY):
            with PeakMemory(torch.device("cpu")) as peak:
                scan(model, made_up(model, count), batch_tokens=BATCH_TOKENS)
            peaks.append(peak.bytes / 2**20)
            print(f"{what} scan of {count:,} sequences: {peaks[-1]:,.0f} MB at the peak")
        rows.append((f"{what} scan, MB more for {MANY:,} than {FEW}", peaks[1] - peaks[0], 50.0))
    record(
        "scans: memory",
        f"Sequences of 3 to 8 tokens in batches of at most {BATCH_TOKENS}, {name}",
        rows,
        write=write,
    )


def one_by_one(
    read: Callable[[torch.Tensor], list[torch.Tensor]], sequences: list[torch.Tensor]
) -> Callable[[], None]:
    """Sun et al., section 2, as its authors run it: each sequence alone through the whole model, each
    block's output in main memory as float64, all its magnitudes sorted, three and the median noted.
    """

    def run() -> None:
        noted = []
        with torch.no_grad():
            for ids in sequences:
                for state in read(ids[None]):
                    size = state.cpu().double().abs()
                    noted.append((size.flatten().sort(descending=True).values[:3], size.median()))

    return run


def of_transformers(model: torch.nn.Module) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Each block's output, by hooks on a transformers model."""

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, inputs: object, output: object) -> None:
            state = output[0] if isinstance(output, tuple) else output
            assert isinstance(state, torch.Tensor)
            kept.append(state)

        blocks = model.get_submodule("model.layers").children()
        handles = [block.register_forward_hook(keep) for block in blocks]
        model(ids)
        for handle in handles:
            handle.remove()
        return kept

    return read


def of_transformer_lens(model: Any) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Each block's output, by hooks on a TransformerLens model."""

    def read(ids: torch.Tensor) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []

        def keep(value: torch.Tensor, hook: object) -> None:
            kept.append(value)

        names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
        model.run_with_hooks(ids, fwd_hooks=[(name, keep) for name in names])
        return kept

    return read


def wikitext(data: str) -> list[str]:
    """The paragraphs of WikiText-2's test split."""
    lines = (Path(data) / "wikitext-2" / "test.txt").read_text().split("\n")
    return [line for line in lines if len(line) > 1 and not line.strip().startswith("=")]


def articles(data: str) -> list[str]:
    """The articles of WikiText-2's test split, which begin where a line is ` = a title = `."""
    text = (Path(data) / "wikitext-2" / "test.txt").read_text()
    return [part for part in re.split(r"(?m)^ = [^=\n]+ = ?$", text) if part.strip()]


def measure_articles(name: str, data: str, repeats: int, write: bool) -> None:
    """The loop and the scan where sequences are as long as whole articles are."""
    model, plain = lp.load(name), unhooked(name, "sdpa")
    found = articles(data)
    read = Corpus(adapter_for(model), found, length=adapter_for(model).context).windows()
    by_length = sorted((window for window in read if not window.index), key=lambda w: len(w.ids))
    middle = (len(by_length) - ARTICLES) // 2
    sequences = [torch.tensor(w.ids) for w in by_length[middle : middle + ARTICLES]]
    count = sum(map(len, sequences))
    times = interleaved(
        {
            "transformers": one_by_one(of_transformers(plain), sequences),
            "TransformerLens": one_by_one(of_transformer_lens(model), sequences),
            "massive": lambda: lp.massive.scan(
                model, sequences, bos=False, length=max(map(len, sequences))
            ),
            "sinks": lambda: lp.sinks.scan(model, sequences, bos=False, length=SINK_LENGTH),
        },
        repeats,
        warm=False,
    )
    record(
        "scans: loop, articles",
        f"{name}, float32, WikiText-2 test: the {ARTICLES} articles of middle length, {count:,} "
        f"tokens, each as one sequence; sinks in windows of {SINK_LENGTH}; the loop over transformers' "
        "model and over the TransformerLens model",
        [
            ("massive scan / loop, transformers", times["massive"] / times["transformers"], 1 / 5),
            (
                "massive scan / loop, TransformerLens",
                times["massive"] / times["TransformerLens"],
                1 / 5,
            ),
            ("sink scan / loop, TransformerLens", times["sinks"] / times["TransformerLens"], None),
            *(
                (f"tokens a second of the {what}", count / times[which], None)
                for what, which in (
                    ("loop, transformers", "transformers"),
                    ("loop, TransformerLens", "TransformerLens"),
                    ("massive scan", "massive"),
                    ("sink scan", "sinks"),
                )
            ),
        ],
        write=write,
    )


def measure_loop(name: str, data: str, repeats: int, write: bool, dtype: str) -> None:
    """Ratios of the loop over single sequences to the scans, on paragraphs and on long windows."""
    paragraphs = wikitext(data)
    texts = {
        "paragraphs": paragraphs[:: len(paragraphs) // PARAGRAPHS][:PARAGRAPHS],
        "text of 1,024 tokens": [" ".join(paragraphs)[:16_000]],
    }
    model, plain = lp.load(name, dtype=dtype), unhooked(name, "sdpa", dtype)
    rows: list[tuple[str, float, float | None]] = []
    for what, chosen in texts.items():
        windows = Corpus(adapter_for(model), chosen, length=MASSIVE_LENGTH).windows()
        sequences = [torch.tensor(window.ids) for window in windows]
        batches = batches_of(model, chosen, MASSIVE_LENGTH)
        times = interleaved(
            {
                "loop": one_by_one(of_transformers(plain), sequences),
                "massive": lambda chosen=chosen: lp.massive.scan(
                    model, chosen, length=MASSIVE_LENGTH
                ),
                "sinks": lambda chosen=chosen: lp.sinks.scan(model, chosen, length=SINK_LENGTH),
                "blocks alone": passes(plain.get_submodule("model"), batches),
            },
            repeats,
        )
        count = sum(len(ids) for ids in sequences)
        rows += [
            (f"massive scan / loop, {what}", times["massive"] / times["loop"], 1 / 5),
            (f"sink scan / loop, {what}", times["sinks"] / times["loop"], None),
            (
                f"blocks alone, nothing read / loop, {what}",
                times["blocks alone"] / times["loop"],
                None,
            ),
            (f"tokens a second of the loop, {what}", count / times["loop"], None),
            (f"tokens a second of the massive scan, {what}", count / times["massive"], None),
            (f"tokens a second of the sink scan, {what}", count / times["sinks"], None),
        ]
    record(
        f"scans: loop, {dtype}",
        f"{name}, {dtype}, WikiText-2 test: {PARAGRAPHS} paragraphs, and a text cut into windows of "
        f"{MASSIVE_LENGTH:,}; sinks in windows of {SINK_LENGTH}",
        rows,
        write=write,
    )


def main() -> None:
    """Measure and print; `--write` also refreshes the sections in RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("time", "memory", "loop", "articles", "half"))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    name, repeats, write = given.model, given.repeats, given.write
    parts: dict[str, Callable[[], None]] = {
        "time": lambda: measure_time(name, repeats, write),
        "memory": lambda: measure_memory(name, write),
    }
    data = os.environ.get("LENSPROBE_DATA")
    if data is not None:
        parts |= {
            "loop": lambda: measure_loop(name, data, repeats, write, "float32"),
            "half": lambda: measure_loop(name, data, repeats, write, "bfloat16"),
            "articles": lambda: measure_articles(name, data, min(repeats, 3), write),
        }
    elif given.only not in parts:
        print("the loop is left out: set LENSPROBE_DATA to the folder that has wikitext-2/test.txt")
    for part, measure in parts.items():
        if given.only in (None, part):
            measure()


if __name__ == "__main__":
    main()
