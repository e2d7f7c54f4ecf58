"""A mixing input's activations added at attention values and in the residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..errors import ArgumentError
from ..models.adapter import Adapter
from ..results import Result
from ..running.fanning import WHOLE
from ..tokens import Bos, Encoded, as_texts, encoded
from .citations import ACTADD
from .mixing import mixing as mixed
from .opening import amounts, opened_prompts, uninterruptible
from .site_runs import base_of, run_cell, sizes_table, sweep_table, texts_table
from .study import Sampling, text_of

__all__ = ["SitesComparison", "compare_sites"]

DEPTHS = (12 / 32, 20 / 32, 25 / 32)
"""Relative depths of the blocks of the follow-up note to the FLAN-T5 experiments (llama-7b)."""

SCALES: dict[str, tuple[float, ...]] = {
    "attn.v": (10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0),
    "resid_post": (0.25, 0.5, 1.0, 2.0, 4.0),
}
"""Sites and scales: values as in that note; in the residual stream 1 is an even mixture already."""


@dataclass(frozen=True, repr=False, eq=False)
class SitesComparison(Result):
    """A mixing input added once, front-aligned, at several sites, blocks and scales.

    Attributes:
        sweep: one row a site, layer, scale and measure, averaged over mixing inputs, with
            intervals over base texts: site, layer, scale, measure, value, low, high. Scale 0 is the
            unsteered line.
            The measures: `kl` (from plain, on the plain completion), `logprob` (of the completion,
            per token, under the plain model after the base text: fluency), `repetition`, `carry` (share
            of the mixing input's own tokens in the completion), `probability` (of those tokens
            together, on the plain completion).
        texts: one row a site, layer, scale, mixing input and base text: site, layer, scale, mixing,
            text, prompt, completion, and the measures.
        sizes: one row a site and layer: site, layer, value (mean norm of a mixing row), median (of the
            base text's own activation there), ratio: times the scale, how long the addition is
            beside what it is added to. Position 0 counts in neither.
    """

    kind: ClassVar[str] = "steering.sites"
    citations: ClassVar[tuple[str, ...]] = (ACTADD,)

    sweep: pd.DataFrame
    texts: pd.DataFrame
    sizes: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """For each site, the cell that carries most, with its fluency; and the unsteered values."""
        wide = self.sweep.pivot_table(
            index=["site", "layer", "scale"], columns="measure", values="value"
        ).reset_index()
        found: dict[str, Any] = {**super().summary(), "texts": self.provenance["texts"]}
        for site in dict.fromkeys(self.sweep["site"]):
            rows = wide[(wide["site"] == site) & (wide["scale"] != 0)]
            carried = np.asarray(rows["carry"], dtype=np.float64)
            best = rows.iloc[int(np.argmax(np.nan_to_num(carried)))]
            for name in ("layer", "scale", "carry", "logprob", "kl"):
                found[f"{site}_{name}"] = float(best[name])
        plain = wide[wide["scale"] == 0].iloc[0]
        return {
            **found,
            "plain_carry": float(plain["carry"]),
            "plain_logprob": float(plain["logprob"]),
        }


@torch.no_grad()
def compare_sites(
    model: Any,
    texts: Any,
    *,
    mixing: Any = None,
    scales: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    layers: Any = None,
    max_new_tokens: int = 24,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> SitesComparison:
    """Add the activations of a mixing input once, at attention values and in the residual stream.

    The mixing input is run alone; `scale` times its activations at one block and site are added to
    those of the base text at the same block and site, row i to token i, while the base text is read.

    What `scale` means differs by site. In the residual stream a token's vector is the sum of all that
    was written, and the next norm takes its length out again: 1 is an even mixture, and large scales
    leave the mixing input alone. At `attn.v` the values (all key-value heads side by side, before the
    output projection) are what other tokens receive in proportion to their attention; nothing
    normalises them before the output projection, and their sum is one of many terms in the residual,
    so that scales of 10 and more may be mild. `sizes` gives the lengths in this model.

    Args:
        model: a decoder-only TransformerLens model.
        texts: base texts, one or many; intervals are over them.
        mixing: the mixing inputs, one or many, each added to every base text; none is longer than
            the shortest base text, in tokens.
        scales: for both sites, or a mapping site → scales. None is 10 to 17 at `attn.v`, as in the
            note, and 0.25 to 4 in the residual stream.
        layers: blocks; None is those at 12/32, 20/32 and 25/32 of the depth.
        max_new_tokens: length of the completions, which are greedy.

    Raises:
        ArgumentError: no mixing input or one that is too long, an option out of range.
        HookPointError: a site that the model does not have.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; there is no partial result.

    Examples:
        >>> found = lp.steering.compare_sites(
        ...     model, "The cat.", mixing="A dog", scales=[1.0], layers=3, max_new_tokens=2
        ... )
        >>> sorted(found.sweep["site"].unique())
        ['attn.v', 'resid_post']
    """
    options = Sampling(max_new_tokens)
    adapter, rows = opened_prompts(
        model, texts, what="lp.steering.compare_sites", bos=bos, sampling=options
    )
    strengths = _amounts(scales)
    chosen = _depths(adapter) if layers is None else adapter.layers(layers)
    inputs = _inputs(adapter, mixing, rows, bos)
    for site, layer in product(strengths, chosen):
        adapter.hook_name(site, layer)
    with uninterruptible("compare_sites"):
        base = base_of(adapter, rows, inputs, options, progress)
        cells = []
        for site, layer in product(strengths, chosen):
            for place, one in enumerate(inputs):
                vector = mixed(model, list(one.ids), layer=layer, site=site)
                cells.append(run_cell(adapter, base, vector, place, strengths[site], progress))
    known = {
        "bos": adapter.bos(bos),
        **options.facts(),
        "layers": list(chosen),
        "scales": {site: list(found) for site, found in strengths.items()},
        "texts": len(rows),
        "mixing": [text_of(getattr(model, "tokenizer", None), one.ids) for one in inputs],
        "complete": True,
        "notes": [WHOLE] if adapter.user_hooks() else [],
    }
    return SitesComparison(
        provenance={**adapter.provenance(), **known},
        sweep=sweep_table(base, cells),
        texts=texts_table(adapter, base, cells),
        sizes=sizes_table(cells),
    )


def _amounts(scales: Any) -> dict[str, tuple[float, ...]]:
    """Site → scales, ascending, without the 0 that every curve begins with.

    Raises:
        ArgumentError: no scales, a number that is not finite, one twice.
    """
    given = SCALES if scales is None else scales
    if not isinstance(given, Mapping):
        given = dict.fromkeys(SCALES, given)
    if not given:
        raise ArgumentError("scales is an empty mapping; name at least one site.")
    return {str(site): amounts(values) for site, values in given.items()}


def _depths(adapter: Adapter) -> tuple[int, ...]:
    """The blocks at the note's relative depths."""
    places = {min(round(depth * adapter.n_layers), adapter.n_layers - 1) for depth in DEPTHS}
    return tuple(sorted(places))


def _inputs(adapter: Adapter, mixing: Any, prompts: Sequence[Encoded], bos: Bos) -> list[Encoded]:
    """The mixing inputs' tokens.

    Raises:
        ArgumentError: none is given, one is empty, or longer than some base text.
    """
    if mixing is None:
        raise ArgumentError("mixing: give at least one mixing input, such as a sentence.")
    inputs = [encoded(adapter, text, bos) for text in as_texts(mixing)]
    shortest = min(map(len, prompts))
    longest = max(map(len, inputs))
    if longest > shortest:
        raise ArgumentError(
            f"mixing: one input has {longest} tokens and a base text has {shortest}; added "
            "front-aligned, a mixing input is no longer than the base text."
        )
    return inputs
