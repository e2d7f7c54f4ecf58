"""What the tests of steering vectors compare with: residuals of one text, read without lensprobe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["plain_residuals"]

Residuals = Callable[[Sequence[int]], np.ndarray]


def plain_residuals(model: Any, folder: Any) -> Residuals:
    """`ids -> float64 [layers pos d_model]`, the output of every block, one unpadded text at a time.

    Of a bridge they come from transformers' own class, loaded anew from the folder. A
    `HookedTransformer` has weights of its own and is asked by its own `run_with_cache`.
    """
    if type(model).__name__ == "HookedTransformer":
        return lambda ids: _by_transformer_lens(model, ids)
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    blocks = plain.transformer.h if hasattr(plain, "transformer") else plain.model.layers
    return lambda ids: _by_transformers(plain, blocks, ids)


@torch.no_grad()
def _by_transformers(plain: Any, blocks: Any, ids: Sequence[int]) -> np.ndarray:
    # Not output_hidden_states, whose last entry is after the final norm.
    found: list[np.ndarray] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        residual = output[0] if isinstance(output, tuple) else output
        found.append(residual[0].double().numpy())

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        plain(torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(found)


@torch.no_grad()
def _by_transformer_lens(model: Any, ids: Sequence[int]) -> np.ndarray:
    _, cache = model.run_with_cache(torch.tensor([list(ids)]))
    layers = range(model.cfg.n_layers)
    return np.stack([cache[f"blocks.{n}.hook_resid_post"][0].double().numpy() for n in layers])
