"""What a call reads: the tokens of the stack that writes, and of an encoder the texts before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..models.stacks import StackName
from ..tokens import Bos, Encoded, Side, TokenBatch, as_texts, encoded
from .session import Session, all_prompts, prompt_step

__all__ = ["Inputs", "one_each"]


@dataclass(frozen=True)
class Inputs:
    """Texts as the stacks of a model read them.

    In a decoder-only model a prompt stands in front of its text, in one row. In an encoder-decoder
    the encoder reads the prompt, and the decoder's row is its start token and the text.

    Attributes:
        adapter: the model.
        rows: a text's tokens in the stack that writes.
        prompts: int `[texts]`, how many tokens of each row are its prompt.
        sources: what the encoder reads for each text; None without an encoder.
        stack: which stack reads the rows; None is the one that writes.
    """

    adapter: Adapter
    rows: list[Encoded]
    prompts: np.ndarray
    sources: list[Encoded] | None = None
    stack: StackName = None

    @classmethod
    def prompted(cls, adapter: Adapter, prompt: Any, bos: Bos) -> Inputs:
        """Prompts to be continued, or answered by a decoder."""
        texts = [encoded(adapter, text, bos) for text in as_texts(prompt)]
        if not adapter.encoder_decoder:
            return cls(adapter, texts, _lengths(texts))
        rows = [Encoded(adapter.start) for _ in texts]
        return cls(adapter, rows, _lengths(rows), texts)

    @classmethod
    def read(cls, adapter: Adapter, texts: Any, prompt: Any, bos: Bos) -> Inputs:
        """Texts to be read, after one prompt for all or one for each; None is no prompt.

        Raises:
            ArgumentError: an empty text, prompts that do not match the texts, or no prompt for an
                encoder to read.
        """
        given = as_texts(texts)
        if adapter.encoder_decoder:
            if prompt is None:
                raise ArgumentError(
                    "prompt=None: an encoder-decoder's decoder reads behind a prompt."
                )
            rows = [_started(adapter, encoded(adapter, text)) for text in given]
            sources = one_each(adapter, prompt, len(given), bos)
            return cls(adapter, rows, np.ones(len(rows), dtype=int), sources)
        if prompt is None:
            rows = [encoded(adapter, text, bos) for text in given]
            return cls(adapter, rows, _lengths(rows))
        # Tokenized apart, so that the boundary is where the caller put it.
        heads = one_each(adapter, prompt, len(given), bos)
        tails = [encoded(adapter, text, False) for text in given]
        pairs = zip(heads, tails, strict=True)
        rows = [Encoded(head.ids + tail.ids, head.roles) for head, tail in pairs]
        return cls(adapter, rows, _lengths(heads))

    @classmethod
    def for_encoder(cls, adapter: Adapter, texts: Any, prompt: Any, bos: Bos) -> Inputs:
        """Texts that the encoder reads, and no decoder after it.

        Raises:
            ArgumentError: an empty text; a prompt, which nothing would read.
        """
        if prompt is not None:
            raise ArgumentError("prompt: the encoder reads the texts alone; there is none before.")
        rows = [encoded(adapter, text, bos) for text in as_texts(texts)]
        return cls(adapter, rows, _lengths(rows), stack="encoder")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def asked(self) -> list[Encoded]:
        """The prompts as their reader wrote them: what the encoder reads, or the rows."""
        return self.rows if self.sources is None else self.sources

    @property
    def sizes(self) -> list[Encoded]:
        """Something as long as all that is read for each text, for grouping by length."""
        if self.sources is None:
            return self.rows
        return [Encoded(s.ids + r.ids) for s, r in zip(self.sources, self.rows, strict=True)]

    def check(self, session: Session, *, new_tokens: int = 0) -> None:
        """Whether a session's selectors fit every prompt, before any pass is paid for.

        Args:
            new_tokens: how many tokens will be written at most.

        Raises:
            ArgumentError: a selector that a prompt cannot satisfy or that an encoder can never meet,
                a text longer than the context.
        """
        reach = None
        if self.sources is not None:
            session.check(all_prompts(self.adapter, self.sources), stack="encoder")
            self._check_met(session, self.sources)
            # What is written last is never read.
            reach = _lengths(self.rows) + max(0, new_tokens - 1)
        step = all_prompts(self.adapter, self.rows, self.prompts, reach=reach)
        session.check(step, stack=self.stack)
        if self.stack == "encoder":
            self._check_met(session, self.rows)
        if self.stack == "encoder" and any(edit.stack == "decoder" for edit in session.edits):
            raise ArgumentError("edits: an edit in the decoder, which does not run.")

    def _check_met(self, session: Session, texts: list[Encoded]) -> None:
        """An encoder reads all that it ever will at once: what selects nothing then never does."""
        step = prompt_step(TokenBatch.pad(self.adapter, texts))
        for edit in session.edits:
            if edit.stack == "encoder" and not edit.positions.mask(step).any():
                raise ArgumentError(
                    f"positions={edit.positions.describe()} selects nothing that the encoder reads."
                )

    def check_room(self, new_tokens: int) -> None:
        """Whether the texts and new tokens fit in the context.

        Raises:
            ArgumentError: they do not.
        """
        longest = int(_lengths(self.rows).max()) + new_tokens
        if longest > self.adapter.context:
            with_what = "the longest prompt" if self.sources is None else "its start token"
            raise ArgumentError(
                f"max_new_tokens={new_tokens}: with {with_what} that is {longest} tokens; "
                f"this model's context is {self.adapter.context}."
            )

    def batch(self, group: Sequence[int], side: Side) -> TokenBatch:
        """The rows of some texts, padded."""
        return TokenBatch.pad(self.adapter, [self.rows[index] for index in group], side=side)

    def encode(self, session: Session, group: Sequence[int]) -> None:
        """Run the encoder over what it reads for some texts, where there is an encoder."""
        if self.sources is not None:
            batch = TokenBatch.pad(self.adapter, [self.sources[index] for index in group])
            session.encode(prompt_step(batch, rows=np.asarray(group)), batch.ids)

    def feed(
        self,
        session: Session,
        group: Sequence[int],
        batch: TokenBatch,
        logits: Literal["all", "last"] | None,
    ) -> Tensor | None:
        """One pass over the rows of some texts, padded to a batch; an encoder has no logits."""
        index = np.asarray(group)
        step = prompt_step(batch, prompts=self.prompts[index], rows=index)
        if self.stack == "encoder":
            session.encode(step, batch.ids)
            return None
        self.encode(session, group)
        session.begin()
        return session.read(step, batch.ids, logits=logits)


def _lengths(rows: Sequence[Encoded]) -> np.ndarray:
    return np.asarray([len(row) for row in rows])


def one_each(
    adapter: Adapter, given: Any, texts: int, bos: Bos, name: str = "prompt"
) -> list[Encoded]:
    """One text for all texts, or one for each, as one for each.

    Raises:
        ArgumentError: another number of them.
    """
    fronts = as_texts(given)
    if len(fronts) not in (1, texts):
        raise ArgumentError(f"{name}: {len(fronts)} {name}s for {texts} texts; one, or as many.")
    found = [encoded(adapter, front, bos) for front in fronts]
    return found * texts if len(found) == 1 else found


def _started(adapter: Adapter, text: Encoded) -> Encoded:
    """A decoder's text with its start token in front, once."""
    return text if text.ids[:1] == adapter.start else Encoded(adapter.start + text.ids)
