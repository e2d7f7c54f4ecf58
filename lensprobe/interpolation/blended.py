"""A batch of texts under blends: every token's prediction, in one pass or by definition.

By definition the prediction of token j + 1 is that of a whole pass over tokens 0 to j in which every
position t < j is blended with token t + 1, and j is not. `running.streams` computes the same for all j
at once; where a model, or hooks of the user's, do not allow that, the passes of the definition are run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.adapter import Adapter
from ..models.streams import unfit
from ..running.measures import PIECE, log_probs, losses, ranks
from ..running.session import Session, part, prompt_step
from ..running.streams import Streams
from ..tokens import TokenBatch
from .blend import Blend
from .content import Content

__all__ = ["Blended", "Predicted", "plain_path"]


def plain_path(adapter: Adapter, length: int) -> str:
    """Why texts of this length are read by definition, a pass a token; empty where one pass does."""
    if adapter.user_hooks():
        return (
            "hooks of your own are attached: every token was predicted by a whole pass of its own, "
            "and nothing was shared"
        )
    why = unfit(adapter, length)
    return f"{why}: every token was predicted by a whole pass of its own" if why else ""


@dataclass(frozen=True)
class Predicted:
    """What a model made of each token but a text's first; `[batch pos - 1]`, pads included.

    Attributes:
        loss: float32, `-log p(token)` in nats.
        rank: 1 for the likeliest token.
    """

    loss: Float[Tensor, "batch pos"]
    rank: Int[Tensor, "batch pos"]


class Blended:
    """A batch read once, plain, up to the last layer that is blended; then under any blends of them.

    Differentiable in the blends' weights and the model's, unless the caller switches gradients off.

    Args:
        adapter: the model's.
        batch: padded on the right, two tokens a text at least.
        layers: after which blocks blends will write.
        early: the layer whose residuals are targets, or None.
        logits: whether the plain model's predictions are wanted too.
    """

    def __init__(
        self,
        adapter: Adapter,
        batch: TokenBatch,
        layers: Collection[int],
        *,
        early: int | None = None,
        logits: bool = True,
    ) -> None:
        self.adapter = adapter
        self.batch = batch
        self.streams: Streams | None = None
        if plain_path(adapter, batch.ids.shape[1]):
            self._plain = self._run_plain() if logits else None
        else:
            read = {*layers, *([] if early is None else [early])}
            self.streams = Streams(adapter, batch, read, logits=logits)
            self._plain = self.streams.logits
        self.following = torch.cat([batch.ids[:, 1:], batch.ids[:, -1:]], dim=1)
        self.known: Bool[Tensor, "batch pos"] = torch.nn.functional.pad(batch.mask[:, 1:], (0, 1))

    @property
    def plain(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the plain model."""
        if self._plain is None:
            self._plain = self._run_plain()
        return self._plain

    def logits(self, blend: Blend) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits under a blend of the layers that were named; nothing to blend is the plain model."""
        seen = [layer for layer in blend.layers if layer < self.adapter.n_layers - 1]
        if blend.plain or not seen:
            # After the last block nobody looks back.
            return self.plain
        probability = None if blend.below is None else self._probability()
        if self.streams is None:
            return self._by_definition(blend, probability)
        places = blend.places(self.batch.positions, self.known, probability)
        if blend.early is None:
            target = blend.rows(self.following)
        else:
            early = self.streams.residuals[blend.early]
            target = torch.cat([early[:, 1:], early[:, -1:]], dim=1)

        def write(layer: int):
            return lambda stream: blend.apply(stream, target, layer, places)

        return self.streams.edited({layer: write(layer) for layer in seen})

    def predicted(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Predicted:
        """Loss and rank of each token but the first."""
        # Some tokens at a time, which stay in the processor's cache; a gradient wants few steps.
        size = logits.shape[1] if logits.requires_grad or logits.device.type != "cpu" else PIECE
        rows, places = [], []
        for scores, ids in zip(logits[:, :-1], self.batch.ids[:, 1:], strict=True):
            parts = list(zip(scores.split(size), ids.split(size), strict=True))
            rows.append(torch.cat([losses(part, own) for part, own in parts]))
            places.append(torch.cat([ranks(part.detach(), own) for part, own in parts]))
        return Predicted(torch.stack(rows), torch.stack(places))

    def _run_plain(self) -> Tensor:
        mask = self.batch.mask if self.batch.ragged else None
        out = self.adapter.run(self.batch.ids, mask=mask)
        assert out is not None
        return out

    @torch.no_grad()
    def _probability(self) -> Tensor:
        """Of each next token under the plain model, float32 `[batch pos]`; 0 at the last column."""
        found = torch.zeros(self.batch.ids.shape, device=self.plain.device)
        for row, scores in enumerate(self.plain[:, :-1]):
            logs = log_probs(scores)
            found[row, :-1] = logs.gather(-1, self.batch.ids[row, 1:, None])[:, 0].exp()
        return found

    def _by_definition(self, blend: Blend, probability: Tensor | None) -> Tensor:
        """A whole pass for every column."""
        content, step, found = Content(blend), prompt_step(self.batch), []
        whole = bool(self.adapter.user_hooks())
        with Session(self.adapter, (), content.hooks()) as session:
            for end in range(1, self.batch.ids.shape[1] + 1):
                ids, now = self.batch.ids[:, :end], part(step, 0, end)
                content.announce(now, ids, None if probability is None else probability[:, :end])
                out = session.read(now, ids, logits="all" if whole else "last")
                assert out is not None
                found.append(out[:, -1])
        return torch.stack(found, dim=1)
