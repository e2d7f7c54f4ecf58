"""Activation addition (ActAdd): the difference between two prompts, token by token."""

from __future__ import annotations

from typing import Any

from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..running import forward
from ..tokens import Bos, encode, token_strings
from .making import editable, made_on, middle
from .vector import SteeringVector

__all__ = ["contrast"]


def contrast(
    model: Any,
    positive: Any,
    negative: Any,
    *,
    layer: int | None = None,
    site: str = DEFAULT_SITE,
    pad: str = " ",
    bos: Bos = "auto",
) -> SteeringVector:
    """The activation-addition vector of one pair of prompts (Turner et al. 2308.10248, section 3).

    Both prompts are read, the shorter one padded on its right to the length of the other, and their
    activations are subtracted token by token. `vector.add(scale)` adds row i to token i of a prompt.
    Row 0 is that of BOS and is zero where both begin with it.

    The paper's `blocks.6.hook_resid_pre` is `layer=6, site="resid_pre"`.

    Args:
        model: a TransformerLens model.
        positive: a prompt, such as `" Love"`.
        negative: another, such as `" Hate"`; `""` is BOS and padding alone.
        layer: the block; None is the middle one, `n_layers // 2`.
        site: where in it.
        pad: text of one token that the shorter prompt is padded with.
        bos: whether prompts begin with BOS; `"auto"` is what the model's own tokenizing does.

    Returns:
        A vector with a row for each token, `[tokens width]`.

    Raises:
        ArgumentError: a pad that is needed and is not one token, two prompts of the same tokens, a
            layer out of range, a site that is not edited.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder model.

    Examples:
        >>> vector = lp.steering.contrast(model, " Love", " Hate", layer=2)
        >>> vector.values.shape, vector.layer, vector.site
        ((6, 768), 2, 'resid_post')
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.steering.contrast")
    index = editable(adapter, middle(adapter, layer), site)
    rows = _padded(adapter, [_ids(adapter, text, bos) for text in (positive, negative)], pad)
    if rows[0] == rows[1]:
        raise ArgumentError(f"positive={positive!r} and negative={negative!r} are the same tokens.")
    read = forward(model, rows, layers=index, site=site, logits=None)
    plus, minus = (read.activation(index, text=text) for text in (0, 1))
    tokenizer = getattr(model, "tokenizer", None)
    made = {
        **made_on(adapter),
        "method": "contrast",
        "site": site,
        "layer": "the middle block" if layer is None else index,
        "positive": _plain(positive),
        "negative": _plain(negative),
        "positive_tokens": token_strings(tokenizer, rows[0]),
        "negative_tokens": token_strings(tokenizer, rows[1]),
        "pad": pad,
        "bos": adapter.bos(bos),
    }
    return SteeringVector(plus - minus, index, site, provenance=made)


def _padded(adapter: Adapter, rows: list[list[int]], pad: str) -> list[list[int]]:
    """Both rows at the length of the longer one; the pad matters only where they differ."""
    length = max(map(len, rows))
    if not length:
        raise ArgumentError("positive and negative are both empty, and there is no BOS.")
    if all(len(row) == length for row in rows):
        return rows
    ids = adapter.tokenizer.encode(pad, add_special_tokens=False) if isinstance(pad, str) else []
    if len(ids) != 1:
        raise ArgumentError(f"pad={pad!r} is {len(ids)} tokens to this model; give text of one.")
    return [row + ids * (length - len(row)) for row in rows]


def _ids(adapter: Adapter, text: Any, bos: Bos) -> list[int]:
    if isinstance(text, str) and not text:
        # Nothing to tokenize: the prompt is BOS, where there is one, and padding.
        return [adapter.tokenizer.bos_token_id] if adapter.bos(bos) else []
    return encode(adapter, text, bos)


def _plain(text: Any) -> Any:
    return text if isinstance(text, str) else repr(text)
