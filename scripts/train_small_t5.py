"""Train the small T5 that ships with lensprobe: facts to English sentences.

    python scripts/train_small_t5.py [FOLDER] [--steps 1500] [--seed 0]

A T5 of transformers' own class (gated as FLAN-T5, relative positions), 1.3 million parameters, from a
fixed seed on data that `lensprobe.models.sentences` generates; some minutes on a CPU core or two.
Weights are written in float16 and load as float32. The accuracy on facts that were held out of
training is printed, and stored in the folder's `accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lensprobe.models.sentences import facts, is_sentence, vocabulary

FOLDER = Path(__file__).resolve().parent.parent / "lensprobe" / "data" / "sentences-t5"
SPECIAL = ["<pad>", "</s>", "<unk>"]
BATCH, PEAK, CONTEXT = 64, 3e-3, 128


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
        model_max_length=CONTEXT,
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
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        n_positions=CONTEXT,
        dtype="float32",
    )


def batch(words: PreTrainedTokenizerFast, seed: int) -> dict[str, torch.Tensor]:
    """Training pairs, none of them held out; the roles of a fact come in any order."""
    drawn = facts(BATCH, seed=seed, unseen=False)
    read = words([prompt for _, prompt in drawn], return_tensors="pt", padding=True)
    said = words([fact.sentence() for fact, _ in drawn], return_tensors="pt", padding=True)
    labels = said["input_ids"]
    return {
        "input_ids": read["input_ids"],
        "attention_mask": read["attention_mask"],
        "labels": labels.masked_fill(labels == 0, -100),
    }


@torch.no_grad()
def accuracy(
    model: T5ForConditionalGeneration, words: PreTrainedTokenizerFast, *, count: int = 1000
) -> dict[str, float]:
    """Greedy sentences of held-out facts: exactly right, and grammatical."""
    drawn = facts(count, seed=1)
    read = words([prompt for _, prompt in drawn], return_tensors="pt", padding=True)
    out = model.generate(
        input_ids=read["input_ids"], attention_mask=read["attention_mask"], max_new_tokens=24
    )
    said = words.batch_decode(out, skip_special_tokens=True)
    right = sum(s == fact.sentence() for s, (fact, _) in zip(said, drawn, strict=True))
    return {"exact": right / count, "grammatical": sum(map(is_sentence, said)) / count}


def train(steps: int, seed: int) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerFast]:
    """A trained model and its tokenizer."""
    torch.manual_seed(seed)
    words = tokenizer()
    model = T5ForConditionalGeneration(config(len(words)))
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 1 - step / steps)
    )
    begin = time.perf_counter()
    for step in range(steps):
        # Seeds that the held-out facts and other seeds' runs do not share.
        loss = model(**batch(words, 1_000_000 * (seed + 1) + step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            seconds = time.perf_counter() - begin
            print(f"step {step}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
    return model.eval(), words


def write(model: T5ForConditionalGeneration, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """A transformers folder with weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    file = folder / "model.safetensors"
    halves = {name: t.half().contiguous() for name, t in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})


def main() -> None:
    """Train, write, measure what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    model, words = train(given.steps, given.seed)
    write(model, words, given.folder)
    again = T5ForConditionalGeneration.from_pretrained(given.folder, dtype=torch.float32).eval()
    found = {
        **accuracy(again, words),
        "parameters": again.num_parameters(),
        "steps": given.steps,
        "seed": given.seed,
    }
    (given.folder / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
