"""What was written while late layers saw the tokens that really came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..results import Result

__all__ = ["INTERPOLATED", "PLAIN", "Interpolation"]

INTERPOLATED, PLAIN = "interpolated", "plain"
"""Which model wrote a text."""


@dataclass(frozen=True, repr=False, eq=False)
class Interpolation(Result):
    """What was generated for each prompt, with and without the interpolation.

    Attributes:
        texts: one row a prompt and condition: text, condition ("interpolated", and "plain" where the
            plain model's own continuation was asked for), prompt, completion (special tokens left
            out), count (tokens).
        tokens: one row a generated token: text, condition, position (absolute), token, id, and
            logprob, entropy (both nats), rank (1 is the likeliest) under the model that wrote it,
            before temperature and filters; plain_logprob, plain_entropy, plain_rank under the plain
            model reading the same tokens.
    """

    kind: ClassVar[str] = "interpolation.generate"

    texts: pd.DataFrame
    tokens: pd.DataFrame

    @property
    def completions(self) -> list[str]:
        """What was written under the interpolation, one text for each prompt."""
        return list(self.texts.loc[self.texts["condition"] == INTERPOLATED, "completion"])

    def __str__(self) -> str:
        """Prompt and completion, as one reads them; the plain model's own is named."""
        names = {INTERPOLATED: "", PLAIN: "plain: "}
        rows = zip(
            self.texts["condition"], self.texts["prompt"], self.texts["completion"], strict=True
        )
        return "\n\n".join(f"{names[which]}{prompt}{text}" for which, prompt, text in rows)

    def summary(self) -> dict[str, Any]:
        """Model, where and how much, tokens, their mean log-probability with and without."""
        own = self.tokens[self.tokens["condition"] == INTERPOLATED]
        first = self.completions[0] if self.completions else ""
        blend = self.provenance["blend"]
        facts = {
            **super().summary(),
            "layers": str(blend["layers"]),
            "weights": str(blend["weights"]),
            "prompts": len(self.completions),
            "tokens": len(own),
        }
        for name in ("logprob", "plain_logprob"):
            if name in own and len(own):
                facts[name] = float(np.mean(np.asarray(own[name], dtype=float)))
        return {**facts, "first": repr(first if len(first) < 60 else first[:57] + "...")}
