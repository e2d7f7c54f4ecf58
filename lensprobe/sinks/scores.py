"""Where the score of a sink comes from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..corpus import Corpus
from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..models.weights import weights_of
from ..tokens import Bos, Encoded, token_strings
from .checks import at_least_zero, checked_head, checked_position
from .heads import head_statistics
from .scores_result import SinkScores
from .terms import Terms, terms

__all__ = ["scores"]


def scores(
    model: Any,
    prompt: Any,
    *,
    head: tuple[int, int] | None = None,
    position: int = 0,
    threshold: float = 100.0,
    ratio: float = 1000.0,
    bos: Bos = "auto",
) -> SinkScores:
    """Take the score of one head to one key apart, exactly.

    A score is `scale * (R q_t) · (R k)`: a query and a key, each turned by its position where positions
    are rotary. Both are linear in the parts of the stream once the norm's scale is held at that of
    this pass (Elhage et al. 2021; as in `lp.massive.anatomy`), so that the score is a sum over pairs
    of parts, over dimensions of the key's input, and over coordinates of the head, each exactly.
    Softmax sees differences only, so everything is also given for the mean over the other keys.

    Where queries or keys have a norm of their own its factors are held too; where scores are capped,
    the sum is of the score before the cap. The turns are asked of the model, whatever its convention.

    Args:
        model: a TransformerLens model.
        prompt: one text.
        head: layer and head; None is the head that attends most to the position in this text.
        position: of the key, from 0. Queries are all tokens after it.
        threshold, ratio: of a massive dimension of the key's input: least magnitude, least multiple of
            the median of the text's hidden state.
        bos: whether the text begins with BOS; `"auto"` is what the model's own tokenizing does.

    Raises:
        ArgumentError: several texts, a head or position out of range, a text without a later token.
        ModelError: packed weights, LoRA layers that are not merged, an encoder-decoder; scores that
            are no products of queries and keys (ALiBi).

    Examples:
        >>> found = lp.sinks.scores(model, "The cat sat on the mat.", head=(2, 1))
        >>> round(found.score, 2), round(found.summary()["massive"], 2)  # nearly all of it
        (12.0, 11.98)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.scores")
    weights = weights_of(adapter)
    given = None if head is None else checked_head(adapter, head)
    least, times = at_least_zero("threshold", threshold), at_least_zero("ratio", ratio)
    corpus = Corpus(adapter, prompt, bos=bos, length=adapter.context)
    windows = list(corpus.windows())
    if len(windows) != 1:
        raise ArgumentError(
            f"prompt: one text of at most {adapter.context} tokens; got {corpus.read.documents} texts "
            f"in {len(windows)} windows."
        )
    ids = windows[0].ids
    if len(ids) < 2:
        raise ArgumentError("prompt: a text of one token has no query after its first key.")
    checked_position(position, len(ids))
    layer, index = _strongest(adapter, ids, position) if given is None else given
    found = terms(adapter, weights, ids, layer, index)
    weighing = _Weighing(found, position)
    tokens = token_strings(getattr(adapter.model, "tokenizer", None), ids)
    queries = weighing.queries(tokens)
    return SinkScores(
        provenance={
            **adapter.provenance(),
            "bos": corpus.bos,
            "length": len(ids),
            "layer": layer,
            "head": index,
            "position": position,
            "token": tokens[position],
            "scale": found.scale,
            "thresholds": {"magnitude": least, "ratio": times},
            "remainder": float(np.abs(queries["remainder"]).max()),
            "notes": [] if given else [f"layer {layer}, head {index} attends most to the position"],
        },
        queries=queries,
        parts=weighing.parts(),
        dims=weighing.dims(least, times),
        coordinates=weighing.coordinates(),
    )


def _strongest(adapter: Adapter, ids: tuple[int, ...], position: int) -> tuple[int, int]:
    attention = head_statistics(adapter, [Encoded(ids)], keys=position + 1).attention[0, ..., -1]
    layer, index = np.unravel_index(np.nanargmax(attention), attention.shape)
    return int(layer), int(index)


class _Weighing:
    """Sums over queries: each weighs the key at the position once, and all its other keys once."""

    def __init__(self, found: Terms, position: int) -> None:
        self.found = found
        self.position = position
        length = len(found.scores)
        seen = np.isfinite(found.scores)
        self.asked = np.arange(position + 1, length)[seen[position + 1 :, position]]
        if not len(self.asked):
            raise ArgumentError(f"position={position}: no later token of this head sees it.")
        others = seen[self.asked]
        others[:, position] = False
        counts = others.sum(1, keepdims=True)
        # A query that sees no other key has no mean over others.
        self.at = np.zeros((length, length))
        self.at[self.asked, position] = 1 / len(self.asked)
        self.others = np.zeros((length, length))
        usable = counts[:, 0] > 0
        self.others[self.asked[usable]] = (others / np.maximum(counts, 1))[usable] / usable.sum()
        # How much each key weighs, with what queries: everything below is linear in these.
        self.turned_queries = np.einsum("tij,ptj->pti", found.turns[0], found.queries)
        self.turned_keys = np.einsum("tij,ptj->pti", found.turns[1], found.keys)

    def queries(self, tokens: list[str]) -> pd.DataFrame:
        """One row a query after the position."""
        found, place = self.found, self.position
        q, k = found.queries.sum(0), found.keys.sum(0)
        turned = found.scale * self.turned_queries.sum(0) @ self.turned_keys.sum(0).T
        plain = found.scale * q @ k.T
        others = np.isfinite(found.scores)
        others[:, place] = False
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(others, np.nan_to_num(found.scores), 0.0).sum(1) / others.sum(1)
        rows = self.asked
        return pd.DataFrame(
            {
                "query": rows,
                "token": [tokens[row] for row in rows],
                "value": found.scores[rows, place],
                "others": mean[rows],
                "probability": found.pattern[rows, place],
                "content": plain[rows, place],
                "turn": (turned - plain)[rows, place],
                "remainder": (found.scores - turned)[rows, place],
            }
        )

    def parts(self) -> pd.DataFrame:
        """One row a part of the query and a part of the key."""
        rows = []
        for i, query in enumerate(self.found.names):
            for j, key in enumerate(self.found.names):
                products = self.found.scale * self.turned_queries[i] @ self.turned_keys[j].T
                at, others = ((products * weight).sum() for weight in (self.at, self.others))
                rows.append((query, key, float(at), float(others)))
        return pd.DataFrame(rows, columns=["query_part", "key_part", "value", "others"])

    def dims(self, threshold: float, ratio: float) -> pd.DataFrame:
        """One row a dimension of what the key is made from."""
        found = self.found
        size = np.abs(found.stream)
        middle = np.sort(size, axis=None)[(size.size - 1) // 2]
        own = size[self.position]
        massive = (own > threshold) & (own >= ratio * middle)
        turned = self.turned_queries.sum(0)
        columns = {}
        for name, weight in (("value", self.at), ("others", self.others)):
            # What the queries ask of each key, turned back to where the key was made.
            asked = np.einsum("kji,kj->ki", found.turns[1], weight.T @ turned) * found.scale
            columns[name] = (found.normed * ((asked * found.gains) @ found.weight.T)).sum(0)
        return pd.DataFrame(
            {
                "dim": np.arange(len(own)),
                "activation": found.stream[self.position],
                **columns,
                "kind": np.where(massive, "massive", ""),
            }
        )

    def coordinates(self) -> pd.DataFrame:
        """One row a coordinate of the head, after the turn."""
        q, k = self.turned_queries.sum(0), self.turned_keys.sum(0)
        columns = {
            name: self.found.scale * (q * (weight @ k)).sum(0)
            for name, weight in (("value", self.at), ("others", self.others))
        }
        return pd.DataFrame({"coordinate": np.arange(q.shape[1]), **columns})
