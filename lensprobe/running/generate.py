"""Sampling under edits, with the key-value cache."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..edits import Edit
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..results import Result
from ..settings import checked_seed
from ..tokens import Bos, Encoded, TokenBatch, token_strings
from .batching import each_group
from .decoding import Decoder
from .forward import describe
from .inputs import Inputs
from .measures import ranks
from .sampling import Sampler
from .session import Session

__all__ = ["Generation", "Written", "check_budget", "generate", "tables"]


@dataclass(frozen=True, repr=False, eq=False)
class Generation(Result):
    """What was generated for each prompt.

    Attributes:
        texts: one row a prompt: text, prompt, completion (special tokens left out), count (tokens).
        tokens: one row a generated token: text, position (absolute), token, id, and with
            `logprobs=True` its log-probability `logprob` in nats and its `rank` (1 is the likeliest)
            under the edited model, before temperature and filters.
    """

    kind: ClassVar[str] = "generate"

    texts: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def completions(self) -> list[str]:
        """The generated texts, one for each prompt."""
        return list(self.texts["completion"])

    def __str__(self) -> str:
        """Prompt and completion, as one reads them."""
        rows = zip(self.texts["prompt"], self.texts["completion"], strict=True)
        return "\n\n".join(prompt + completion for prompt, completion in rows)

    def summary(self) -> dict[str, Any]:
        """Model, prompts, generated tokens and the first completion's beginning."""
        first = self.completions[0] if len(self.texts) else ""
        return {
            **super().summary(),
            "prompts": len(self.texts),
            "tokens": len(self.tokens),
            "first": repr(first if len(first) < 60 else first[:57] + "..."),
        }

    def _repr_html_(self) -> str:
        """The table, and the texts token by token."""
        view = importlib.import_module("lensprobe.reporting.token_view")
        return super()._repr_html_() + view.notebook(self)


@torch.no_grad()
def generate(
    model: Any,
    prompt: Any,
    *,
    edits: Edit | Iterable[Edit] = (),
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    logprobs: bool = False,
    stop_at_eos: bool = True,
    cache: bool = True,
    chunk: int | None = None,
    bos: Bos = "auto",
) -> Generation:
    """Continue one prompt or a batch of prompts of different lengths under edits.

    An encoder-decoder answers its prompts: the encoder reads each once, closed by EOS, and the decoder
    writes from its start token on.

    Args:
        model: a TransformerLens model.
        prompt: one text or many; a text is a string, chat messages (or `lp.chat`) or token ids.
        edits: written while the prompt is read and while tokens are generated, as their `positions`
            say.
        temperature: 0 is greedy.
        top_k: sample among this many likeliest tokens.
        top_p: sample among the likeliest tokens that together have this probability.
        repetition_penalty: above 1 makes tokens already there less likely (Keskar et al.
            1909.05858).
        seed: rows draw from generators of their own, seeded by (seed, row), so that the others in
            the batch do not matter; None draws a seed and stores it in the result.
        logprobs: keep each generated token's log-probability and rank.
        cache: False recomputes everything at each step: slow, and the same answer.
        chunk: most prompt tokens in one pass; None is chosen from memory.

    Raises:
        ArgumentError: an option out of range; prompt and new tokens do not fit the context.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.
        Interrupted: Ctrl-C; `.partial` is the generation so far.

    Examples:
        >>> lp.generate(model, "The ", max_new_tokens=8).completions
        ['the the ']
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.generate")
    check_budget(max_new_tokens)
    sampler = Sampler(temperature, top_k, top_p, repetition_penalty, checked_seed(seed))
    inputs = Inputs.prompted(adapter, prompt, bos)
    inputs.check_room(max_new_tokens)
    session = Session(adapter, edits, texts=len(inputs))
    inputs.check(session, new_tokens=max_new_tokens)
    stopped: list[bool] = []

    def work(group: list[int]) -> list[list[dict[str, Any]]]:
        batch = inputs.batch(group, "left")
        written = Written(adapter, batch, group, stop_at_eos, _measures if logprobs else None)
        inputs.encode(session, group)
        decoder = Decoder(session, batch, cached=cache, chunk=chunk, rows=np.asarray(group))
        if not stopped and not written.write(decoder, sampler.for_rows(group), max_new_tokens):
            stopped.append(True)
        return written.rows

    with session:
        # All prompts in one group; memory alone may split it.
        outcome = each_group(inputs.sizes, work, batch_tokens=sys.maxsize, progress=False)
    complete = outcome.complete and not stopped
    provenance = {
        **adapter.provenance(),
        "bos": adapter.bos(bos),
        **sampler.facts(),
        "max_new_tokens": max_new_tokens,
        "edits": [describe(edit) for edit in session.edits],
        "complete": complete,
        "notes": outcome.notes,
    }
    texts, tokens = tables(adapter, inputs.asked, outcome.answers, ["logprob", "rank"] * logprobs)
    result = Generation(provenance=provenance, texts=texts, tokens=tokens)
    if not complete:
        raise Interrupted(f"interrupted after {len(result.tokens)} tokens.", partial=result)
    return result


def check_budget(max_new_tokens: int) -> None:
    """Refuse a length that is no positive whole number.

    Raises:
        ArgumentError: it is none.
    """
    if (
        isinstance(max_new_tokens, bool)
        or not isinstance(max_new_tokens, int)
        or max_new_tokens < 1
    ):
        raise ArgumentError(f"max_new_tokens={max_new_tokens!r}: a positive whole number.")


class Written:
    """The tokens chosen so far; a row that met its end takes no more.

    Args:
        adapter: the model's.
        batch: the prompts, padded on the left.
        texts: which of the caller's prompts each row is.
        stop: whether a row ends with an end-of-sequence token.
        measure: `(scores, chosen) -> {column: values}`, what is kept of each choice.
    """

    def __init__(
        self,
        adapter: Adapter,
        batch: TokenBatch,
        texts: list[int],
        stop: bool,
        measure: Callable[[Tensor, Tensor], dict[str, list[Any]]] | None = None,
    ) -> None:
        self.texts = texts
        self.batch = batch
        self.lengths = batch.lengths
        self.ends = set(_ends(adapter)) if stop else set()
        self.measure = measure
        self.open = np.ones(len(batch.ids), dtype=bool)
        self.rows: list[list[dict[str, Any]]] = [[] for _ in batch.ids]

    def write(self, decoder: Decoder, draw: Sampler, budget: int) -> bool:
        """Choose token after token, `budget` at most; False where Ctrl-C came before the end."""
        chosen: Tensor | None = None
        try:
            for _ in range(budget):
                scores = decoder.start() if chosen is None else decoder.advance(chosen)
                chosen = draw.choose(scores, decoder.ids, self.batch.mask)
                self._add(chosen, scores)
                if not self.open.any():
                    break
        except KeyboardInterrupt:
            return False
        return True

    def _add(self, chosen: Tensor, scores: Tensor) -> None:
        values = {} if self.measure is None else self.measure(scores, chosen.to(scores.device))
        for row, token in enumerate(chosen.tolist()):
            if self.open[row]:
                found = {
                    "text": self.texts[row],
                    "position": int(self.lengths[row]) + len(self.rows[row]),
                    "id": token,
                }
                self.rows[row].append(found | {name: kept[row] for name, kept in values.items()})
                self.open[row] = token not in self.ends


def _measures(scores: Tensor, chosen: Tensor) -> dict[str, list[Any]]:
    logs = scores.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
    return {"logprob": logs.tolist(), "rank": ranks(scores, chosen).tolist()}


def tables(
    adapter: Adapter,
    rows: list[Encoded],
    answers: dict[int, list[dict[str, Any]]],
    columns: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts (text, prompt, completion, count) and tokens (text, position, token, id and `columns`).

    Args:
        adapter: the model's.
        rows: the prompts.
        answers: what was written after each, by its index.
        columns: what was measured of each token.
    """
    tokenizer = getattr(adapter.model, "tokenizer", None)

    def decode(ids: Iterable[int]) -> str:
        if tokenizer is None:
            return " ".join(map(str, ids))
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    order = sorted(answers)
    flat = [found for index in order for found in answers[index]]
    tokens = pd.DataFrame(flat, columns=["text", "position", "id", *columns])
    tokens.insert(2, "token", token_strings(tokenizer, tokens["id"]))
    texts = pd.DataFrame(
        {
            "text": order,
            "prompt": [decode(rows[index].ids) for index in order],
            "completion": [decode(f["id"] for f in answers[index]) for index in order],
            "count": [len(answers[index]) for index in order],
        }
    )
    return texts, tokens


def _ends(adapter: Adapter) -> list[int]:
    """End-of-sequence ids: the tokenizer's, and those a chat model's generation config adds."""
    original = getattr(adapter.model, "original_model", None)
    extra = getattr(getattr(original, "generation_config", None), "eos_token_id", None)
    found = [getattr(getattr(adapter.model, "tokenizer", None), "eos_token_id", None)]
    found += extra if isinstance(extra, list) else [extra]
    return [int(token) for token in found if token is not None]
