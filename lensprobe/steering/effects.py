"""The effects of many vectors at one block, measured at once on the same questions or texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import positions as where
from ..edits import Add
from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..positions import Positions
from ..running.batching import buckets
from ..running.fanning import Fan, times_that_fit
from ..running.session import all_prompts, prompt_step
from ..texts import TITLE
from ..tokens import Bos, TokenBatch
from .calibration import openings
from .measures import kl
from .subjects import Row, subjects

__all__ = ["Effects", "effects_on"]


@dataclass(frozen=True)
class Effects:
    """What vectors do to held-out questions or texts; call it with vectors.

    Attributes:
        measure: "log_odds" (change in log-odds of the matching answer) or "kl" (from plain, nats, of
            the token after a text).
        rows: what is read, the plain run of which all vectors share.
        source: what it is, for provenance.
    """

    adapter: Adapter
    rows: tuple[Row, ...]
    measure: str
    positions: Positions
    layer: int
    site: str
    source: str

    @torch.no_grad()
    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """The mean effect over rows of each vector `[vectors width]`, float64 `[vectors]`."""
        table = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
        total = np.zeros(len(table))
        for group in buckets([row.tokens for row in self.rows], None):
            total += self._summed(group, table)
        return total / len(self.rows)

    def facts(self) -> dict[str, Any]:
        """What was measured on what, for a result's provenance."""
        return {
            "measure": self.measure,
            "on": self.source,
            "texts": len(self.rows),
            "positions": self.positions.describe(),
        }

    def _summed(self, group: Sequence[int], table: Tensor) -> np.ndarray:
        """Effects summed over some rows, by their numbers, in one batch."""
        rows = [self.rows[index] for index in group]
        batch = TokenBatch.pad(self.adapter, [row.tokens for row in rows], side="left")
        prompts = np.array([row.prompt for row in rows])
        edit = Add(table[0], layers=self.layer, site=self.site, positions=self.positions)
        step = prompt_step(batch, prompts=prompts, rows=np.asarray(group))
        fan = Fan(self.adapter, batch, [edit], prompts=prompts, rows=step.rows, logits="last")
        most = max(1, int(self.positions.mask(step).sum(1).max()))
        assert fan.logits is not None
        plain = self._read(fan.logits[:, None, -1], fan.logits[:, None, -1], rows)
        size = times_that_fit(fan, len(table))
        found = []
        for part in table.split(size):
            # A vector for each row of the batch, the same at every token that is selected.
            own = part.repeat(len(rows), 1)[:, None].expand(-1, most, -1)
            logits = fan.run(
                [Add(own, layers=self.layer, site=self.site, positions=self.positions)],
                times=len(part),
            )
            assert logits is not None
            steered = logits[:, -1].unflatten(0, (len(rows), len(part)))
            found.append(self._read(steered, fan.logits[:, None, -1], rows) - plain)
        return np.concatenate(found, axis=1).sum(0)

    def _read(self, logits: Tensor, plain: Tensor, rows: Sequence[Row]) -> np.ndarray:
        """float64 `[rows vectors]` of logits `[rows vectors d_vocab]`."""
        if self.measure == "kl":
            return kl(logits, plain.expand_as(logits)).cpu().double().numpy()
        answers = torch.tensor([row.answers for row in rows], device=logits.device)
        index = answers[:, None].expand(-1, logits.shape[1], -1)
        pair = logits.float().gather(-1, index).cpu().double()
        return (pair[..., 0] - pair[..., 1]).numpy()


def effects_on(
    adapter: Adapter,
    given: Any,
    *,
    bos: Bos,
    positions: Positions | None,
    layer: int,
    site: str,
) -> Effects:
    """Effects on contrast questions or texts; None is the openings of packaged texts.

    Raises:
        ArgumentError: nothing to read, or a selector that moves or that a text cannot satisfy.
    """
    if given is None:
        rows = tuple(Row(one, len(one)) for one in openings(adapter, bos))
        asks, source = False, TITLE
    else:
        (subject,) = subjects(adapter, {"prompt": given}, bos=bos, limit=None, column=None)
        rows, asks, source = subject.rows, subject.asks, str(getattr(given, "source", "given"))
    chosen = where.after_prompt() if positions is None else positions
    if not isinstance(chosen, Positions):
        raise ArgumentError(f"positions={positions!r}: a selector such as lp.positions.all().")
    if chosen.moves:
        raise ArgumentError(
            f"positions={chosen.describe()} moves with every token; effects are read in one pass."
        )
    prompts = [row.prompt for row in rows]
    chosen.check(all_prompts(adapter, [row.tokens for row in rows], prompts))
    measure = "log_odds" if asks else "kl"
    return Effects(adapter, rows, measure, chosen, layer, site, source)
