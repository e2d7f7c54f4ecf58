"""What a steering vector does to one prompt, at one layer, scale and position rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import positions as where
from ..edits import Add
from ..positions import Positions
from ..results import Result
from ..running.fanning import WHOLE, Fan
from ..running.forward import describe
from ..running.measures import kl
from ..steering.citations import ACTADD, CAA
from ..steering.forced import Reading, check, walk
from ..steering.opening import opened_prompts
from ..steering.study import Sampling
from ..steering.vector import SteeringVector
from ..tokens import Bos, Encoded, TokenBatch, token_strings
from .explored import Control, Explored

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["PLAIN", "STEERED", "Steered", "Steering"]

PLAIN, STEERED = "plain", "steered"
LIKELIEST = 6
"""Next tokens that are looked at in each of the two distributions."""
SHOWN = 9
"""Next tokens that are kept of both together."""


@dataclass(frozen=True, repr=False, eq=False)
class Steered(Result):
    """One prompt with and without a steering vector.

    Attributes:
        texts: the plain and the steered completion: condition, scale, prompt, completion, count
            (tokens) and kl (mean over the plain completion's tokens, nats).
        tokens: one row a token of the plain completion: position (absolute), token, id, kl (steered
            ‖ plain, of the distributions that chose it).
        next: the likeliest tokens after the prompt under either: token, id, probability (steered),
            plain_probability.
    """

    kind: ClassVar[str] = "explore.steering"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)

    texts: pd.DataFrame
    tokens: pd.DataFrame
    next: pd.DataFrame

    @property
    def kl(self) -> float:
        """Mean KL(steered ‖ plain) over the plain completion's tokens, in nats."""
        return float(self.tokens["kl"].mean())

    def summary(self) -> dict[str, Any]:
        """Layer, scale, where, the mean KL, and how the steered completion begins."""
        text = str(self.texts.loc[self.texts["condition"] == STEERED, "completion"].iloc[0])
        names = ("layer", "scale", "positions")
        return {
            **super().summary(),
            **{name: self.provenance[name] for name in names},
            "kl": self.kl,
            "steered": repr(text if len(text) < 60 else text[:57] + "..."),
        }


class _Plain(NamedTuple):
    """A prompt and what the plain model writes after it."""

    row: Encoded
    ids: tuple[int, ...]
    text: str


class Steering(Explored):
    """Prompt, layer, scale and position rule → `Steered`.

    The plain completion is written once a prompt. A pass over it is made once a prompt and rule, and
    each layer and scale branches off there; only the steered completion is written anew.

    Args:
        model: a TransformerLens model.
        vectors: layer → what is added there.
        rules: name → selector.
        sampling: how completions are chosen, its seed drawn.
        bos: as everywhere.
        controls: what can be set.
    """

    def __init__(
        self,
        model: Any,
        vectors: Mapping[int, SteeringVector],
        rules: Mapping[str, Positions],
        sampling: Sampling,
        bos: Bos,
        controls: tuple[Control, ...],
    ) -> None:
        super().__init__(model, "lp.explore.steering")
        self.vectors, self.rules = dict(vectors), dict(rules)
        self.sampling, self.controls = sampling, controls
        self.bos: Bos = bos

    @torch.no_grad()
    def answer(self, settings: Mapping[str, Any]) -> Steered:
        """Compute what is not known yet.

        Raises:
            ArgumentError: an empty prompt or one that leaves no room, a selector that it cannot
                satisfy, a vector of another width.
        """
        prompt, edit = settings["prompt"], self.edit(settings)
        row = self._row(prompt)
        check(self.adapter, [row], [edit])
        plain = self.parts.of(("plain", prompt), lambda: self._write_plain(row))
        if settings["scale"]:
            ids, text = self.sampling.complete(self.adapter, [row], [edit])
            steered = _Plain(row, ids[0], text[0])
        else:
            steered = plain
        before, after = self._logits(settings, plain, edit)
        return self._answer(settings, plain, steered, before, after)

    def figure(self, answer: Steered, theme: str) -> go.Figure:
        """The next token with and without, and the divergence along the plain completion."""
        return answer.plot(theme=theme)

    def texts(self, answer: Steered) -> list[tuple[str, str, str]]:
        """Both completions."""
        rows = zip(
            *(answer.texts[name] for name in ("condition", "prompt", "completion")), strict=True
        )
        return [(str(which), str(prompt), str(text)) for which, prompt, text in rows]

    def edit(self, settings: Mapping[str, Any], *, layer: int | None = None) -> Add:
        """The addition under some settings, or at another layer."""
        place = settings["layer"] if layer is None else layer
        rule = self.rules[settings["positions"]]
        return self.vectors[place].add(settings["scale"], rule, layers=place)

    def _row(self, prompt: str) -> Encoded:
        what = "lp.explore.steering"
        _, rows = opened_prompts(
            self.model, prompt, what=what, bos=self.bos, sampling=self.sampling
        )
        return rows[0]

    def _write_plain(self, row: Encoded) -> _Plain:
        ids, text = self.sampling.complete(self.adapter, [row], [])
        return _Plain(row, ids[0], text[0])

    def _logits(
        self, settings: Mapping[str, Any], plain: _Plain, edit: Add
    ) -> tuple[Tensor, Tensor]:
        """What chose each token of the plain completion, plain and steered: `[tokens d_vocab]`."""
        key = "pass", settings["prompt"], settings["positions"]
        fan = self.parts.of(key, lambda: self._read_plain(settings, plain))
        reading = Reading(plain.row, plain.ids, 0)
        ends = slice(-len(plain.ids) - 1, -1)
        before = fan.logits[0, ends]
        if not settings["scale"]:
            return before, before
        if edit.positions.moves:
            return before, walk(self.adapter, [reading], [edit])[0]
        logits = fan.run([edit])
        assert logits is not None
        return before, logits[0, ends]

    def _read_plain(self, settings: Mapping[str, Any], plain: _Plain) -> Fan:
        """A pass over prompt and plain completion from which every layer of the slider branches."""
        tokens = Reading(plain.row, plain.ids, 0).tokens
        batch = TokenBatch.pad(self.adapter, [tokens], side="left")
        # The anchor writes nothing; it makes the prompt's last token the latest column computed.
        zeros = torch.zeros(self.adapter.d_model)
        anchor = Add(zeros, layers=-1, scale=0.0, positions=where.after_prompt())
        edits = [self.edit(settings, layer=layer) for layer in self.vectors]
        still = [edit for edit in edits if not edit.positions.moves]
        prompts = np.asarray([len(plain.row)])
        return Fan(self.adapter, batch, [anchor, *still], prompts=prompts)

    def _answer(
        self,
        settings: Mapping[str, Any],
        plain: _Plain,
        steered: _Plain,
        before: Tensor,
        after: Tensor,
    ) -> Steered:
        tokenizer = getattr(self.model, "tokenizer", None)
        gaps = kl(after, before).cpu().double().numpy()
        tokens = pd.DataFrame(
            {
                "position": len(plain.row) + np.arange(len(plain.ids)),
                "token": token_strings(tokenizer, plain.ids),
                "id": plain.ids,
                "kl": gaps,
            }
        )
        texts = pd.DataFrame(
            {
                "condition": [PLAIN, STEERED],
                "scale": [0.0, float(settings["scale"])],
                "prompt": settings["prompt"],
                "completion": [plain.text, steered.text],
                "count": [len(plain.ids), len(steered.ids)],
                "kl": [0.0, float(gaps.mean())],
            }
        )
        return Steered(
            provenance=self._provenance(settings),
            texts=texts,
            tokens=tokens,
            next=_next_tokens(tokenizer, before[0], after[0]),
        )

    def _provenance(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        vector, edit = self.vectors[settings["layer"]], self.edit(settings)
        return {
            **self.adapter.provenance(),
            "bos": self.adapter.bos(self.bos),
            **settings,
            "site": vector.site,
            "vector": dict(vector.provenance),
            "edits": [describe(edit)],
            **self.sampling.facts(),
            "complete": True,
            "notes": [WHOLE] if self.adapter.user_hooks() else [],
        }


def _next_tokens(tokenizer: Any, before: Tensor, after: Tensor) -> pd.DataFrame:
    """The likeliest tokens of two distributions, from the likeliest of all on."""
    plain, steered = (one.float().softmax(-1).cpu().double() for one in (before, after))
    count = min(LIKELIEST, len(plain))
    ids = sorted({int(i) for one in (plain, steered) for i in one.topk(count).indices})
    found = pd.DataFrame(
        {
            "token": token_strings(tokenizer, ids),
            "id": ids,
            "probability": steered[ids].numpy(),
            "plain_probability": plain[ids].numpy(),
        }
    )
    order = -np.maximum(found["probability"], found["plain_probability"])
    return found.iloc[np.argsort(order, kind="stable")[:SHOWN]].reset_index(drop=True)
