"""The loss of every token of a text under edits."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..costs import Plan
from ..edits import Edit
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..results import Result
from ..settings import current
from ..tokens import Bos, Encoded, Side, TokenBatch, token_strings
from .batching import chunks, each_group, plan_groups
from .decoding import Decoder
from .forward import describe
from .inputs import Inputs
from .measures import losses, ranks
from .session import Session, part, prompt_step

__all__ = ["Score", "score"]


@dataclass(frozen=True, repr=False, eq=False)
class Score(Result):
    """Losses in nats.

    Attributes:
        texts: one row a text: text, loss (mean over scored tokens), perplexity, count.
        tokens: one row a token: text, position, token, kind ("prompt" or "text"), loss, probability,
            rank (1 is the likeliest). A text's first token has none of the three (NaN).
    """

    kind: ClassVar[str] = "score"

    texts: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def loss(self) -> float:
        """Mean loss over all scored tokens of all texts, in nats."""
        count = self.texts["count"].to_numpy()
        return float((self.texts["loss"].to_numpy() * count).sum() / count.sum())

    def summary(self) -> dict[str, Any]:
        """Model, texts, scored tokens, mean loss and its perplexity."""
        return {
            **super().summary(),
            "texts": len(self.texts),
            "tokens": int(self.texts["count"].to_numpy().sum()),
            "loss": self.loss,
            "perplexity": float(np.exp(self.loss)),
        }

    def _repr_html_(self) -> str:
        """The table, and the tokens coloured by their loss."""
        view = importlib.import_module("lensprobe.reporting.token_view")
        return super()._repr_html_() + view.notebook(self)


@torch.no_grad()
def score(
    model: Any,
    texts: Any,
    *,
    prompt: Any = None,
    edits: Edit | Iterable[Edit] = (),
    bos: Bos = "auto",
    side: Side = "right",
    batch_tokens: int | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
    dry_run: bool | None = None,
) -> Score | Plan:
    """Next-token losses of texts under edits, computed from the mask and never from pads.

    Args:
        model: a TransformerLens model.
        texts: one text or many.
        prompt: one text for all, or one for each. Tokens of the prompt are read and not scored, and
            `after_prompt()` and its like refer to its end. Without one, the whole text is the
            prompt and every token but the first is scored. An encoder-decoder needs one: the encoder
            reads it, and the texts are what the decoder writes, the closing EOS included.
        chunk: most tokens of each row in one pass over the cache; None is chosen from memory, so
            that a long text takes little more than its keys and values.
        side: where a batch is padded; the answer does not depend on it.
        dry_run: True to return the `Plan` of the call instead of running it.

    Under an edit that moves with the newest token, each token is predicted with the edit on the one
    before it alone, as in generation, by reading token after token.

    Raises:
        ArgumentError: an empty text, one longer than the context, prompts that do not match texts.
        ModelError: an encoder-decoder that cannot be run; see `lp.check`.
        Interrupted: Ctrl-C; `.partial` holds the texts that were finished.

    Examples:
        >>> round(lp.score(model, "The cat sat on the mat.").loss, 3)
        2.038
        >>> off = lp.Scale(factor=0.0, layers=1, dim=447, positions=lp.positions.front(1))
        >>> round(lp.score(model, "The cat sat on the mat.", edits=off).loss, 3)  # ln 2 more
        2.731
    """
    adapter = adapter_for(model)
    adapter.require_runnable("lp.score")
    inputs = Inputs.read(adapter, texts, prompt, bos)
    if min(map(len, inputs.rows)) < 2:
        raise ArgumentError("a text of one token has no next token to score.")
    session = Session(adapter, edits, texts=len(inputs))
    inputs.check(session)

    def work(group: list[int]) -> list[np.ndarray]:
        if session.moves:
            return [_walk(session, inputs, index, chunk) for index in group]
        return _read(session, inputs, group, side, chunk)

    if current("dry_run", dry_run):
        facts = {**adapter.provenance(), "bos": adapter.bos(bos), "complete": False}
        with session:
            return plan_groups(
                inputs.sizes,
                work,
                batch_tokens=batch_tokens,
                device=adapter.device,
                provenance=facts,
            )
    with session:
        outcome = each_group(inputs.sizes, work, batch_tokens=batch_tokens, progress=progress)
    answers = outcome.answers
    provenance = {
        **adapter.provenance(),
        "bos": adapter.bos(bos),
        "edits": [describe(edit) for edit in session.edits],
        "texts": len(inputs),
        "finished": len(answers),
        "complete": outcome.complete,
        "notes": outcome.notes,
    }
    if not answers:
        raise Interrupted("interrupted before the first text was finished.")
    starts = inputs.prompts if prompt is not None else np.zeros(len(inputs), dtype=int)
    result = _result(adapter, inputs.rows, starts, answers, provenance)
    if not outcome.complete:
        raise Interrupted(
            f"interrupted after {len(answers)} of {len(inputs)} texts.", partial=result
        )
    return result


def _read(
    session: Session, inputs: Inputs, group: list[int], side: Side, chunk: int | None
) -> list[np.ndarray]:
    """Loss and rank `[2 length-1]` of each row, in one pass or in chunks over the cache."""
    batch = inputs.batch(group, side)
    step = prompt_step(batch, prompts=inputs.prompts[group], rows=np.asarray(group))
    inputs.encode(session, group)
    session.begin()
    count, width = batch.ids.shape
    ranges = chunks(session.adapter, count, width, chunk, True)
    cache = session.new_cache(count) if len(ranges) > 1 else None
    if cache is not None:
        cache.expect(width)
    found = torch.zeros(2, count, width, dtype=torch.float32)
    for begin, end in ranges:
        out = session.read(part(step, begin, end), batch.ids[:, begin:end], cache=cache)
        assert out is not None
        targets = batch.ids[:, begin + 1 : end + 1]
        found[..., begin + 1 : begin + 1 + targets.shape[1]] = _read_off(out, targets)
    return [found[:, row, mask][:, 1:].numpy() for row, mask in enumerate(batch.mask.cpu())]


def _read_off(logits: Tensor, targets: Tensor) -> Tensor:
    """`-log p(target)` in nats and the target's rank, float32 `[2 batch pos]`, row by row so that no
    second copy of all logits is made. Logits may have one column more than there are targets."""
    out = torch.empty((2, *targets.shape), dtype=torch.float32)
    for row, own in enumerate(targets):
        scores = logits[row, : len(own)].float()
        out[0, row], out[1, row] = losses(scores, own).cpu(), ranks(scores, own).cpu()
    return out


def _walk(session: Session, inputs: Inputs, index: int, chunk: int | None) -> np.ndarray:
    """Loss and rank of each token of one text under a moving edit: every token is the newest once."""
    row = inputs.rows[index]
    batch = TokenBatch.pad(session.adapter, [Encoded(row.ids[:1], row.roles)], side="left")
    inputs.encode(session, [index])
    decoder = Decoder(
        session,
        batch,
        cached=True,
        chunk=chunk,
        prompts=inputs.prompts[[index]],
        rows=np.asarray([index]),
    )
    scores = decoder.start()
    values = []
    for token in row.ids[1:]:
        target = torch.tensor([token], device=scores.device)
        values.append(_read_off(scores[:, None], target[:, None])[:, 0, 0].numpy())
        scores = decoder.advance(target) if len(values) < len(row) - 1 else scores
    return np.stack(values, axis=1)


def _result(
    adapter: Adapter,
    rows: list[Encoded],
    prompts: np.ndarray,
    answers: dict[int, np.ndarray],
    provenance: dict[str, Any],
) -> Score:
    tokenizer = getattr(adapter.model, "tokenizer", None)
    tables: list[pd.DataFrame] = []
    for index in sorted(answers):
        row = rows[index]
        loss, rank = np.concatenate([np.full((2, 1), np.nan), answers[index]], axis=1)
        length = len(row)
        tables.append(
            pd.DataFrame(
                {
                    "text": index,
                    "position": np.arange(length),
                    "token": token_strings(tokenizer, row.ids),
                    "kind": np.where(np.arange(length) < prompts[index], "prompt", "text"),
                    "loss": loss,
                    "probability": np.exp(-loss),
                    "rank": rank,
                }
            )
        )
    columns = ["text", "position", "token", "kind", "loss", "probability", "rank"]
    tokens = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
    scored = tokens[(tokens["kind"] == "text") & tokens["loss"].notna()]
    grouped = scored.groupby("text")["loss"]
    texts = grouped.agg(loss="mean", count="size").reset_index()
    texts.insert(2, "perplexity", np.exp(texts["loss"]))
    return Score(provenance=provenance, texts=texts, tokens=tokens)
