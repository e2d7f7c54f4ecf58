"""A sink of its own: does a model that has one still need its massive activation?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..corpus import positive_whole
from ..errors import ArgumentError, Interrupted, ModelError
from ..models.adapter import Adapter, adapter_for
from ..models.weights import weights_of
from ..running.fanning import tokens_that_fit
from ..running.session import Hook
from ..running.silencing import silence_neurons
from ..settings import current
from ..tokens import Bos, Encoded
from .comparing import threshold
from .dedicate_result import Dedicate
from .dedicate_run import Run, Variant, own_tokens
from .front import Front, averaged, fitted
from .neurons import neurons
from .onset import Onset, onset_of
from .trials import Material, each_run, material, word_names, words_of

__all__ = ["dedicate"]

WORDS = 4
"""Words of the texts that are repeated where none are given."""
LEAST = 4
"""Tokens of a sequence: after BOS and a first token something is left to be predicted."""


def dedicate(
    model: Any,
    texts: Any,
    *,
    words: Any = None,
    layer: int | None = None,
    steps: int = 0,
    learning_rate: float = 0.01,
    epsilon: float = 0.3,
    bos: Bos = "auto",
    length: int | None = None,
    limit: int | None = None,
    column: str | None = None,
    seed: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Dedicate:
    """Give the sink parameters of its own, and take the massive activation away.

    The virtual sink is a key and a value for every key-value head of every block: those of the sink
    position averaged over texts, put in front of the cache. Nothing computes them; the model
    needs no token, and no massive activation, to have them. Texts and repeated words are then read
    with it and without, plain, with the massive coordinate at zero, and without the sink neurons.

    Where texts begin with BOS its keys and values are the same in every text: the virtual sink then
    equals BOS, and behind it the plain model is the model as it is.

    Every second document is kept for measuring; the average, and the fit, are of the others. With a
    single document both are of that one, which the notes say.

    Args:
        model: a TransformerLens model. No tensor of it is changed.
        texts: whatever `lp.sinks.scan` takes.
        words: what is repeated, words of one token or token ids; None takes a few of the texts.
        layer: the sink layer, whose MLP writes the massive activation; None finds it.
        steps: how many steps of Adam fit the virtual sink further, the model frozen; 0 is none.
        learning_rate: of these, relative to the size of the keys and of the values.
        epsilon: least attention of a sink, exclusive.
        bos: whether sequences begin with BOS, which the virtual sink then replaces.
        length: longest sequence in tokens, also of the repeats; None is 64.
        limit, column: as in `lp.sinks.scan`.
        seed: of the fit and the bootstrap.
        batch_tokens, progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: an argument out of range; a word of several tokens; a text that is too short.
        HookPointError: the model keeps no attention patterns.
        ModelError: an encoder-decoder.
        Interrupted: Ctrl-C; `.partial` is the `Dedicate` of the finished runs.

    Examples:
        >>> texts = ["The cat sat.", "The dog lay."]
        >>> facts = lp.sinks.dedicate(model, texts, words="a", length=8).summary()
        >>> round(facts["loss own zero"] - facts["loss own plain"], 2)
        0.69
        >>> round(facts["loss virtual zero"] - facts["loss virtual plain"], 2)
        0.0
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.dedicate")
    least = threshold(epsilon)
    many, rate = _fit_options(steps, learning_rate)
    seeded = current("seed", seed) or 0
    tokens = tokens_that_fit(adapter, batch_tokens)
    read = material(
        adapter, texts, bos=bos, length=length, limit=limit, column=column,
        batch_tokens=batch_tokens, least=LEAST,
    )  # fmt: skip
    begins = _begins(adapter, read)
    ids = _common(read, WORDS) if words is None else words_of(adapter, words)
    onset = onset_of(adapter, layer)
    taught, held, note = _halves(read)
    front = averaged(adapter, [read.rows[i] for i in taught], tokens)
    fronts: dict[str, Front | None] = {"own": None, "virtual": front}
    curve = np.empty(0)
    own = [own_tokens(read.rows[i], begins) for i in taught]
    if many:
        fronts["fitted"], curve = fitted(
            adapter, front, own, steps=many, learning_rate=rate, seed=seeded, batch_tokens=tokens
        )
    kinds, facts, notes = _kinds(adapter, read, taught, onset, tokens)
    data = {
        "text": ([read.rows[i] for i in held], [read.documents[i] for i in held]),
        "repeats": (_repeated(read, ids, begins), list(range(len(ids)))),
    }
    plan = [Variant(group, name, kind) for group in data for name in fronts for kind in kinds]
    run = Run(adapter, data, fronts, kinds, onset, begins, least, tokens)
    found, complete = each_run(plan, run.measured, progress=progress)
    last = [one for one in fronts.values() if one is not None][-1]
    result = Dedicate(
        provenance={
            **adapter.provenance(),
            **read.facts,
            **onset.facts(),
            **facts,
            "epsilon": least,
            "steps": many,
            "learning_rate": rate,
            "seed": seeded,
            "complete": complete,
            "notes": [*read.notes, onset.note, *note, *notes],
        },
        effects=run.effects(plan, found, seeded),
        fit=pd.DataFrame({"step": np.arange(len(curve)), "loss": curve}),
        words=pd.DataFrame({"id": list(ids), "token": word_names(adapter, ids)}),
        keys=last.keys.float().cpu().numpy(),
        values=last.values.float().cpu().numpy(),
    )
    if not complete:
        raise Interrupted(f"interrupted after {len(found)} of {len(plan)} runs.", partial=result)
    return result


def _fit_options(steps: Any, learning_rate: Any) -> tuple[int, float]:
    many = 0 if steps == 0 and not isinstance(steps, bool) else positive_whole("steps", steps)
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, int | float):
        raise ArgumentError(f"learning_rate={learning_rate!r}: a positive number.")
    if not 0 < learning_rate < np.inf:
        raise ArgumentError(f"learning_rate={learning_rate!r}: a positive number.")
    return many, float(learning_rate)


def _begins(adapter: Adapter, read: Material) -> bool:
    """Whether every sequence begins with BOS; token ids are taken as they come."""
    token = getattr(getattr(adapter.model, "tokenizer", None), "bos_token_id", None)
    return bool(read.facts["bos"]) and all(row.ids[0] == token for row in read.rows)


def _common(read: Material, count: int) -> tuple[int, ...]:
    """The most common tokens of the texts, of those that no text begins with."""
    begin = {row.ids[0] for row in read.rows}
    tokens, counts = np.unique(
        [token for row in read.rows for token in row.ids if token not in begin], return_counts=True
    )
    if not len(tokens):
        raise ArgumentError("words=None: these texts hold no token but their first; name words.")
    return tuple(int(token) for token in tokens[np.argsort(-counts, kind="stable")[:count]])


def _halves(read: Material) -> tuple[list[int], list[int], list[str]]:
    """Sequences that the sink is made of, and those that are measured."""
    names = sorted(set(read.documents))
    measured = set(names[1::2])
    if not measured:
        everything = list(range(len(read.rows)))
        return everything, everything, ["one document: the sink was made of what it is measured on"]
    held = [i for i, name in enumerate(read.documents) if name in measured]
    return [i for i in range(len(read.rows)) if i not in set(held)], held, []


def _repeated(read: Material, words: Sequence[int], bos: bool) -> list[Encoded]:
    length = int(read.facts["length"])
    begin = read.rows[0].ids[:1] if bos else ()
    return [Encoded((*begin, *(word,) * (length - len(begin)))) for word in words]


def _kinds(
    adapter: Adapter, read: Material, taught: Sequence[int], onset: Onset, batch_tokens: int
) -> tuple[dict[str, Mapping[str, Hook]], dict[str, Any], list[str]]:
    """What is taken away, as hooks; which neurons they are; what could not be done."""

    def zero(residual: Tensor) -> Tensor:
        index = torch.tensor([onset.dim], device=residual.device)
        return residual.index_fill(-1, index, 0.0)

    kinds: dict[str, Mapping[str, Hook]] = {
        "plain": {},
        "zero": {adapter.hook_name("resid_post", onset.layer): zero},
    }
    try:
        found = neurons(
            adapter.model, [read.rows[i] for i in taught], layer=onset.layer, repeats=1, bos=False,
            length=int(read.facts["length"]), batch_tokens=batch_tokens, progress=False,
        ).provenance["kept"]  # fmt: skip
    except ModelError as error:
        return kinds, {"neurons": []}, [f"no neurons were taken away: {error}"]
    if not found:
        return kinds, {"neurons": []}, ["no neuron by itself makes the massive value"]
    chosen = [(onset.layer, int(neuron)) for neuron in found]
    kinds["neurons"] = silence_neurons(weights_of(adapter), chosen)
    return kinds, {"neurons": [list(pair) for pair in chosen]}, []
