"""The activations of another input, to be added to a base input."""

from __future__ import annotations

from typing import Any

from ..models.adapter import adapter_for
from ..models.sites import DEFAULT_SITE
from ..running import forward
from ..tokens import Bos, encode, token_strings
from .making import editable, made_on, middle
from .vector import SteeringVector

__all__ = ["mixing"]


def mixing(
    model: Any,
    text: Any,
    *,
    layer: int | None = None,
    site: str = DEFAULT_SITE,
    bos: Bos = "auto",
) -> SteeringVector:
    """The plain activations of another input, a row for each of its tokens.

    `vector.add(scale)` adds row i to token i of a base input, once, at the same block: the *mixing
    input* experiment. Prompts that are shorter than the mixing input are refused there.

    Args:
        model: a TransformerLens model.
        text: the mixing input: a string, chat messages or token ids.
        layer: the block; None is the middle one, `n_layers // 2`.
        site: where in it: the residual stream, what a sublayer adds to it, or the attention's values
            (`"attn.v"`, all heads side by side).
        bos: whether it begins with BOS; `"auto"` is what the model's own tokenizing does.

    Returns:
        A vector with a row for each token, `[tokens width]`.

    Raises:
        ArgumentError: an empty text, a layer out of range, a site that is not edited.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder model.
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.mixing")
    index = editable(adapter, middle(adapter, layer), site)
    ids = encode(adapter, text, bos)
    values = forward(model, [ids], layers=index, site=site, logits=None).activation(index)
    made = {
        **made_on(adapter),
        "method": "mixing",
        "site": site,
        "layer": "the middle block" if layer is None else index,
        "text": text if isinstance(text, str) else repr(text),
        "tokens": token_strings(getattr(model, "tokenizer", None), ids),
        "bos": adapter.bos(bos),
    }
    return SteeringVector(values, index, site, provenance=made)
