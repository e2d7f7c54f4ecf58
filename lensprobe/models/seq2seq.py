"""Encoder-decoders of the T5 family behind `TransformerBridge`: encode once, then decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from ..errors import ArgumentError, ModelError
from ._legacy_t5 import mended
from .adapter import Report
from .bridge import BridgeAdapter, BridgeCache, announcing
from .building import T5_FAMILY, legacy
from .cache import Cache
from .growing import growing_cache
from .reader import Reader
from .stacks import Stack

__all__ = ["Encoding", "Seq2SeqAdapter", "runs"]


def runs(model: Any) -> bool:
    """Whether a bridge wraps an encoder-decoder that can be run.

    TransformerLens 3.9's own cannot, unless `lp.load` made it; see `_legacy_t5`.
    """
    kind = getattr(model.original_model.config, "model_type", None)
    if kind not in T5_FAMILY or not hasattr(model, "decoder_blocks"):
        return False
    return not legacy() or mended(model)


class Seq2SeqCache(BridgeCache):
    """Keys and values of the decoder's tokens, and those of the encoder's, computed once.

    Dropping tokens drops the decoder's own; what the encoder read stays.
    """

    def __init__(self) -> None:
        # transformers would itself choose sliding layers that cannot be cropped; see `BridgeCache`.
        self.expect(0)

    @override
    def expect(self, tokens: int) -> None:
        self.inner: Any = EncoderDecoderCache(growing_cache(tokens), DynamicCache())

    @override
    def repeated(self, times: int, start: int = 0) -> BridgeCache:
        raise ModelError("a decoder's cache belongs to one encoding; repeat the prompts instead.")


@dataclass(frozen=True)
class Encoding(Reader):
    """What the encoder made of a batch of texts. The decoder's passes go through it.

    Attributes:
        adapter: the model.
        ids: Long `[batch pos]`, the encoder's tokens.
        mask: Bool `[batch pos]`, which of them are real; None means all.
        hidden: float `[batch pos d_model]`, after the encoder's final norm.
    """

    adapter: Seq2SeqAdapter
    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"] | None
    hidden: Float[Tensor, "batch pos d_model"]

    @override
    def new_cache(self, batch: int) -> Cache:
        return self.adapter.new_cache(batch)

    @override
    def exit_point(self, stop: int | None) -> Any:
        return self.adapter.exit_point(stop)

    @override
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor:
        if start or positions is not None:
            raise ArgumentError(
                "start, positions: a T5 decoder counts its own tokens from block 0."
            )
        batch, new = inputs.shape
        keywords: dict[str, Any] = {"decoder_input_ids": inputs}
        keywords["encoder_outputs"] = BaseModelOutput(last_hidden_state=self.hidden)
        if self.mask is not None:
            keywords["attention_mask"] = self.mask.long()
        whole = mask if cache is None else cache.extend_mask(mask, batch, new, inputs.device)
        if whole is not None:
            keywords["decoder_attention_mask"] = whole.long()
        if cache is not None:
            assert isinstance(cache, Seq2SeqCache)
            keywords["past_key_values"] = cache.inner
        else:
            keywords["use_cache"] = False
        try:
            # The bridge wants the encoder's ids too; with the encoder's outputs at hand, transformers
            # does not read them again.
            output = self.adapter.model(self.ids, **keywords)
        finally:
            if cache is not None:
                cache.mask, cache.length = whole, cache.length + new
        return output[:, -1:] if logits == "last" else output


class Seq2SeqAdapter(BridgeAdapter):
    """See `Adapter`. Tokens are read by what `encode` returns, so that the encoder runs once a text.

    `n_layers` counts the decoder's blocks; `stacks` has both. The encoder sees the whole text it is
    given, both ways; the decoder begins with its start token.
    """

    mid_is_a_branch = False

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.original_model.config
        self.stacks = (
            Stack("encoder", len(model.encoder_blocks), "encoder_blocks"),
            Stack("decoder", len(model.decoder_blocks), "decoder_blocks", "self_attn"),
        )
        self.n_layers = self.writer.n_layers
        # The bridge's own config guesses four times the width.
        self.d_mlp = int(config.d_ff)
        # Said here and not left to the tokenizer, whose own rule TransformerLens rewrites.
        self.closes_texts = True
        self.start = (int(config.decoder_start_token_id),)

    @override
    def bos(self, bos: Literal["auto"] | bool) -> bool:
        # T5 was trained without one; a tokenizer that has one all the same must be asked.
        return False if bos == "auto" else super().bos(bos)

    @override
    def require_runnable(self, what: str) -> None:
        """Both stacks of this model run."""

    @override
    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Encoding:
        """Run the encoder, once.

        Args:
            ids: Long `[batch pos]`, padded on the right.
            mask: which of them are real; None means all.
        """
        keywords = {} if mask is None else {"attention_mask": mask.long()}
        encoder = self.model.original_model.get_encoder()
        return Encoding(self, ids, mask, encoder(input_ids=ids, **keywords)[0])

    @override
    def new_cache(self, batch: int) -> BridgeCache:
        return Seq2SeqCache()

    @override
    def _forward(
        self,
        inputs: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        start: int,
        cache: Cache | None,
        logits: Literal["all", "last"],
    ) -> Tensor:
        raise ModelError("the decoder of an encoder-decoder reads behind `encode`, not alone.")

    @override
    def watch(self, report: Report) -> Callable[[], None]:
        raw = self.model.original_model
        removers = [
            announcing(raw.get_encoder(), report, "encoder"),
            announcing(raw.get_decoder(), report, "decoder"),
        ]

        def remove() -> None:
            for each in removers:
                each()

        return remove
