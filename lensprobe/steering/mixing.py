"""The activations of another input, to be added to a base input."""

from __future__ import annotations

from typing import Any

from ..models.adapter import Adapter, adapter_for
from ..models.sites import DEFAULT_SITE
from ..models.stacks import StackName
from ..running import forward, generate
from ..tokens import Bos, Encoded, encoded, token_strings
from .making import editable, made_on, middle
from .vector import SteeringVector

__all__ = ["mixing", "read_while_answering"]


def mixing(
    model: Any,
    text: Any,
    *,
    layer: int | None = None,
    site: str = DEFAULT_SITE,
    stack: StackName = None,
    max_new_tokens: int = 50,
    bos: Bos = "auto",
) -> SteeringVector:
    """The plain activations of another input, a row for each of its tokens.

    `vector.add(scale)` adds row i to token i of a base input, once, at the same block: the *mixing
    input* experiment. Prompts that are shorter than the mixing input are refused there.

    An encoder-decoder has two such vectors. In its encoder the rows are the mixing input's tokens. In
    its decoder they are what the decoder reads while it answers that input: the start token and its
    own greedy answer but for the last token, which is never read.

    Args:
        model: a TransformerLens model.
        text: the mixing input: a string, chat messages or token ids.
        layer: the block; None is the middle one, `n_layers // 2`.
        site: where in it: the residual stream, what a sublayer adds to it, or the attention's values
            (`"attn.v"`, all heads side by side).
        stack: "encoder" or "decoder", in an encoder-decoder.
        max_new_tokens: the longest answer that the decoder is read with.
        bos: whether it begins with BOS; `"auto"` is what the model's own tokenizing does.

    Returns:
        A vector with a row for each token, `[tokens width]`.

    Raises:
        ArgumentError: an empty text, a layer out of range, a site that is not edited, a stack that is
            not said or not there.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.

    Examples:
        >>> vector = lp.steering.mixing(model, "A dog", layer=2)
        >>> vector.tokens, vector.values.shape
        (6, (6, 768))
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.steering.mixing")
    index = editable(adapter, middle(adapter, layer, stack), site, stack)
    source = encoded(adapter, text, bos)
    name, rows, prompt = adapter.stack(stack).name, source, None
    if name == "decoder":
        (rows,), prompt = read_while_answering(adapter, [source], max_new_tokens), [source]
    read = forward(model, [rows], prompt=prompt, stack=name, layers=index, site=site, logits=None)
    made = {
        **made_on(adapter),
        "method": "mixing",
        "site": site,
        "layer": "the middle block" if layer is None else index,
        "text": text if isinstance(text, str) else repr(text),
        "tokens": token_strings(getattr(model, "tokenizer", None), rows.ids),
        "bos": adapter.bos(bos),
    }
    return SteeringVector(read.activation(index), index, site, name, made)


def read_while_answering(
    adapter: Adapter, prompts: list[Encoded], max_new_tokens: int
) -> list[Encoded]:
    """What a decoder reads while it greedily answers each prompt: its start, all but the last token.

    Raises:
        ArgumentError: a budget that is no positive whole number.
    """
    tokens = generate(adapter.model, list(prompts), max_new_tokens=max_new_tokens).tokens
    ids, text = tokens["id"].to_numpy(), tokens["text"].to_numpy()
    answers = [ids[text == index] for index in range(len(prompts))]
    return [Encoded((*adapter.start, *map(int, answer[:-1]))) for answer in answers]
