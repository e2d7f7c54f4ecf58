"""Text to token ids, and ids to one padded batch: decided once, here.

A text is a string, a list of chat messages, a list (or 1-D tensor) of token ids. Absolute positions
count real tokens from 0, so padding never moves anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import ArgumentError, ModelError
from .models.adapter import Adapter

__all__ = ["Encoded", "TokenBatch", "as_texts", "encode", "token_strings"]

Bos = Literal["auto"] | bool
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Encoded:
    """One text as token ids. `roles` names the chat role of each token (None outside every turn)."""

    ids: tuple[int, ...]
    roles: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def encode(adapter: Adapter, text: Any, bos: Bos = "auto") -> list[int]:
    """Token ids of one text, with at most one BOS in front (and one EOS behind, in T5).

    A BOS that the text already begins with (a rendered chat template, ids made by
    `model.to_tokens`) is not doubled. Token ids are taken as they are.

    Raises:
        ArgumentError: the text is empty, of an unknown type, or an id is outside the vocabulary.
    """
    return list(encoded(adapter, text, bos).ids)


def encoded(adapter: Adapter, text: Any, bos: Bos = "auto") -> Encoded:
    """`encode`, with the chat role of each token."""
    if isinstance(text, Encoded):
        return text
    if isinstance(text, str):
        if not text:
            raise ArgumentError("the text is empty; give at least one character.")
        try:
            # verbose would warn of a text longer than the context, which callers split or refuse.
            ids = adapter.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        except (TypeError, UnicodeError) as error:
            raise ArgumentError(f"the text cannot be tokenized ({error}).") from error
        return Encoded(_closed(adapter, _with_bos(adapter, ids, bos)))
    if _is_messages(text):
        return _encode_chat(adapter, list(text), bos)
    return Encoded(_checked_ids(adapter, text))


def _with_bos(adapter: Adapter, ids: Sequence[int], bos: Bos) -> tuple[int, ...]:
    if adapter.bos(bos):
        token: int = adapter.tokenizer.bos_token_id
        if not ids or ids[0] != token:
            return (token, *ids)
    if not ids:
        raise ArgumentError("the text has no tokens; give at least one.")
    return tuple(ids)


def _closed(adapter: Adapter, ids: tuple[int, ...]) -> tuple[int, ...]:
    """The text with its EOS, in a model whose texts end with one."""
    end = adapter.tokenizer.eos_token_id if adapter.closes_texts else None
    return ids if end is None or ids[-1] == end else (*ids, end)


def _checked_ids(adapter: Adapter, ids: Any) -> tuple[int, ...]:
    try:
        values = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    except ValueError as error:
        raise ArgumentError("a text as token ids is one flat list of whole numbers.") from error
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "iu":
        raise ArgumentError(
            f"a text is a string, chat messages, or a non-empty list of token ids; got "
            f"{type(ids).__name__} of shape {values.shape}."
        )
    if values.min() < 0 or values.max() >= adapter.d_vocab:
        raise ArgumentError(
            f"token ids run from {values.min()} to {values.max()}; "
            f"this model's vocabulary is 0 to {adapter.d_vocab - 1}."
        )
    return tuple(int(value) for value in values)


def _is_messages(text: Any) -> bool:
    return (
        isinstance(text, Sequence)
        and len(text) > 0
        and all(isinstance(part, Mapping) and "role" in part for part in text)
    )


def _encode_chat(adapter: Adapter, messages: list[Mapping[str, str]], bos: Bos) -> Encoded:
    tokenizer = adapter.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("this model's tokenizer has no chat template; pass plain text.")
    _check_contents(messages)
    rendered = _render(tokenizer, messages)
    out = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    ids = _with_bos(adapter, out["input_ids"], bos)
    roles: list[str | None] = [None] * (len(ids) - len(out["input_ids"]))
    spans = _content_spans(tokenizer, rendered, messages)
    for begin, end in out["offset_mapping"]:
        inside = (role for role, first, last in spans if first < end and begin < last)
        roles.append(next(inside, None))
    return Encoded(ids, tuple(roles))


def _check_contents(messages: list[Mapping[str, str]]) -> None:
    for number, message in enumerate(messages):
        if not isinstance(message.get("content"), str):
            raise ArgumentError(f"messages[{number}]: its content must be a string.")


def _render(tokenizer: Any, messages: list[Mapping[str, str]]) -> str:
    cue = messages[-1]["role"] != "assistant"
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=cue
        )
    except Exception as error:
        # A template is a program out of the model's files, and fails in whatever way it likes.
        raise ArgumentError(f"the chat template refuses these messages ({error}).") from error
    if not rendered:
        raise ArgumentError("the chat template rendered these messages to nothing.")
    return rendered


def _content_spans(
    tokenizer: Any, rendered: str, messages: list[Mapping[str, str]]
) -> list[tuple[str, int, int]]:
    """Where each message's content stands in the rendered text.

    The same messages are rendered with marks in place of their contents, so that a content which
    also occurs in a header or in the template's own words is not mistaken for it.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked: list[Mapping[str, str]] = [
        {**m, "content": mark} for m, mark in zip(messages, marks, strict=True)
    ]
    pieces = re.split("\ue000(\\d+)\ue001", _render(tokenizer, marked))
    spans: list[tuple[str, int, int]] = []
    place = len(pieces[0])
    for number, literal in zip(map(int, pieces[1::2]), pieces[2::2], strict=True):
        content = messages[number]["content"]
        # Templates may strip a content; they do not rewrite it otherwise.
        for candidate in (content, content.strip()):
            end = place + len(candidate)
            if rendered.startswith(candidate + literal, place):
                spans.append((messages[number]["role"], place, end))
                place = end + len(literal)
                break
        else:
            raise ArgumentError(
                f"messages[{number}]: the chat template rewrites its content, so that who said "
                "what cannot be told; pass the rendered text instead."
            )
    return spans


def as_texts(data: Any) -> list[Any]:
    """A prompt or many as a list of texts: the one place that tells one from many.

    Raises:
        ArgumentError: no text at all.
    """
    if isinstance(data, TokenBatch):
        pairs = zip(data.rows(), data.roles, strict=True)
        return [Encoded(tuple(ids), roles) for ids, roles in pairs]
    if isinstance(data, str | Encoded) or _is_messages(data):
        return [data]
    if isinstance(data, Tensor | np.ndarray) and data.ndim:
        return [data] if data.ndim == 1 else list(data)
    if isinstance(data, bytes | Mapping | Tensor | np.ndarray) or not isinstance(data, Iterable):
        raise ArgumentError(
            f"texts: strings, chat messages or token ids, one or many; got {type(data).__name__}."
        )
    texts = list(data)
    if not texts:
        raise ArgumentError("no texts were given; give at least one.")
    if all(isinstance(part, int | np.integer) for part in texts):
        return [texts]
    return texts


@dataclass(frozen=True)
class TokenBatch:
    """Token ids of several texts, padded to one width.

    Attributes:
        ids: Long `[batch pos]`; pads hold an id that is never read.
        mask: Bool `[batch pos]`, True at real tokens.
        positions: Long `[batch pos]`, absolute, from 0 at each row's first real token; 0 at pads.
        roles: for each row the chat role of each real token, or an empty tuple.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]
    roles: tuple[tuple[str | None, ...], ...]
    tokenizer: Any

    @classmethod
    def pad(
        cls, adapter: Adapter, texts: Iterable[Any], *, side: Side = "right", bos: Bos = "auto"
    ) -> TokenBatch:
        """Encode what is not yet encoded and pad to the longest.

        Raises:
            ArgumentError: no texts, an empty text, or one longer than the model's context.
        """
        if side not in ("left", "right"):
            raise ArgumentError(f'side={side!r}: "left" or "right".')
        rows = [encoded(adapter, text, bos) for text in texts]
        if not rows:
            raise ArgumentError("no texts were given; give at least one.")
        width = max(len(row) for row in rows)
        if width > adapter.context:
            raise ArgumentError(
                f"a text has {width} tokens; this model's context is {adapter.context}."
            )
        tokenizer = getattr(adapter.model, "tokenizer", None)
        filler = getattr(tokenizer, "pad_token_id", None) or 0
        ids = np.full((len(rows), width), filler, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=bool)
        for index, row in enumerate(rows):
            part = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[index, part], mask[index, part] = row.ids, True
        positions = (mask.cumsum(1) - 1).clip(min=0)
        device = adapter.device
        return cls(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(mask).to(device),
            torch.from_numpy(positions).to(device),
            tuple(row.roles for row in rows),
            tokenizer,
        )

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens in each row, int `[batch]`."""
        return self.mask.sum(1).cpu().numpy()

    @property
    def ragged(self) -> bool:
        """Whether any row is padded."""
        return not bool(self.mask.all())

    def rows(self) -> list[list[int]]:
        """The real token ids of each row."""
        return [ids[mask].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]

    def strings(self, row: int) -> list[str]:
        """The real tokens of one row as strings."""
        return token_strings(self.tokenizer, self.rows()[row])


def token_strings(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Each token decoded alone, spaces kept; a part of a character shows as `�`.

    Without a tokenizer a token is its number.
    """
    if tokenizer is None:
        return [str(index) for index in ids]
    return [tokenizer.decode([int(index)], clean_up_tokenization_spaces=False) for index in ids]
