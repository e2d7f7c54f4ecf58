"""A massive activation for every first token, at delimiters, and when the first token is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..errors import Interrupted
from ..models.adapter import Adapter, adapter_for
from ..settings import current, drawn_seed
from ..texts import default_texts
from ..tokens import Encoded
from .causes import causes_table
from .delimiters import delimiters_table
from .readout import Readout, peak_layers
from .result import Finding, MassiveScan
from .subject import Subject, subject
from .tokens_result import TokenStudy
from .vocabulary import (
    Sample,
    cases_of,
    exceptions_table,
    groups_table,
    read_tokens,
    tokens_table,
)

__all__ = ["tokens"]

LONGEST = 128
"""Tokens of each text that are read: enough for delimiters, and no more than that is needed."""
DOCUMENTS = 8


@torch.no_grad()
def tokens(
    model: Any,
    texts: Any = None,
    *,
    at: Finding | Sequence[Finding] | MassiveScan | None = None,
    dim: int | None = None,
    layer: int | None = None,
    n: int | Literal["all"] = 1000,
    bos: Literal["auto"] | bool | Sequence[bool] = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> TokenStudy:
    """Which tokens get a massive activation as the first one, and what about being first brings it.

    Each token of the vocabulary, or of a sample of it, is read alone and behind BOS. In texts,
    delimiters are read (Sun et al. 2402.17762, section 2.3, find massive activations at the first of
    them in some models), and the first token is changed one thing at a time: see `TokenStudy.causes`.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.massive.scan` takes; the beginning of each document is read. None is a
            few passages of the text that ships with lensprobe.
        at: a finding of a scan, a list of them, or the scan, which stands for its strongest finding;
            its dimension is looked at, at the positions named here.
        dim: a dimension of the residual stream, instead of `at`. Without both, the texts are scanned
            first and the strongest massive activation at position 0 is taken.
        layer: after which layer it is read. None is the layer at which it is largest in the texts.
        n: how many tokens of the vocabulary, drawn without replacement, besides common delimiters;
            `"all"` is every one.
        bos: whether the sampled tokens stand behind BOS; `"auto"` is both where the model has BOS.
            Texts begin as the model's own tokenizing has it.
        length: tokens of each document that are read; None is at most 128.
        limit: most documents; None is all that are given, or a few of the text that ships.
        seed: of the sample; None draws one and stores it in the result.
        column, batch_tokens, progress: as in `lp.massive.scan`.

    Raises:
        ArgumentError: an argument out of range, BOS asked of a model without it, nothing massive
            where nothing was named.
        ModelError: an encoder-decoder model.
        Interrupted: Ctrl-C; `.partial` is the `TokenStudy` of the finished tokens.

    Examples:
        >>> found = lp.massive.tokens(model, "The cat sat on the mat.", dim=447, n=8, seed=0)
        >>> found.cause()
        'position'
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.tokens")
    cases = cases_of(adapter, bos)
    chosen = None if layer is None else adapter.layer(layer)
    drawn = drawn_seed(seed)
    sample = Sample.draw(adapter, n, drawn)
    about = subject(
        adapter,
        default_texts() if texts is None else texts,
        at=at,
        dim=dim,
        position=0,
        length=current("length", length) or min(LONGEST, adapter.context),
        limit=DOCUMENTS if texts is None and limit is None else limit,
        column=column,
        batch_tokens=batch_tokens,
    )
    facts = {"sample": len(sample.ids), "seed": None if n == "all" else drawn}
    return _study(adapter, about, chosen, sample, cases, facts, batch_tokens, progress)


def _study(
    adapter: Adapter,
    about: Subject,
    layer: int | None,
    sample: Sample,
    cases: Sequence[bool],
    facts: dict[str, Any],
    batch_tokens: int | None,
    progress: bool | None,
) -> TokenStudy:
    rows = _beginnings(about)
    # A dimension found at several positions is looked at once, at these.
    targets = list({target.dim: target for target in about.each}.values())
    layers = [layer or 0] * len(targets)
    if layer is None:
        layers = peak_layers(adapter, targets, rows[:DOCUMENTS])
    readout = Readout(adapter, targets, layers)
    causes = causes_table(readout, rows, batch_tokens)
    plain = causes.loc[causes["kind"] == "plain", "value"].to_list()
    asked = [(case, token) for case in cases for token in sample.ids]
    found = read_tokens(readout, asked, batch_tokens, progress)
    if not found.answers:
        raise Interrupted("interrupted before the first tokens were read.")
    frame = tokens_table(readout, sample, asked, found.answers, plain)
    result = TokenStudy(
        provenance={
            **adapter.provenance(),
            **about.facts,
            **facts,
            "documents": len(rows),
            "sequences": len(rows),
            "tokens": sum(map(len, rows)),
            "complete": found.complete,
            "notes": [*about.facts["notes"], *found.notes],
        },
        groups=groups_table(readout, frame, found.answers),
        tokens=frame,
        exceptions=exceptions_table(frame),
        delimiters=delimiters_table(readout, rows, plain, batch_tokens),
        causes=causes,
    )
    if not found.complete:
        raise Interrupted(
            f"interrupted after {len(found.answers)} of {len(asked)} tokens.", partial=result
        )
    return result


def _beginnings(about: Subject) -> list[Encoded]:
    """The first piece of each document: only there is the first token the text's own."""
    first = dict(zip(about.documents[::-1], about.rows[::-1], strict=True))
    return [first[document] for document in dict.fromkeys(about.documents)]
