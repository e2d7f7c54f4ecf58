"""Attention patterns: of every head on one text, and what is read off patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..costs import free_memory
from ..edits import Edit
from ..errors import ArgumentError, Interrupted, ModelError
from ..models.adapter import Adapter, adapter_for
from ..tokens import Bos, token_strings
from .attention_result import Attention
from .batching import chunks
from .forward import describe
from .inputs import Inputs
from .session import Session, part, prompt_step

__all__ = ["attention", "attention_to"]

SHARE = 0.8
"""Of the free memory, what the patterns may take."""


@torch.no_grad()
def attention(
    model: Any,
    prompt: Any,
    *,
    edits: Edit | Iterable[Edit] = (),
    layers: int | Sequence[int] | Literal["all"] = "all",
    bos: Bos = "auto",
    chunk: int | None = None,
) -> Attention:
    """Read one text and keep the pattern of every head, to be looked at.

    Patterns are kept in bytes, one for each layer, head, query and key, which is what a screen shows;
    the tables beside them are exact. For statistics over many texts see `lp.sinks.scan`.

    Args:
        model: a TransformerLens model that reads text from left to right.
        prompt: one text: a string, chat messages or token ids.
        edits: written while reading.
        layers: layers whose patterns are kept; nothing above the last of them runs.
        bos: whether the text begins with BOS; `"auto"` is what the model's own tokenizing does.
        chunk: most tokens in one pass over the cache; None is chosen from memory.

    Raises:
        ArgumentError: several texts, an empty one, one longer than the context; a layer out of range;
            patterns that would not fit in memory.
        ModelError: an encoder-decoder; attention that keeps no pattern.
        Interrupted: Ctrl-C; nothing is kept of half a text.

    Examples:
        >>> found = lp.attention(model, "the cat", layers=[0, 1])
        >>> found.patterns.shape, found.patterns.dtype.name
        ((2, 12, 8, 8), 'uint8')
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.attention")
    adapter.require_text("lp.attention")
    wanted = adapter.layers(layers)
    inputs = Inputs.read(adapter, prompt, None, bos)
    if len(inputs) != 1:
        raise ArgumentError(f"prompt: one text; got {len(inputs)}.")
    seen = _Seen(adapter, wanted, len(inputs.rows[0]))
    names = [adapter.hook_name("attn.pattern", layer) for layer in wanted]
    probes = {name: partial(seen.read, index) for index, name in enumerate(names)}
    session = Session(adapter, edits, probes, texts=1)
    inputs.check(session)
    try:
        with session:
            _pass(session, inputs, wanted[-1] + 1, chunk)
    except KeyboardInterrupt:
        raise Interrupted("interrupted before the text was read.") from None
    return seen.result(
        inputs.rows[0].ids,
        bos=adapter.bos(bos),
        edits=[describe(edit) for edit in session.edits],
    )


def _pass(session: Session, inputs: Inputs, stop: int, chunk: int | None) -> None:
    """Read the text, in one pass or in chunks over the cache, as far up as patterns are kept."""
    adapter, batch = session.adapter, inputs.batch([0], "right")
    step = prompt_step(batch)
    width = batch.ids.shape[1]
    ranges = chunks(adapter, 1, width, chunk, False)
    cache = session.new_cache(1) if len(ranges) > 1 else None
    if cache is not None:
        cache.expect(width)
    # Hooks of the user's own must see the whole pass.
    until, logits = (None, "all") if adapter.user_hooks() else (stop, None)
    for begin, end in ranges:
        session.read(
            part(step, begin, end), batch.ids[:, begin:end], cache=cache, stop=until, logits=logits
        )


class _Seen:
    """What the hooks have read so far: bytes, and sums over queries.

    Raises:
        ArgumentError: the patterns would not fit in memory.
    """

    def __init__(self, adapter: Adapter, layers: tuple[int, ...], length: int) -> None:
        self.adapter, self.layers, self.length = adapter, layers, length
        shape = (len(layers), adapter.n_heads)
        needed, free = shape[0] * shape[1] * length**2, free_memory(torch.device("cpu"))
        if free is not None and needed > SHARE * free:
            raise ArgumentError(
                f"prompt: the patterns of {length:,} tokens in {shape[0]} layers of {shape[1]} heads "
                f"take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; give fewer layers or a "
                "shorter text."
            )
        self.patterns = np.zeros((*shape, length, length), dtype=np.uint8)
        self.columns = [0] * len(layers)
        self.sums = {name: np.zeros(shape) for name in ("entropy", "value", "previous", "own")}
        self.given = np.zeros(length)
        self.broken = 0

    def read(self, index: int, pattern: Tensor) -> None:
        """The next queries of one layer, `[1 head query key]`."""
        weights = pattern.detach()[0].float()
        begin = self.columns[index]
        self.columns[index] = end = begin + weights.shape[1]
        keys = weights.shape[2]
        broken = int(weights.numel() - weights.isfinite().sum())
        self.broken += broken
        kept = weights.nan_to_num(0.0).clamp(0.0, 1.0) if broken else weights
        steps = (kept * Attention.steps).round_()
        self.patterns[index, :, begin:end, :keys] = steps.to(torch.uint8).cpu().numpy()
        parts = {
            "entropy": torch.special.entr(weights).sum(-1),
            "value": weights[..., 0],
            "previous": weights.diagonal(begin - 1, dim1=1, dim2=2),
            "own": weights.diagonal(begin, dim1=1, dim2=2),
        }
        for name, values in parts.items():
            self.sums[name][index] += values.sum(1, dtype=torch.float64).cpu().numpy()
        self.given[:keys] += weights.sum((0, 1), dtype=torch.float64).cpu().numpy()

    def result(self, ids: tuple[int, ...], **facts: Any) -> Attention:
        """The result, when the whole text was read.

        Raises:
            ModelError: a layer's pattern was never computed.
        """
        silent = [layer for layer, c in zip(self.layers, self.columns, strict=True) if not c]
        if silent:
            raise ModelError(
                f"layers {silent}: attention kept no pattern; load the model with "
                "attn_implementation='eager'."
            )
        length, hooks = self.length, self.adapter.user_hooks()
        notes = ["hooks of the user's own are attached: a whole forward pass was run"] * bool(hooks)
        notes += [f"{self.broken:,} weights are not finite; they are 0 here"] * bool(self.broken)
        return Attention(
            provenance={
                **self.adapter.provenance(),
                **facts,
                "site": "attn.pattern",
                "length": length,
                "step": 1 / Attention.steps,
                "nonfinite": self.broken,
                "complete": True,
                "notes": notes,
            },
            heads=self._heads(),
            tokens=self._tokens(ids),
            patterns=self.patterns,
            layers=list(self.layers),
        )

    def _heads(self) -> pd.DataFrame:
        heads = self.adapter.n_heads
        # The first token has none before it.
        queries = {name: self.length - (name == "previous") for name in self.sums}
        means = {
            name: (total / queries[name]).ravel() if queries[name] else np.nan
            for name, total in self.sums.items()
        }
        layer, head = np.repeat(self.layers, heads), np.tile(np.arange(heads), len(self.layers))
        return pd.DataFrame({"layer": layer, "head": head, **means})

    def _tokens(self, ids: tuple[int, ...]) -> pd.DataFrame:
        length = self.length
        queries = (length - np.arange(length)) * len(self.layers) * self.adapter.n_heads
        return pd.DataFrame(
            {
                "position": np.arange(length),
                "token": token_strings(getattr(self.adapter.model, "tokenizer", None), ids),
                "id": ids,
                "value": self.given / queries,
            }
        )


def attention_to(
    pattern: Float[Tensor, "batch head query key"],
    real: Bool[Tensor, "batch query"],
    keys: int,
) -> Float[Tensor, "batch head keys"]:
    """Mean over real queries t >= k of A[t, k], for each of the first `keys` keys.

    t = k is included (Gu et al. 2410.10781, eq. 2). NaN where a sequence has no token k.
    """
    width = min(keys, pattern.shape[-1])
    query = torch.arange(pattern.shape[2], device=pattern.device)
    counted = real[:, :, None] & (query[:, None] >= query[:width])
    # Rows of pads look like any other row; where, because a NaN among them times zero is NaN.
    first = pattern[..., :width].float()
    total = torch.where(counted[:, None], first, 0.0).sum(2)
    mean = total / counted.sum(1)[:, None]
    return torch.nn.functional.pad(mean, (0, keys - width), value=torch.nan)
