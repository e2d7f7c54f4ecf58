"""A small model without any training, to watch what its own training makes of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from ...errors import ArgumentError
from ...models import load, planted

__all__ = ["untrained"]


def untrained(config: Any = None, *, tokenizer: Any = None, seed: int = 0) -> Any:
    """A transformers model with fresh random weights, as transformers initialises it, in a bridge.

    Args:
        config: a transformers configuration of a causal language model. None is a GPT-2 of 4 layers,
            128 wide, with 4 heads and 256 positions, of 1.1 million weights, without dropout.
        tokenizer: whose ids the model reads; None is the byte-level one of the planted model, without
            merges: 256 bytes, a BOS and a pad token.
        seed: of the weights. The caller's random numbers are left alone.

    Returns:
        A `TransformerBridge` on both lines of TransformerLens, for `train_and_watch`.

    Raises:
        ArgumentError: a configuration that is none of a causal language model, or whose vocabulary is
            smaller than the tokenizer's.
        ModelError: TransformerLens has no bridge for it.

    Examples:
        >>> fresh = lp.massive.untrained(seed=1)
        >>> fresh.cfg.n_layers, fresh.cfg.d_model
        (4, 128)
        >>> len(lp.massive.scan(fresh, "The cat sat on the mat.").findings)
        0
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed={seed!r}: a whole number, at least 0.")
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(planted.folder())
    config = _small(tokenizer) if config is None else copy.deepcopy(config)
    needed = len(tokenizer)
    if getattr(config, "vocab_size", 0) < needed:
        raise ArgumentError(
            f"config: a transformers configuration with a vocabulary of at least {needed}, "
            f"as the tokenizer has; got {getattr(config, 'vocab_size', type(config).__name__)}."
        )
    # Wrapping draws random numbers too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = AutoModelForCausalLM.from_config(config)
        except ValueError as error:
            raise ArgumentError(f"config: {str(error).splitlines()[0]}") from error
        # Nobody else holds it; the copy only keeps `load` from warning that it is wrapped.
        return load(model, tokenizer=tokenizer, copy=True)


def _small(tokenizer: Any) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=128,
        n_layer=4,
        n_head=4,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
