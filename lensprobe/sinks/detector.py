"""What tells a first token from the rest: the heads of an early layer, and one direction they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ..corpus import positive_whole
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..models.weights import weights_of
from ..running.batching import buckets, progress_bar
from ..running.session import hooked
from ..settings import current
from ..tokens import Bos, Encoded, TokenBatch
from .detector_result import FirstTokenDetector
from .trials import Material, material, word_names

__all__ = ["first_token_detector"]

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
"""How often a token is repeated."""


@torch.no_grad()
def first_token_detector(
    model: Any,
    texts: Any,
    *,
    layer: int = 0,
    lengths: Sequence[int] = LENGTHS,
    n: int = 16,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> FirstTokenDetector:
    """Find the direction in which an attention layer marks first tokens, and the heads that write it.

    A token that stands alone attends to itself and to nothing else. Each token of the texts behind the
    first is therefore read twice: where it stands, and alone. The mean difference of what the layer's
    attention adds (alone minus in its place) is the direction. It is exactly the sum of the heads'
    differences: a bias cancels, but for one in front of a norm. It is found on every other document and
    judged on the rest.

    The false positive of Yona et al. (2503.08908): `n` tokens of the texts are repeated, and what the
    layer adds at the last copy is compared with what it adds to that token alone.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.sinks.scan` takes; at least two documents.
        layer: whose attention is looked at.
        lengths: how often a token is repeated.
        n: how many different tokens of the texts are repeated, drawn at random.
        bos: whether texts begin with BOS; repeats are read with and without it where there is one.
        length, limit, column: as in `lp.sinks.scan`; `length` None is 64.
        seed: of the draw.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: an argument out of range; fewer than two documents.
        ModelError: an encoder-decoder; weights that cannot be read.
        Interrupted: Ctrl-C.

    Examples:
        >>> texts = ["The cat sat.", "The dog lay."]
        >>> found = lp.sinks.first_token_detector(model, texts, n=2, lengths=[2, 4], seed=0)
        >>> found.direction.shape, round(found.separation, 2)
        ((768,), 0.66)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.first_token_detector")
    chosen = adapter.layer(layer)
    counts = repeat_counts(adapter, lengths)
    wanted, start = positive_whole("n", n), current("seed", seed) or 0
    reader = HeadReader(adapter, chosen, batch_tokens)
    read = material(
        adapter, texts, bos=bos, length=length, limit=limit, column=column,
        batch_tokens=batch_tokens,
    )  # fmt: skip
    if len(set(read.documents)) < 2:
        raise ArgumentError("texts: at least two documents; one half finds, the other judges.")
    try:
        with progress_bar("part", progress, total=2) as bar:
            found = _Contrast(reader, read)
            bar.update(1)
            words = found.drawn(wanted, start)
            distances = _distances(reader, words, counts)
    except KeyboardInterrupt as interrupt:
        raise Interrupted("interrupted before the texts were read.") from interrupt
    return FirstTokenDetector(
        provenance={
            **adapter.provenance(),
            **read.facts,
            "site": "attn_out",
            "layer": chosen,
            "lengths": list(counts),
            "words": list(words),
            "seed": start,
            "complete": True,
            "notes": read.notes,
        },
        heads=found.heads(),
        tokens=found.tokens(),
        distances=distances,
        direction=found.direction.double().cpu().numpy(),
        components=np.array(found.levels()),
    )


def repeat_counts(adapter: Adapter, lengths: Any) -> tuple[int, ...]:
    """Different numbers of repetition, ascending.

    Raises:
        ArgumentError: none, one below 1, one that does not fit in the context behind a BOS.
    """
    listed = [lengths] if isinstance(lengths, int) else list(lengths)
    if not listed:
        raise ArgumentError("lengths=[]: give at least one number of repetitions.")
    found = sorted({positive_whole("lengths", one) for one in listed})
    if found[-1] >= adapter.context:
        raise ArgumentError(
            f"lengths: {found[-1]} tokens and a BOS; this model's context is {adapter.context}."
        )
    return tuple(found)


class HeadReader:
    """What each head of one layer adds to the stream at chosen tokens."""

    def __init__(self, adapter: Adapter, layer: int, batch_tokens: int | None) -> None:
        self.adapter = adapter
        self.layer = layer
        self.batch_tokens = batch_tokens
        self.projection = weights_of(adapter).attention(layer)
        self.norm = self.projection.norm
        matrix = self._through(self.projection.matrix)
        bias = matrix.new_zeros(adapter.d_head, adapter.d_model)
        if self.projection.bias is not None:
            bias[0] = self._through(self.projection.bias)
        # One head more, whose first input is always 1: a bias in front of a norm differs by token too.
        self.matrix = torch.cat([matrix, bias]).unflatten(0, (-1, adapter.d_head))
        self.offset = matrix.new_zeros(adapter.d_model)
        if self.norm is not None and self.norm.bias is not None:
            self.offset = self.norm.bias.detach().float() * self.projection.multiplier

    def _through(self, part: Tensor) -> Tensor:
        """Rows as they reach the stream, but for the scale of the norm behind them."""
        part = part.detach().float()
        if self.norm is not None:
            part = part - part.mean(-1, keepdim=True) if self.norm.centred else part
            part = part * self.norm.gain.to(part)
        return part * self.projection.multiplier

    def each(self, rows: Sequence[Encoded]) -> list[Float[Tensor, "pos head d_head"]]:
        """What the heads of every token hand to `W_O` (and 1 to the bias), at the scale of a norm."""
        found: dict[int, Tensor] = {}
        point = self.adapter.hook_name("attn.z", self.layer)
        seen: list[Tensor] = []
        stop = None if self.adapter.user_hooks() else self.layer + 1
        with hooked(self.adapter, {point: lambda z: seen.append(z.detach().flatten(2))}):
            for group in buckets(rows, self.batch_tokens):
                batch = TokenBatch.pad(self.adapter, [rows[index] for index in group])
                self.adapter.run(batch.ids, mask=batch.mask if batch.ragged else None, stop=stop)
                for index, z in zip(group, seen.pop(), strict=True):
                    found[index] = self._scaled(z[: len(rows[index])])
        return [found[index] for index in range(len(rows))]

    def _scaled(self, z: Tensor) -> Tensor:
        """With one head more, for the bias."""
        heads = z.float().unflatten(-1, (self.adapter.n_heads, -1))
        one = torch.zeros_like(heads[:, :1])
        one[..., 0] = 1.0
        heads = torch.cat([heads, one], 1)
        if self.norm is None:
            return heads
        return heads * self.norm.scale(self.projection.before(z)).float()[:, None, None]

    def written(
        self, z: Float[Tensor, "*batch head d_head"]
    ) -> Float[Tensor, "*batch head d_model"]:
        """What each head adds to the stream, and at the end the bias."""
        return torch.einsum("...hd,hdm->...hm", z, self.matrix)

    def whole(self, z: Float[Tensor, "*batch head d_head"]) -> Float[Tensor, "*batch d_model"]:
        """What the layer's attention adds to the stream."""
        return torch.einsum("...hd,hdm->...m", z, self.matrix) + self.offset

    def along(self, z: Float[Tensor, "*batch head d_head"], direction: Tensor) -> np.ndarray:
        """The component of that along a direction, `[*batch head]`."""
        return torch.einsum("...hd,hd->...h", z, self.matrix @ direction).double().cpu().numpy()


@dataclass
class _Sides:
    """Paired tokens: `[pair head d_head]` alone and in place."""

    alone: Tensor
    placed: Tensor


class _Contrast:
    """Tokens of the texts alone against in their places."""

    def __init__(self, reader: HeadReader, read: Material) -> None:
        self.reader, self.read = reader, read
        # BOS stands alone in every text; a text begins with whatever it begins with.
        self.kinds = sorted({token for row in read.rows for token in row.ids[1:]})
        singles = reader.each([Encoded((token,)) for token in self.kinds])
        self.alone = dict(zip(self.kinds, (one[0] for one in singles), strict=True))
        self.placed = reader.each(read.rows)
        names = sorted(set(read.documents))
        self.finding = set(names[::2])
        sides = self._sides(judged=False)
        self.gaps = reader.written((sides.alone - sides.placed).mean(0))
        whole = self.gaps.sum(0)
        self.length = float(whole.norm())
        self.direction = whole / self.length if self.length else whole
        self.judged = self._sides(judged=True)

    def _sides(self, *, judged: bool) -> _Sides:
        alone, placed = [], []
        for row, document, heads in zip(
            self.read.rows, self.read.documents, self.placed, strict=True
        ):
            if (document in self.finding) == judged:
                continue
            alone += [self.alone[token] for token in row.ids[1:]]
            placed.append(heads[1:])
        return _Sides(torch.stack(alone), torch.cat(placed))

    def levels(self) -> tuple[float, float]:
        """Mean component along the direction in place and alone, over the judged tokens."""
        placed, alone = (
            self._along(part).sum(1) for part in (self.judged.placed, self.judged.alone)
        )
        constant = float(self.reader.offset @ self.direction)
        return float(placed.mean()) + constant, float(alone.mean()) + constant

    def _along(self, z: Tensor) -> np.ndarray:
        return self.reader.along(z, self.direction)

    def heads(self) -> pd.DataFrame:
        """The heads' parts of the direction, and how well each alone separates."""
        shares = (self.gaps @ self.direction).double().cpu().numpy() / (self.length or 1.0)
        alone, placed = self._along(self.judged.alone), self._along(self.judged.placed)
        own = self.gaps.norm(dim=-1).double().cpu().numpy()
        rows = [
            {
                "layer": self.reader.layer,
                "head": head,
                "value": float(own[head]),
                "share": float(shares[head]),
                "separation": separation(alone[:, head], placed[:, head]),
            }
            for head in range(self.reader.adapter.n_heads)
        ]
        whole = separation(alone.sum(1), placed.sum(1))
        total = {"head": -1, "value": self.length, "share": 1.0, "separation": whole}
        return pd.DataFrame([*rows, {"layer": self.reader.layer, **total}])

    def tokens(self) -> pd.DataFrame:
        """Every judged token: 0 is the mean of tokens in their places, 1 that of tokens alone."""
        low, high = self.levels()
        constant = float(self.reader.offset @ self.direction)
        rows = []
        for row, document, heads in zip(
            self.read.rows, self.read.documents, self.placed, strict=True
        ):
            if document in self.finding:
                continue
            values = (self._along(heads).sum(1) + constant - low) / ((high - low) or 1.0)
            names = word_names(self.reader.adapter, row.ids)
            rows += [
                {"document": document, "position": place, "token": name, "value": float(value)}
                for place, (name, value) in enumerate(zip(names, values, strict=True))
            ]
        return pd.DataFrame(rows)

    def drawn(self, n: int, seed: int) -> tuple[int, ...]:
        """Different tokens of the texts."""
        draw = np.random.default_rng(seed)
        return tuple(int(t) for t in draw.choice(self.kinds, min(n, len(self.kinds)), False))


def separation(high: np.ndarray, low: np.ndarray) -> float:
    """Probability that one of `high` exceeds one of `low`, a tie counting half (area under the ROC)."""
    ranks = stats.rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def _distances(reader: HeadReader, words: Sequence[int], counts: Sequence[int]) -> pd.DataFrame:
    """How far each head's output at the last of several copies is from that of the token alone."""
    adapter = reader.adapter
    begin = getattr(getattr(adapter.model, "tokenizer", None), "bos_token_id", None)
    fronts: list[tuple[int, ...]] = [()] if begin is None else [(), (int(begin),)]
    plan = [(word, front, count) for word in words for front in fronts for count in counts]
    rows = [Encoded((*front, *(word,) * count)) for word, front, count in plan]
    singles = reader.each([Encoded((word,)) for word in words])
    alone = {word: z[0] for word, z in zip(words, singles, strict=True)}
    names = dict(zip(words, word_names(adapter, words), strict=True))
    found = []
    for (word, front, count), z in zip(plan, reader.each(rows), strict=True):
        sizes = _norms(reader.written(z[-1] - alone[word]))
        own = _norms(reader.written(alone[word]))
        facts = {"token": names[word], "id": word, "bos": bool(front), "count": count}
        heads = [*range(adapter.n_heads), -1]
        for head, size, one in zip(heads, sizes, own, strict=True):
            ratio = size / one if one else np.nan
            found.append({**facts, "head": head, "value": size, "ratio": ratio})
    return pd.DataFrame(found)


def _norms(written: Tensor) -> list[float]:
    """Of each head, and of all of them with the bias."""
    return [*written[:-1].norm(dim=-1).tolist(), float(written.sum(0).norm())]
