"""Sampling in which late layers see the token that really came, with the key-value cache."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..errors import Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import each_group
from ..running.decoding import Decoder
from ..running.generate import Written, check_budget, tables
from ..running.inputs import Inputs
from ..running.sampling import Sampler
from ..running.session import Session
from ..settings import checked_seed
from ..tokens import Bos, Encoded, TokenBatch
from .blend import Blend, Norm, Target, resolve_blend
from .content import Content, Where, checked_where
from .decoding import BlendDecoder, PlainDecoder
from .generate_result import INTERPOLATED, PLAIN, Interpolation
from .reading import chosen_measures, plain_measures

__all__ = ["generate"]

MEASURES = ("logprob", "entropy", "rank")
RECOMPUTED = (
    "hooks of your own are attached: every step read all tokens again in one pass, as the "
    "definition has it, so that those hooks saw whole texts"
)
BESIDE = "the plain model read the same tokens beside, one more pass a step, for the rule `below`"
AFTERWARDS = "the plain model read what was written in one more pass, for the columns plain_*"


@torch.no_grad()
def generate(
    model: Any,
    prompt: Any,
    *,
    layer: Any = None,
    weight: Any = None,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    where: Where = "both",
    plain: bool = False,
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    logprobs: bool = True,
    stop_at_eos: bool = True,
    cache: bool = True,
    chunk: int | None = None,
    bos: Bos = "auto",
) -> Interpolation:
    """Continue prompts while late layers see, at every position, the token that came after it.

    To predict a token, the model reads all tokens before it. At each of them but the newest the
    residual after `layer` is `(1 - weight) * h + weight * e`, where e stands for the token that
    really came next, so that later positions see what was written and not what was guessed. The
    newest position, which predicts, is never blended.

    With the cache a step reads two tokens: the newest of the step before, blended now that the one
    after it is known, and the new one.

    Args:
        model: a decoder-only TransformerLens model.
        prompt: one text or many; a text is a string, chat messages or token ids.
        layer: after which block (site `resid_post`), or several, blended in turn; "all" is every one.
            After the last block nothing reads the stream but the newest position, so it changes
            nothing there.
        weight: 0 is the plain model, 1 replaces; or one for each layer, in their order.
        target: what stands for the next token: "embedding" (its row), "unembedding" (the direction
            of its logit), or the model's own residual at that token after an early layer ("early" is
            layer 0; or a layer's number).
        norm: "match" scales it to the norm of what it replaces, both without massive dimensions;
            "raw" takes it as it is; a number sets its norm.
        keep_first: leave position 0 alone, whose massive activation holds the attention sinks up.
        below: blend only where the plain model gave the next token less than this probability.
        extrapolate: allow weights outside [0, 1].
        where: blend at "prompt" positions, "generated" ones, or "both". The prompt's last token is
            one of the prompt; what comes after it is the first generated token.
        plain: let the plain model continue each prompt too, with the same random numbers.
        max_new_tokens: length of a continuation.
        temperature, top_k, top_p, repetition_penalty, seed, stop_at_eos: as in `lp.generate`.
        logprobs: measure each token with and without the interpolation; False saves a pass.
        cache: False reads everything anew at each step: slow, and the same answer.
        chunk: most prompt tokens in one pass; None is chosen from memory.

    Raises:
        ArgumentError: an option out of range; prompt and new tokens do not fit the context.
        ModelError: an encoder-decoder, or weights that cannot be read.
        Interrupted: Ctrl-C; `.partial` is what was written so far.

    Examples:
        >>> found = lp.interpolation.generate(model, "The ", layer=3, weight=0.3, max_new_tokens=8)
        >>> found.completions
        ['the the ']
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.interpolation.generate")
    blend = resolve_blend(
        adapter,
        layer=layer,
        weight=weight,
        target=target,
        norm=norm,
        keep_first=keep_first,
        below=below,
        extrapolate=extrapolate,
    )
    place = checked_where(where)
    check_budget(max_new_tokens)
    sampler = Sampler(temperature, top_k, top_p, repetition_penalty, checked_seed(seed))
    inputs = Inputs.prompted(adapter, prompt, bos)
    inputs.check_room(max_new_tokens)
    run = _Run(inputs, sampler, max_new_tokens, stop_at_eos, cache, chunk, logprobs)
    run.write(INTERPOLATED, blend, place)
    if plain and run.complete:
        run.write(PLAIN, blend.at(torch.zeros(len(blend.layers))), place)
    result = run.result(
        {
            **adapter.provenance(),
            "bos": adapter.bos(bos),
            **sampler.facts(),
            "max_new_tokens": max_new_tokens,
            "blend": blend.provenance(),
            "where": place,
        }
    )
    if not run.complete:
        raise Interrupted(f"interrupted after {len(result.tokens)} tokens.", partial=result)
    return result


class _Run:
    """Prompts, and what is written after them under one blend or another."""

    def __init__(
        self,
        inputs: Inputs,
        sampler: Sampler,
        budget: int,
        stop: bool,
        cache: bool,
        chunk: int | None,
        logprobs: bool,
    ) -> None:
        self.adapter: Adapter = inputs.adapter
        self.inputs = inputs
        self.sampler = sampler
        self.budget = budget
        self.stop = stop
        self.cache = cache
        self.chunk = chunk
        self.logprobs = logprobs
        self.answers: dict[str, dict[int, list[dict[str, Any]]]] = {}
        self.complete = True
        self.notes: list[str] = []

    def write(self, condition: str, blend: Blend, where: Where) -> None:
        """Continue every prompt; a blend that changes nothing leaves the model plain."""
        content = None if blend.plain else Content(blend, where)
        session = Session(self.adapter, (), content.hooks() if content else None)

        def work(group: list[int]) -> list[list[dict[str, Any]]]:
            batch = self.inputs.batch(group, "left")
            measure = chosen_measures if self.logprobs else None
            written = Written(self.adapter, batch, group, self.stop, measure)
            decoder = self._decoder(session, content, batch, group)
            if self.complete and not written.write(
                decoder, self.sampler.for_rows(group), self.budget
            ):
                self.complete = False
            return written.rows

        with session:
            # All prompts in one group; memory alone may split it.
            outcome = each_group(self.inputs.rows, work, batch_tokens=sys.maxsize, progress=False)
        self.complete &= outcome.complete
        self.notes += outcome.notes
        self.answers[condition] = outcome.answers

    def _decoder(
        self, session: Session, content: Content | None, batch: TokenBatch, group: list[int]
    ) -> Decoder:
        if content is None:
            return Decoder(
                session, batch, cached=self.cache, chunk=self.chunk, rows=np.asarray(group)
            )
        cached = self.cache and not self.adapter.user_hooks()
        if self.cache and not cached:
            self._note(RECOMPUTED)
        options: dict[str, Any] = {"cached": cached, "chunk": self.chunk, "rows": group}
        plain = None
        if content.blend.below is not None:
            plain = PlainDecoder(self.adapter, batch, **options)
            self._note(BESIDE)
        return BlendDecoder(session, batch, content, plain=plain, **options)

    def result(self, provenance: dict[str, Any]) -> Interpolation:
        """Tables of what was written, measured by the plain model as well."""
        found = [self._tables(condition) for condition in self.answers]
        texts = pd.concat([pair[0] for pair in found], ignore_index=True)
        tokens = pd.concat([pair[1] for pair in found], ignore_index=True)
        facts = {**provenance, "complete": self.complete, "notes": self.notes}
        order = ["text", "condition"]
        return Interpolation(
            provenance=facts,
            texts=texts.sort_values(order, kind="stable", ignore_index=True),
            tokens=tokens.sort_values([*order, "position"], kind="stable", ignore_index=True),
        )

    def _tables(self, condition: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        answers = self.answers[condition]
        columns = list(MEASURES) * self.logprobs
        if self.logprobs:
            self._measure(answers)
            columns += [f"plain_{name}" for name in MEASURES]
        texts, tokens = tables(self.adapter, self.inputs.rows, answers, columns)
        for frame in (texts, tokens):
            frame.insert(1, "condition", condition)
        return texts, tokens

    def _measure(self, answers: dict[int, list[dict[str, Any]]]) -> None:
        """What the plain model makes of the same tokens."""
        chosen = [index for index in sorted(answers) if answers[index]]
        prompts = [self.inputs.rows[index].ids for index in chosen]
        rows = [
            Encoded(ids + tuple(found["id"] for found in answers[index]))
            for ids, index in zip(prompts, chosen, strict=True)
        ]
        if not rows:
            return
        self._note(AFTERWARDS)
        values = plain_measures(self.adapter, rows, [len(ids) for ids in prompts], self.chunk)
        for index, own in zip(chosen, values, strict=True):
            for place, found in enumerate(answers[index]):
                found |= {f"plain_{name}": column[place] for name, column in own.items()}

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
