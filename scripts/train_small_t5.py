"""Train the small T5 that ships with lensprobe: facts to English sentences.

    python scripts/train_small_t5.py FOLDER [--steps 2500] [--seed 0]

A T5 of transformers' own class (gated, untied, relative positions, as FLAN-T5), about 1.3 million
parameters, from a fixed seed on data that `lensprobe.models.sentences` generates; a few minutes on
two CPU cores. Weights are written in float16 and load as float32. The held-out accuracy is printed
and stored in the folder's `accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lensprobe.models.sentences import SLOTS, Facts, held_out, parse, sample, vocabulary

SPECIAL = ["<pad>", "</s>", "<unk>"]
BATCH, PEAK = 64, 3e-3


def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token; a text ends in `</s>`, as T5's do."""
    words = [*SPECIAL, *vocabulary()]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
    )


def config(words: int) -> T5Config:
    """The architecture; `dtype` is what the weights are loaded as."""
    return T5Config(
        vocab_size=words,
        d_model=96,
        d_kv=24,
        num_heads=4,
        d_ff=192,
        num_layers=6,
        num_decoder_layers=6,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        n_positions=128,
        dtype="float32",
    )


def shuffled(facts: Facts, chance: random.Random) -> str:
    """The prompt with its facts in random order."""
    return facts.prompt(chance.sample(SLOTS, len(SLOTS)))


def batch(words: PreTrainedTokenizerFast, chance: random.Random) -> dict[str, torch.Tensor]:
    """Training pairs, none of them held out."""
    facts: list[Facts] = []
    while len(facts) < BATCH:
        one = sample(chance)
        if not held_out(one):
            facts.append(one)
    read = words([shuffled(f, chance) for f in facts], return_tensors="pt", padding=True)
    said = words([f.sentence() for f in facts], return_tensors="pt", padding=True)["input_ids"]
    labels = said.masked_fill(said == 0, -100)
    return {
        "input_ids": read["input_ids"],
        "attention_mask": read["attention_mask"],
        "labels": labels,
    }


@torch.no_grad()
def accuracy(
    model: T5ForConditionalGeneration, words: PreTrainedTokenizerFast, *, count: int = 512
) -> dict[str, float]:
    """Greedy sentences of held-out facts: exactly right, and grammatical."""
    chance = random.Random(1)
    facts: list[Facts] = []
    while len(facts) < count:
        one = sample(chance)
        if held_out(one):
            facts.append(one)
    read = words([shuffled(f, chance) for f in facts], return_tensors="pt", padding=True)
    out = model.generate(
        input_ids=read["input_ids"], attention_mask=read["attention_mask"], max_new_tokens=20
    )
    said = words.batch_decode(out, skip_special_tokens=True)
    right = sum(s == f.sentence() for s, f in zip(said, facts, strict=True)) / count
    return {"exact": right, "grammatical": sum(parse(s) is not None for s in said) / count}


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    chance = random.Random(given.seed)
    words = tokenizer()
    model = T5ForConditionalGeneration(config(len(words)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=given.steps)
    begin = time.perf_counter()
    for step in range(given.steps):
        loss = model(**batch(words, chance)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            seconds = time.perf_counter() - begin
            print(f"step {step}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    model.eval()
    given.folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(given.folder)
    words.save_pretrained(given.folder)
    file = given.folder / "model.safetensors"
    halves = {name: t.half().contiguous() for name, t in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})
    again = T5ForConditionalGeneration.from_pretrained(given.folder, dtype=torch.float32).eval()
    found = {**accuracy(again, words), "parameters": again.num_parameters(), "seed": given.seed}
    (given.folder / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
