"""Chat messages as one prompt with role spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..models.adapter import adapter_for
from ..tokens import Bos, Encoded, encoded

__all__ = ["chat"]


def chat(model: Any, messages: Sequence[dict[str, str]], *, bos: Bos = "auto") -> Encoded:
    """Render messages with the model's chat template, with exactly one BOS, and keep who said what.

    The answer goes wherever a text goes (`lp.generate(model, lp.chat(model, messages))`), and
    `lp.positions.role("user")` then selects the user's words.

    Args:
        messages: `{"role": ..., "content": ...}` each. Unless the last is the assistant's, the
            template's cue for an answer is appended.

    Raises:
        ArgumentError: no messages, or something else than messages.
        ModelError: the tokenizer has no chat template.

    Examples:
        >>> import copy
        >>> tokenizer = copy.deepcopy(model.tokenizer)  # the planted model has no chat template
        >>> tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
        >>> talker = lp.load("planted", tokenizer=tokenizer)
        >>> lp.chat(talker, [{"role": "user", "content": "Hi"}]).ids
        (256, 72, 105)
    """
    if not messages or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise ArgumentError('messages: a non-empty list of {"role": ..., "content": ...}.')
    return encoded(adapter_for(model), list(messages), bos)
