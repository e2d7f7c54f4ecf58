"""The logit lens over a text before and after the interpolation: what is each position about?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError
from ..models.adapter import Adapter, adapter_for
from ..running.batching import chunks
from ..running.measures import log_probs, ranks
from ..running.session import Session, prompt_step
from ..tokens import Bos, Encoded, TokenBatch, as_texts, encoded, token_strings
from .blend import Blend, Norm, Target, resolve_blend
from .content import Content
from .generate_result import INTERPOLATED, PLAIN
from .trace_result import KINDS, Trace

__all__ = ["trace"]

Residuals = dict[int, Tensor]
"""By layer, its output `[pos d_model]`."""

COLUMNS = ["condition", "layer", "position", "kind", "token", "id", "probability", "rank"]
SEEN = "hooks of your own are attached: they saw each layer's reading by the final norm, too"


@torch.no_grad()
def trace(
    model: Any,
    text: Any,
    *,
    layer: Any = None,
    weight: Any = None,
    target: Target = "embedding",
    norm: Norm = "match",
    keep_first: bool = True,
    below: float | None = None,
    extrapolate: bool = False,
    bos: Bos = "auto",
) -> Trace:
    """Read every layer of one text through the final norm and unembedding, with and without.

    At each position the lens is asked for the position's own token, for the token that really came
    next, and for the one that the plain model guessed. Late layers are about the guess; blended ones
    are about what came. The newest position is never blended.

    The residuals are the model's own, raw coordinates, and go through the model's own final norm,
    unembedding and whatever it does to logits, so the last layer's plain reading is the model's
    prediction.

    Args:
        model: a decoder-only TransformerLens model.
        text: one text; a string, chat messages or token ids.
        layer, weight, target, norm, keep_first, below, extrapolate: as in
            `lp.interpolation.generate`.

    Raises:
        ArgumentError: an option out of range, several texts, one token, or more than the context.
        ModelError: an encoder-decoder, or weights that cannot be read.

    Examples:
        >>> found = lp.interpolation.trace(model, "The cat sat.", layer=2, weight=0.5)
        >>> found.share("guess", "plain", 5)  # the last layer reads the model's own guess
        1.0
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.interpolation.trace")
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
    batch = TokenBatch.pad(adapter, [_one(adapter, text, bos)])
    plain, logits = _residuals(adapter, batch, None)
    guess = logits.argmax(-1)
    likely = log_probs(logits[:-1]).gather(-1, batch.ids[0, 1:, None])[:, 0].exp()
    content = None if blend.plain else Content(blend)
    places = _announced(content, blend, batch, likely)
    edited = plain if content is None else _residuals(adapter, batch, content)[0]
    lens = _lens(adapter, plain, edited, _wanted(batch.ids[0], guess), blend.layers[0])
    tokenizer = getattr(adapter.model, "tokenizer", None)
    lens["token"] = token_strings(tokenizer, lens["id"])
    return Trace(
        provenance={
            **adapter.provenance(),
            "bos": adapter.bos(bos),
            "blend": blend.provenance(),
            "complete": True,
            "notes": [SEEN] if adapter.user_hooks() else [],
        },
        lens=lens.reindex(columns=COLUMNS),
        tokens=_tokens(batch, guess, logits, likely, places),
    )


def _one(adapter: Adapter, text: Any, bos: Bos) -> Encoded:
    texts = as_texts(text)
    if len(texts) != 1:
        raise ArgumentError(f"text: {len(texts)} texts; a trace is of one.")
    row = encoded(adapter, texts[0], bos)
    if len(row) < 2:
        raise ArgumentError("text: one token has no next one; give at least two.")
    return row


def _announced(
    content: Content | None, blend: Blend, batch: TokenBatch, likely: Tensor
) -> np.ndarray:
    """Bool `[pos]`, the blended positions; the hooks are told of the one pass they will see."""
    if content is None:
        return np.zeros(batch.ids.shape[1], dtype=bool)
    probability = torch.nn.functional.pad(likely, (0, 1))[None]
    content.announce(prompt_step(batch), batch.ids, probability)
    known = torch.ones_like(batch.mask)
    known[:, -1] = False
    return blend.places(batch.positions, known, probability)[0].cpu().numpy()


def _residuals(
    adapter: Adapter, batch: TokenBatch, content: Content | None
) -> tuple[Residuals, Tensor]:
    """Every layer's output, and the logits `[pos d_vocab]`, of one pass."""
    found: Residuals = {}
    names = {layer: adapter.hook_name("resid_post", layer) for layer in range(adapter.n_layers)}
    writes = {} if content is None else content.hooks()

    def probe(layer: int) -> Callable[[Tensor], Tensor | None]:
        write = writes.get(names[layer])

        def read(stream: Tensor) -> Tensor | None:
            written = None if write is None else write(stream)
            found[layer] = (stream if written is None else written)[0]
            return written

        return read

    with Session(adapter, (), {name: probe(layer) for layer, name in names.items()}) as session:
        logits = session.read(prompt_step(batch), batch.ids)
    assert logits is not None
    return found, logits[0].float()


def _wanted(ids: Int[Tensor, " pos"], guess: Int[Tensor, " pos"]) -> Int[Tensor, "pos kinds"]:
    """The token of each kind but "top" at each position; -1 where there is none."""
    following = torch.nn.functional.pad(ids[1:], (0, 1), value=-1)
    return torch.stack([ids, following, guess], dim=1)


def _lens(
    adapter: Adapter, plain: Residuals, edited: Residuals, ids: Tensor, first: int
) -> pd.DataFrame:
    """Both conditions' readings; below the first blended layer they are the same."""
    before = _read(adapter, plain, ids)
    after = _read(adapter, {at: stream for at, stream in edited.items() if at >= first}, ids)
    same = before[before["layer"] < first]
    frames = (
        before.assign(condition=PLAIN),
        pd.concat([same, after]).assign(condition=INTERPOLATED),
    )
    return pd.concat(frames, ignore_index=True)


def _read(adapter: Adapter, residuals: Residuals, ids: Int[Tensor, "pos kinds"]) -> pd.DataFrame:
    """What the lens gives each wanted token, and its own first one, at every layer."""
    frames = []
    for layer, stream in residuals.items():
        for begin, end in chunks(adapter, 1, len(ids), None, True):
            # Past the last block nothing looks at other positions, so any part can be read alone.
            logits = adapter.run(stream[None, begin:end], start=adapter.n_layers)
            assert logits is not None
            frames.append(_measured(logits[0].float(), ids[begin:end], layer, begin))
    return pd.concat(frames, ignore_index=True)


def _measured(
    logits: Float[Tensor, "pos d_vocab"], ids: Int[Tensor, "pos kinds"], layer: int, begin: int
) -> pd.DataFrame:
    wanted = torch.cat([ids, logits.argmax(-1)[:, None]], dim=1)
    there = wanted >= 0
    safe = wanted.clamp(min=0)
    probability = log_probs(logits).gather(-1, safe).exp()
    rank = torch.stack([ranks(logits, column) for column in safe.T], dim=1)
    position, kind = np.nonzero(there.cpu().numpy())
    return pd.DataFrame(
        {
            "layer": layer,
            "position": begin + position,
            "kind": np.array(KINDS)[kind],
            "id": wanted[there].cpu().numpy(),
            "probability": probability[there].cpu().numpy(),
            "rank": rank[there].cpu().numpy(),
        }
    )


def _tokens(
    batch: TokenBatch, guess: Tensor, logits: Tensor, likely: Tensor, places: np.ndarray
) -> pd.DataFrame:
    ids = batch.ids[0]
    names = batch.strings(0)
    return pd.DataFrame(
        {
            "position": np.arange(len(names)),
            "token": names,
            "id": ids.cpu().numpy(),
            "next": [*names[1:], None],
            "guess": token_strings(batch.tokenizer, guess.tolist()),
            "probability": [*likely.tolist(), np.nan],
            "rank": [*ranks(logits[:-1], ids[1:]).tolist(), np.nan],
            "blended": places,
        }
    )
