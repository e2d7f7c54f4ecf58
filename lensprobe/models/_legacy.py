"""Carrying a local GPT-2 folder into TransformerLens 3's `HookedTransformer`.

`HookedTransformer.from_pretrained` takes only names on its own list. Its config and its weight
converter take anything of the architecture, so a folder goes in through those, and no weight is
folded or centred on the way: the logits are transformers' own.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from lensprobe.errors import ModelError

__all__ = ["gpt2_folder_to_hooked"]


def gpt2_folder_to_hooked(
    folder: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Any:
    """A `HookedTransformer` with the raw weights of a local GPT-2-architecture folder.

    `folder` is what `save_pretrained` writes: config, weights and tokenizer. No processing is
    applied, so activations are in the model's own coordinates. The model is in eval mode.

    Raises `ModelError` when the folder holds another architecture or an option this conversion
    does not carry, and `ImportError` on TransformerLens 4, which has no `HookedTransformer`.
    """
    # By name: type checkers see one TransformerLens, and it is rarely this one.
    conversions: Any = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    lens: Any = importlib.import_module("transformer_lens")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    path = Path(folder).expanduser().absolute()
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    _check(config, path)
    source = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)

    hooked_config = lens.HookedTransformerConfig(
        **_options(config, path), dtype=dtype, device=device
    )
    with warnings.catch_warnings():
        # Its deprecation is the reason this module exists; the user cannot act on it.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = lens.HookedTransformer(hooked_config, tokenizer=tokenizer)
    # Not `load_state_dict`: this one fills in the masks, which the source does not have.
    model.load_and_process_state_dict(
        conversions.convert_gpt2_weights(source, hooked_config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def _check(config: Any, path: Path) -> None:
    if config.model_type != "gpt2":
        raise ModelError(
            f"folder={str(path)!r} holds a {config.model_type!r} model; on TransformerLens 3 "
            "only local folders of the GPT-2 architecture can be carried over. "
            "TransformerLens 4 takes the others."
        )
    if config.add_cross_attention or config.reorder_and_upcast_attn:
        raise ModelError(
            f"folder={str(path)!r} sets add_cross_attention or reorder_and_upcast_attn, "
            "which HookedTransformer does not have."
        )


def _options(config: Any, path: Path) -> dict[str, Any]:
    """The config under HookedTransformer's names, every default of its own made explicit."""
    return {
        "model_name": path.name,
        "tokenizer_name": str(path),
        "original_architecture": "GPT2LMHeadModel",
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "act_fn": config.activation_function,
        "eps": config.layer_norm_epsilon,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "tie_word_embeddings": config.tie_word_embeddings,
        "normalization_type": "LN",
        "init_weights": False,
    }
