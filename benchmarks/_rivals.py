"""Other steering tools, in an environment of their own: reads a job a line, answers a line.

Run by `steering.py` with the interpreter of that environment; imports nothing of lensprobe.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import numpy as np
import torch
from repeng import ControlVector
from repeng.extract import batched_get_hiddens
from steering_vectors import SteeringVectorTrainingSample, train_steering_vector
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


class Rivals:
    """One model, and what each tool does with it."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def steering_vectors(self, pairs: list[list[str]], layer: int) -> np.ndarray:
        """Mean difference at the answer's letter, which is the last token but one."""
        trained = train_steering_vector(
            self.model,
            self.tokenizer,
            [SteeringVectorTrainingSample(*pair) for pair in pairs],
            layers=[layer],
            read_token_index=-2,
            batch_size=8,
            show_progress=False,
        )
        return trained.layer_activations[layer].float().numpy()

    def repeng(self, pairs: list[list[str]], layer: int) -> np.ndarray:
        """repeng reads last tokens, so its texts end at the letter."""
        texts = [side[:-1] for pair in pairs for side in pair]
        hidden = batched_get_hiddens(self.model, self.tokenizer, texts, [layer], 32)[layer]
        return (hidden[0::2] - hidden[1::2]).mean(0)

    def gguf(self, path: str) -> dict[int, list[float]]:
        """What repeng reads from a control-vector file."""
        found = ControlVector.import_gguf(path)
        return {int(layer): values.tolist() for layer, values in found.directions.items()}


def main() -> None:
    """Serve jobs until the input ends."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        rivals = Rivals(sys.argv[1], int(sys.argv[2]))
        print(json.dumps({"ready": True}), file=out, flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            begin = time.perf_counter()
            value = getattr(rivals, job["call"])(*job["arguments"])
            seconds = time.perf_counter() - begin
            answer = value.tolist() if isinstance(value, np.ndarray) else value
            print(json.dumps({"seconds": seconds, "value": answer}), file=out, flush=True)


if __name__ == "__main__":
    main()
