"""What one coordinate, multiplied, does to one text: loss, and attention to its position by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..citations import GU, GUO
from ..edits import Scale
from ..massive.effects import Comparison, Measured, Meter
from ..massive.place import scored_rows
from ..massive.result import SUN
from ..massive.subject import Subject, subject
from ..massive.target import Group, Targets
from ..positions import at as at_position
from ..results import Result
from ..running.fanning import WHOLE
from ..running.measures import perplexity
from ..tokens import Bos, token_strings
from .explored import Control, Explored

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["PLAIN", "RESCALED", "Rescaled", "Rescaling"]

PLAIN, RESCALED = "plain", "rescaled"


@dataclass(frozen=True, repr=False, eq=False)
class Rescaled(Result):
    """One text with one coordinate as it is, and multiplied; definitions as in `lp.massive.rescale`.

    Attributes:
        runs: the plain and the rescaled run: condition, factor, loss (nats a token predicted from the
            position on), perplexity, kl (from plain, nats a token), value (mean attention to the
            position), sink_rate, count (tokens predicted).
        layers: one row a run and layer: condition, factor, layer, value (attention to the position,
            mean over heads), sink_rate (share of heads above epsilon).
    """

    kind: ClassVar[str] = "explore.rescale"
    citations: ClassVar[tuple[str, ...]] = (SUN, GU, GUO)

    runs: pd.DataFrame
    layers: pd.DataFrame

    def run(self, condition: str) -> dict[str, Any]:
        """What `runs` says of "plain" or "rescaled", by column."""
        rows: list[dict[str, Any]] = self.runs.to_dict("records")
        return next(row for row in rows if row["condition"] == condition)

    def summary(self) -> dict[str, Any]:
        """Coordinate, layer, factor, and loss and sink rate with and without."""
        plain, mine = self.run(PLAIN), self.run(RESCALED)
        dims = self.provenance["dims"]
        return {
            **super().summary(),
            "dim": ", ".join(map(str, dims)),
            "position": self.provenance["position"],
            "layer": self.provenance["layer"],
            "factor": float(mine["factor"]),
            "loss": float(mine["loss"]),
            "plain_loss": float(plain["loss"]),
            "sink_rate": float(mine["sink_rate"]),
            "plain_sink_rate": float(plain["sink_rate"]),
        }


class _Read(NamedTuple):
    """A text read plain, from which rescaled runs branch off."""

    about: Subject
    comparison: Comparison


class Rescaling(Explored):
    """Prompt, layer and factor → `Rescaled`.

    A pass over the text is made once; each layer and factor branches off there.

    Args:
        model: a TransformerLens model.
        targets: the coordinates, which are multiplied together.
        epsilon: least attention of a sink, exclusive.
        bos: as everywhere.
        controls: what can be set.
    """

    def __init__(
        self,
        model: Any,
        targets: Targets,
        epsilon: float,
        bos: Bos,
        controls: tuple[Control, ...],
    ) -> None:
        super().__init__(model, "lp.explore.rescale")
        self.targets, self.epsilon, self.controls = targets, epsilon, controls
        self.bos: Bos = bos
        self.group: Group = targets.group
        self.meter = Meter(self.adapter, self.group.position)

    @torch.no_grad()
    def answer(self, settings: Mapping[str, Any]) -> Rescaled:
        """Compute what is not known yet.

        Raises:
            ArgumentError: a text that ends at the position or before it.
        """
        prompt, factor = settings["prompt"], settings["factor"]
        read = self.parts.of(prompt, lambda: self._read(prompt))
        plain = read.comparison.plain
        mine = plain if factor == 1 else read.comparison.run([self.edit(settings["layer"], factor)])
        pairs = ((PLAIN, 1.0, plain), (RESCALED, float(factor), mine))
        runs = [self._run(*pair) for pair in pairs]
        layers = [self._layers(*pair) for pair in pairs]
        return Rescaled(
            provenance=self._provenance(settings, read),
            runs=pd.DataFrame(runs),
            layers=pd.concat(layers, ignore_index=True),
        )

    def figure(self, answer: Rescaled, theme: str) -> go.Figure:
        """Attention to the position by layer, and the loss."""
        return answer.plot(theme=theme)

    def texts(self, answer: Rescaled) -> list[tuple[str, str, str]]:
        """The same numbers in words."""
        found = []
        for row in answer.runs.to_dict("records"):
            words = (
                f"loss {row['loss']:.3f} nats, perplexity {row['perplexity']:.4g}, KL from plain "
                f"{row['kl']:.3f} nats, sink rate {row['sink_rate']:.0%}"
            )
            found.append((f"{row['condition']} (factor {row['factor']:g})", "", words))
        return found

    def edit(self, layer: int, factor: float) -> Scale:
        """The coordinates multiplied after a layer."""
        place = at_position(self.group.position)
        return Scale(factor=factor, dim=self.group.dims, layers=layer, positions=place)

    def _read(self, prompt: str) -> _Read:
        at = list(self.targets.each)
        about = subject(self.adapter, [prompt], at=at, bos=self.bos)
        rows = [about.rows[i] for i in scored_rows(about, self.group.position)]
        edits = [self.edit(layer, 1.0) for layer in range(self.adapter.n_layers)]
        return _Read(about, Comparison(self.meter, rows, edits))

    def _run(self, condition: str, factor: float, found: Measured) -> dict[str, Any]:
        count = found.count.sum()
        loss = float(found.loss.sum() / count)
        return {
            "condition": condition,
            "factor": factor,
            "loss": loss,
            "perplexity": float(perplexity(loss)),
            "kl": float(found.kl.sum() / count),
            "value": float(found.attention.mean()),
            "sink_rate": float((found.attention > self.epsilon).mean()),
            "count": int(count),
        }

    def _layers(self, condition: str, factor: float, found: Measured) -> pd.DataFrame:
        paid = found.attention
        return pd.DataFrame(
            {
                "condition": condition,
                "factor": factor,
                "layer": np.arange(paid.shape[2]),
                "value": paid.mean((0, 1, 3)),
                "sink_rate": (paid > self.epsilon).mean((0, 1, 3)),
            }
        )

    def _provenance(self, settings: Mapping[str, Any], read: _Read) -> dict[str, Any]:
        tokenizer = getattr(self.model, "tokenizer", None)
        first = read.about.rows[0].ids[self.group.position]
        whole = [] if read.comparison.fan.shared else [WHOLE]
        return {
            **self.adapter.provenance(),
            **read.about.facts,
            **self.group.provenance(),
            **settings,
            "token": token_strings(tokenizer, [first])[0],
            "site": "resid_post",
            "epsilon": self.epsilon,
            "complete": True,
            "notes": [*self.targets.notes, *read.about.facts["notes"], *self.meter.notes, *whole],
        }
