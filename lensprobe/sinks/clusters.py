"""Sets of different tokens that a model takes for first tokens: the false positive without a repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..corpus import positive_whole
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..running.batching import buckets, progress_bar
from ..running.session import hooked
from ..settings import current
from ..tokens import Bos, Encoded, TokenBatch
from .clusters_result import Clusters
from .comparing import threshold
from .detector import HeadReader
from .heads import head_statistics
from .onset import FOOLED, Onset, onset_of
from .repeats import measured, share_of
from .trials import word_names, words_of

__all__ = ["clusters"]

SAMPLE = 8192
"""Tokens of the vocabulary whose similarity is looked at."""
POOL = 32
"""The best candidates that are tried in each place of a set."""


@torch.no_grad()
def clusters(
    model: Any,
    word: Any,
    *,
    n: int = 512,
    length: int = 4,
    layer: int = 0,
    ratio: float = FOOLED,
    epsilon: float = 0.3,
    repeats: int = 8,
    bos: Bos = False,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Clusters:
    """Search a set of different tokens that a model confuses as it confuses copies of one.

    Half of the candidates are the tokens most similar to the word in what the layer's attention adds
    to each of them alone (its cosine), the other half is drawn at random, so that it is seen whether
    similarity predicts anything. Each is read behind the word. The set then grows token by token: of
    the best candidates, the one with the largest massive value behind what is there already. At the
    end the set is read in random orders, no token twice, against sets drawn at random.

    The extension of Yona et al. (2503.08908) to sequences that repeat nothing; the search is this
    library's own.

    Args:
        model: a TransformerLens model.
        word: one token of this model, as a string or as its id.
        n: how many candidates.
        length: tokens of the set, the word included.
        layer: whose attention similarity is about.
        ratio: least share of a first token's massive value.
        epsilon: least attention of a sink, exclusive.
        repeats: orders of the set that are read, and random sets.
        bos: whether BOS stands in front of every sequence.
        seed: of the draws.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: a word of several tokens (with how it was split); an argument out of range.
        ModelError: an encoder-decoder; weights that cannot be read.
        HookPointError: the model keeps no attention patterns.
        Interrupted: Ctrl-C.

    Examples:
        >>> found = lp.sinks.clusters(model, "a", n=8, length=3, repeats=2, seed=0)
        >>> found.success()  # the planted model is fooled by nothing
        0.0
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.clusters")
    ids = words_of(adapter, word, "word")
    if len(ids) != 1:
        raise ArgumentError(f"word: one word; got {len(ids)}.")
    wanted, draws, size = (
        positive_whole(name, value)
        for name, value in (("n", n), ("repeats", repeats), ("length", length))
    )
    if size < 2 or wanted + 1 < size:
        raise ArgumentError(f"length={length!r}: at least 2, and at most n + 1 = {wanted + 1}.")
    least, epsilon = share_of(ratio), threshold(epsilon)
    front = (int(adapter.tokenizer.bos_token_id),) if adapter.bos(bos) else ()
    chosen = current("seed", seed) or 0
    reader = HeadReader(adapter, adapter.layer(layer), batch_tokens)
    search = _Search(adapter, reader, onset_of(adapter), ids[0], front, least, chosen)
    try:
        with progress_bar("step", progress, total=size + 1) as bar:
            candidates = search.candidates(wanted)
            bar.update(1)
            members = search.grown(candidates, size, bar.update)
            trials = search.trials(members["id"].tolist(), draws, epsilon)
            bar.update(1)
    except KeyboardInterrupt as interrupt:
        raise Interrupted("interrupted before the set was found and read.") from interrupt
    return Clusters(
        provenance={
            **adapter.provenance(),
            **search.onset.facts(),
            "word": word_names(adapter, ids)[0],
            "layer": reader.layer,
            "site": "attn_out",
            "n": wanted,
            "length": size,
            "ratio": least,
            "epsilon": epsilon,
            "repeats": draws,
            "bos": bool(front),
            "seed": chosen,
            "complete": True,
            "notes": [search.onset.note],
        },
        trials=trials,
        members=members,
        candidates=candidates.assign(member=candidates["id"].isin(members["id"])),
    )


class _Search:
    """The word, and what stands behind it."""

    def __init__(
        self,
        adapter: Adapter,
        reader: HeadReader,
        onset: Onset,
        word: int,
        front: tuple[int, ...],
        least: float,
        seed: int,
    ) -> None:
        self.adapter, self.reader, self.onset = adapter, reader, onset
        self.word, self.front, self.least = word, front, least
        self.draw = np.random.default_rng(seed)
        special = set(getattr(getattr(adapter.model, "tokenizer", None), "all_special_ids", []))
        usable = [i for i in range(adapter.d_vocab) if i not in special and i != word]
        self.vocabulary = self.draw.permutation(usable)[:SAMPLE]

    def candidates(self, n: int) -> pd.DataFrame:
        """Rows of `Clusters.candidates`."""
        similarity = self._similarity()
        order = np.argsort(-similarity, kind="stable")
        near = order[: (n + 1) // 2]
        # The vocabulary is in random order already.
        far = np.setdiff1d(np.arange(len(order)), near)[: n // 2]
        places = np.concatenate([near, far])
        ids = self.vocabulary[places]
        values = self._last([(self.word, int(token)) for token in ids])
        return pd.DataFrame(
            {
                "token": word_names(self.adapter, ids.tolist()),
                "id": ids,
                "kind": ["similar"] * len(near) + ["random"] * len(far),
                "similarity": similarity[places],
                "value": values,
                "share": values / self.onset.value,
            }
        )

    def _similarity(self) -> np.ndarray:
        """Cosine between what attention adds to the word alone and to each token alone."""
        rows = [Encoded((self.word,)), *(Encoded((int(t),)) for t in self.vocabulary)]
        written = self.reader.whole(torch.stack([z[0] for z in self.reader.each(rows)]))
        cosine = torch.nn.functional.cosine_similarity(written[1:], written[:1], dim=-1)
        return cosine.double().cpu().numpy()

    def _last(self, bodies: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Largest magnitude of each sequence's last token after the sink layer; no block above runs."""
        rows = [Encoded((*self.front, *body)) for body in bodies]
        layer, found, seen = self.onset.layer, np.zeros(len(rows)), []

        def read(residual: Tensor) -> None:
            seen.append(residual[:, -1].float().abs().amax(-1).double().cpu().numpy())

        stop = None if self.adapter.user_hooks() else layer + 1
        with hooked(self.adapter, {self.adapter.hook_name("resid_post", layer): read}):
            for group in buckets(rows, self.reader.batch_tokens):
                batch = TokenBatch.pad(self.adapter, [rows[index] for index in group])
                self.adapter.run(batch.ids, stop=stop, logits=None)
                found[group] = seen.pop()
        return found

    def grown(self, candidates: pd.DataFrame, size: int, step: Any) -> pd.DataFrame:
        """Rows of `Clusters.members`."""
        best = candidates.sort_values("share", ascending=False, kind="stable")
        pool = [int(token) for token in best["id"].iloc[: max(POOL, size - 1)]]
        members = [self.word]
        values = [float(self._last([(self.word,)])[0])]
        while len(members) < size:
            tried = self._last([(*members, token) for token in pool])
            top = int(tried.argmax())
            members.append(pool.pop(top))
            values.append(float(tried[top]))
            step(1)
        return pd.DataFrame(
            {
                "rank": np.arange(1, size + 1),
                "token": word_names(self.adapter, members),
                "id": members,
                "value": values,
                "share": np.array(values) / self.onset.value,
            }
        )

    def trials(self, members: Sequence[int], repeats: int, epsilon: float) -> pd.DataFrame:
        """Rows of `Clusters.trials`."""
        bodies = [("cluster", self.draw.permutation(members)) for _ in range(repeats)]
        bodies += [
            ("random", self.draw.choice(self.vocabulary, len(members), replace=False))
            for _ in range(repeats)
        ]
        rows = [Encoded((*self.front, *(int(t) for t in body))) for _, body in bodies]
        read = head_statistics(self.adapter, rows, keys=len(rows[0]))
        lengths = [len(row) for row in rows]
        each = measured(read, lengths, self.onset, self.least, epsilon)
        # Behind the first token: that one is a first token, and no mistake.
        values = read.largest[:, self.onset.layer, 1:]
        success = (values >= self.least * self.onset.value).mean(1)
        return pd.DataFrame(
            [
                {
                    "kind": kind,
                    "draw": index % repeats,
                    "text": "".join(word_names(self.adapter, [int(t) for t in body])),
                    "success": float(success[index]),
                    **{name: one[name] for name in ("value", "sink_rate", "mass", "loss")},
                }
                for index, ((kind, body), one) in enumerate(zip(bodies, each, strict=True))
            ]
        )
