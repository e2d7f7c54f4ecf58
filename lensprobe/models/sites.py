"""The places of a block that lensprobe names, and the hook points they are."""

from __future__ import annotations

__all__ = ["DEFAULT_SITE", "GATED", "SITES"]

DEFAULT_SITE = "resid_post"
"""The one default site of the library: a block's output, before the next block or the final norm."""

SITES: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.z": "attn.hook_z",
    "attn.pattern": "attn.hook_pattern",
    "mlp.post": "mlp.hook_post",
}
"""Site names of lensprobe and the hook each one is, after `blocks.{layer}.`."""

# Hook points that exist but stay silent until a flag of the config is switched on.
GATED = {
    "attn.hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}
