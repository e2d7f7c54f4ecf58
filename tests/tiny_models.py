"""Tiny models with random weights, written as folders and built on both TransformerLens lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

__all__ = [
    "CONTEXT",
    "build_hooked",
    "write_gemma_folder",
    "write_gpt2_folder",
    "write_llama_folder",
    "write_neox_folder",
    "write_t5_folder",
    "write_tokenizer",
]

CONTEXT = 256
LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN = 4, 48, 4, 2, 96
BOS = "<|endoftext|>"
CORPUS = [
    "Hello world, this is the cat that sat on the mat and then it went away.",
    "one two three four five six seven eight nine ten",
    "The quick brown fox jumps over the lazy dog. I think that she was there before.",
    "Once upon a time there was a little house, and in the house there was a little cat.",
]


def write_tokenizer(folder: Path) -> int:
    """Save a small byte-level BPE tokenizer, the same one each time; returns its vocabulary size."""
    core = Tokenizer(tokenizer_models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=360,
        special_tokens=[BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=BOS, pad_token=BOS
    )
    fast.save_pretrained(folder)
    return core.get_vocab_size()


def write_gpt2_folder(folder: Path) -> Path:
    """A GPT-2 folder with absolute positions."""
    config = GPT2Config(
        vocab_size=write_tokenizer(folder),
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(GPT2LMHeadModel, config, folder)


def write_llama_folder(folder: Path) -> Path:
    """A Llama folder with rotary positions and grouped queries."""
    config = LlamaConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return _save(LlamaForCausalLM, config, folder)


def write_neox_folder(folder: Path) -> Path:
    """A GPT-NeoX folder: attention and MLP read the same residual, rotary on a part of each head."""
    config = GPTNeoXConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(GPTNeoXForCausalLM, config, folder)


def write_gemma_folder(folder: Path) -> Path:
    """A Gemma 2 folder: norms before and after each layer, embeddings scaled by sqrt(width)."""
    config = Gemma2Config(
        vocab_size=write_tokenizer(folder),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH // HEADS,
        max_position_embeddings=CONTEXT,
        pad_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(Gemma2ForCausalLM, config, folder)


def write_t5_folder(folder: Path, kind: str = "T5", **options: Any) -> Path:
    """A folder of the T5 family: encoder and decoder, relative positions.

    Args:
        kind: `"T5"`, `"MT5"` or `"LongT5"`.
        options: of its configuration, over the small ones used here.
    """
    small = {
        "d_model": WIDTH,
        "d_kv": WIDTH // HEADS,
        "d_ff": HIDDEN,
        "num_layers": 2,
        "num_heads": HEADS,
        "pad_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 0,
    }
    config = getattr(transformers, f"{kind}Config")
    model = getattr(transformers, f"{kind}ForConditionalGeneration")
    small |= {"vocab_size": write_tokenizer(folder)} | options
    return _save(model, config(**small), folder)


def _save(kind: Any, config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        _randomise(model)
    model.save_pretrained(folder)
    return folder


def _randomise(model: torch.nn.Module) -> None:
    """Weights with some life in them: attention that differs by key, norms and biases that matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = float(parameter.mean().round()) if parameter.ndim == 1 else 0.0
            spread = 0.05 if parameter.ndim == 1 else 0.15
            parameter.copy_(centre + spread * torch.randn(parameter.shape))
            assert parameter.isfinite().all(), name


ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": WIDTH // HEADS}
GATED = {
    "normalization_type": "RMS",
    "final_rms": True,
    "gated_mlp": True,
    "d_mlp": HIDDEN,
    "n_key_value_heads": KV_HEADS,
    **ROTARY,
}
HOOKED: dict[str, dict[str, Any]] = {
    "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN"},
    "llama": {"act_fn": "silu", **GATED},
    "gemma": {
        "act_fn": "gelu_pytorch_tanh",
        "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 50.0,
        "attn_scale": (WIDTH // HEADS) ** 0.5,
        **GATED,
    },
    "neox": {
        "act_fn": "gelu",
        "normalization_type": "LN",
        "parallel_attn_mlp": True,
        "d_mlp": HIDDEN,
        **ROTARY,
        "rotary_dim": 4,
    },
}
"""What a `HookedTransformerConfig` says of each shape."""


def build_hooked(folder: Path, kind: str) -> Any:
    """A `HookedTransformer` (TransformerLens 3.9) of the same shape with its own random weights."""
    from transformer_lens import HookedTransformer
    from transformer_lens.config import HookedTransformerConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape: dict[str, Any] = {
        "n_layers": LAYERS,
        "d_model": WIDTH,
        "n_ctx": CONTEXT,
        "d_head": WIDTH // HEADS,
        "n_heads": HEADS,
        "d_vocab": len(tokenizer),
        "device": "cpu",
        "model_name": f"tiny-{kind}",
    }
    shape |= HOOKED[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HookedTransformer(HookedTransformerConfig(**shape), tokenizer=tokenizer)
        _randomise(model)
        if kind == "gemma":
            # This class multiplies the stored rows by sqrt(width) when it takes Gemma's weights.
            model.embed.W_E.data *= WIDTH**0.5
    return model.eval()
