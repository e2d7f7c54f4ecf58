"""One text under residuals that are edited behind its newest token, in one pass instead of a loop.

By definition each token is predicted from a pass of its own over the tokens before it, in which every
position but the last is edited. From the first edited block up that is two streams side by side: the
*content*, edited, which later tokens see, and the *query*, unedited, which predicts. Query j sees the
content before j, and itself. Below that block they are the same and are read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from jaxtyping import Float
from torch import Tensor

from ..models.adapter import Adapter
from ..models.streams import beside
from ..tokens import TokenBatch
from .session import Hook, hooked

__all__ = ["Streams"]

Write = Callable[[Tensor], Tensor]


class Streams:
    """A batch read once, plain, from which edited readings branch off.

    Differentiable in whatever the edits depend on, unless the caller switches gradients off.

    Args:
        adapter: of a model that is fit for it (`models.streams.unfit`).
        batch: padded on the right, two tokens a text at least.
        layers: after which blocks something is edited, or is read.
        logits: whether the plain model's logits are wanted too.

    Attributes:
        residuals: by layer, float `[batch pos d_model]`, the plain stream after each of `layers`.
        logits: float `[batch pos d_vocab]` of the plain model, or None.
    """

    def __init__(
        self, adapter: Adapter, batch: TokenBatch, layers: Collection[int], *, logits: bool
    ) -> None:
        self.adapter = adapter
        self.batch = batch
        self.residuals: dict[int, Tensor] = {}
        self._mask = batch.mask if batch.ragged else None
        keepers = {adapter.hook_name("resid_post", layer): self._keeper(layer) for layer in layers}
        with hooked(adapter, keepers):
            # Where the pass is left, the keepers have seen the residual already.
            stop = None if logits else max(layers) + 1
            out = adapter.run(batch.ids, mask=self._mask, stop=stop)
        self.logits = out if logits else None

    def edited(self, writes: Mapping[int, Write]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the query stream where the content is edited after each of some blocks.

        Args:
            writes: by layer, `f(residual) -> residual` over the whole batch. What is edited after
                the last block nobody sees, and is skipped.
        """
        adapter = self.adapter
        first, *later = sorted(layer for layer in writes if layer < adapter.n_layers - 1)
        plain, start = self.residuals[first], first + 1
        cache = adapter.new_cache(len(plain))
        hooks: dict[str, Hook] = {
            adapter.hook_name("resid_post", layer): writes[layer] for layer in later
        }
        with hooked(adapter, hooks):
            content = writes[first](plain)
            adapter.run(content, mask=self._mask, start=start, cache=cache, logits=None)
        return beside(adapter, plain, start=start, cache=cache, mask=self.batch.mask)

    def _keeper(self, layer: int) -> Hook:
        return lambda residual: self.residuals.__setitem__(layer, residual)
