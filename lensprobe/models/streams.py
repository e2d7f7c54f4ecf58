"""Two streams of one text: what later tokens see of a token, and the token that predicts.

The second stream stands beside the first, column by column, and reads it through the first one's keys
and values. That needs masks and positions of one's own, which not every architecture takes.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .adapter import Adapter
from .bridge import BridgeAdapter, BridgeCache
from .cache import Cache
from .checking import sliding_layers, text_config
from .hooked import HookedCache
from .hooks import attached

__all__ = ["beside", "unfit"]

PROBE = 6
"""Tokens of the text on which a model is tried once."""

COLUMNS = 128
"""Columns of the second stream that are read at once."""

_TRIED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def beside(
    adapter: Adapter,
    residual: Float[Tensor, "batch pos d_model"],
    *,
    start: int,
    cache: Cache,
    mask: Bool[Tensor, "batch pos"],
    columns: int | None = None,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of columns that each stand beside a cached one, in the same position.

    Column j sees what is cached before j, and itself: a second stream that predicts from what the
    first one left, and that nothing ever sees. Ask `unfit` first whether a model has such a pass.

    Args:
        adapter: of a decoder-only model.
        residual: what enters block `start`, padded on the right, two real tokens a row at least.
        start: first block that runs, 1 or above.
        cache: as many columns as there are here, of blocks `start` and up. A class may add to it.
        mask: which columns are real, in both streams.
        columns: how many are read at once where the class allows it; None is `COLUMNS`.
    """
    seen = _seen(mask)[:, None]
    if isinstance(adapter, BridgeAdapter):
        return _on_bridge(adapter, residual, start, cache, mask, seen, columns or COLUMNS)
    return _on_hooked(adapter, residual, start, cache, mask, seen)


def _seen(mask: Tensor) -> Tensor:
    """Bool `[batch pos 2*pos]`: the first stream before each column, and the column itself."""
    width = mask.shape[1]
    before = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril(-1)
    itself = torch.eye(width, dtype=torch.bool, device=mask.device).expand(len(mask), -1, -1)
    return torch.cat([before & mask[:, None], itself], dim=2)


def _on_bridge(
    adapter: BridgeAdapter,
    residual: Tensor,
    start: int,
    cache: Any,
    mask: Tensor,
    seen: Tensor,
    columns: int,
) -> Tensor:
    assert isinstance(cache, BridgeCache)
    # Added to the scores: zero where a column may look.
    barred = (~seen).to(residual) * torch.finfo(residual.dtype).min
    content, itself = barred.chunk(2, dim=-1)
    places = (mask.long().cumsum(-1) - 1).clamp(min=0)
    ends = []
    # Some columns at a time: they see nothing of the content after them, and no other's second
    # stream, which of two streams side by side is most of the scores.
    for begin in range(0, residual.shape[1], columns):
        part = slice(begin, min(begin + columns, residual.shape[1]))
        bars = content[:, :, part, : part.stop], itself[:, :, part, part]
        keywords: dict[str, Any] = {
            "attention_mask": torch.cat(bars, dim=-1),
            "past_key_values": cache.first(part.stop),
        }
        if adapter._takes_positions:
            keywords["position_ids"] = places[:, part]
        ends.append(_upper(adapter, residual[:, part], start, keywords))
    return _unembedded(adapter, torch.cat(ends, dim=1))


def _upper(
    adapter: BridgeAdapter, residual: Tensor, start: int, keywords: dict[str, Any]
) -> Tensor:
    """Blocks from `start` on, under this class's own arguments."""
    with adapter._skipped(start, residual):
        return adapter.left_at(None, lambda: adapter.model(residual, **keywords))


def _unembedded(adapter: Adapter, residual: Tensor) -> Tensor:
    logits = adapter.run(residual, start=adapter.n_layers)
    assert logits is not None
    return logits


def _on_hooked(
    adapter: Adapter, residual: Tensor, start: int, cache: Any, mask: Tensor, seen: Tensor
) -> Tensor:
    assert isinstance(cache, HookedCache)
    # This class counts positions by a running sum over the mask. An entry that takes the first
    # stream's count back off lets the second begin at 0 again, so that each has its own rotary turn;
    # read as true or false it still says "real", since a text has two tokens or more.
    again = mask.long()
    again[:, 0] = 1 - again.sum(-1)
    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(start, adapter.n_layers)]

    def hide(scores: Tensor, hook: Any) -> Tensor:
        return scores.masked_fill(~seen, -torch.inf)

    with attached([(adapter.point(name), hide) for name in names]):
        return adapter.model(
            residual,
            return_type="logits",
            padding_side="right",
            start_at_layer=start,
            past_kv_cache=cache.inner,
            attention_mask=torch.cat([mask.long(), again], dim=1),
        )


def unfit(adapter: Adapter, length: int) -> str:
    """Why two streams of this many tokens cannot be read side by side; empty where they can."""
    if adapter.n_layers < 2:
        return "the model has one block"
    window = sliding_layers(adapter, text_config(adapter.model))[1]
    if window is not None and length > window:
        return f"attention slides over {window:,} tokens"
    if getattr(adapter.model.cfg, "use_dynamic_ntk_rope", False) or _rescales(adapter):
        return "rotary positions are rescaled with the length of what is read"
    if adapter.model not in _TRIED:
        _TRIED[adapter.model] = _tried(adapter)
    return _TRIED[adapter.model]


def _rescales(adapter: Adapter) -> bool:
    config = text_config(adapter.model)
    scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None)
    kind = scaling.get("rope_type", "") if isinstance(scaling, dict) else ""
    return kind in ("dynamic", "longrope")


@torch.no_grad()
def _tried(adapter: Adapter) -> str:
    """Read a few tokens, unedited, in both ways: where the answers differ, the model is unfit.

    Every architecture has ways of its own to make masks and positions (ALiBi, convolutions, memory
    between blocks); this asks for what is needed instead of knowing them all.
    """
    ids = torch.arange(PROBE, device=adapter.device)[None] % adapter.d_vocab
    mask = torch.ones_like(ids, dtype=torch.bool)
    try:
        plain = adapter.run(ids)
        residual = adapter.run(ids, stop=1)
        assert plain is not None and residual is not None
        cache = adapter.new_cache(1)
        adapter.run(residual, start=1, cache=cache, logits=None)
        # In two parts, as a longer text would be.
        half = PROBE // 2
        got = beside(adapter, residual, start=1, cache=cache, mask=mask, columns=half)
    except Exception as error:
        # Whatever an architecture does not take, in whatever words it says so.
        return f"this architecture takes no masks of one's own ({type(error).__name__})"
    size = 1e-3 if plain.dtype == torch.float32 else 0.05
    if not torch.allclose(got, plain, rtol=0, atol=size * float(plain.abs().max().clamp(min=1))):
        return "this architecture reads a second stream differently"
    return ""
