"""One mixing input at one site and block, at several scales; and the tables of many such runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import Tensor

from ..models.adapter import Adapter
from ..running.forward import forward
from ..statistics import interval
from ..tokens import Encoded
from .forced import PLAIN, Reading, Strengths, check, read_again
from .measures import carry, kl, losses, mass, repetition
from .study import Sampling, text_of
from .vector import SteeringVector

__all__ = ["Base", "Cell", "base_of", "run_cell", "sizes_table", "sweep_table", "texts_table"]

MEASURES = ("kl", "logprob", "repetition", "carry", "probability")
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Base:
    """The base texts and what the plain model makes of them.

    Attributes:
        prompts: their tokens.
        inputs: the mixing inputs' tokens.
        completions: token ids of the plain completions.
        words: the same as texts.
        values: measure → float64 `[inputs texts]` of the plain model.
        sampling: how completions are chosen.
    """

    prompts: Sequence[Encoded]
    inputs: Sequence[Encoded]
    completions: Sequence[tuple[int, ...]]
    words: Sequence[str]
    values: Values
    sampling: Sampling

    def own(self, place: int, text: int) -> set[int]:
        """Tokens of a mixing input that a base text does not have."""
        return set(self.inputs[place].ids) - set(self.prompts[text].ids)


@dataclass(frozen=True)
class Cell:
    """One mixing input at one site and block.

    Attributes:
        site: where.
        layer: which block.
        place: which mixing input.
        scales: at which scales, ascending.
        values: measure → float64 `[texts scales]`.
        words: the completions, `[texts][scales]`.
        added: mean norm of the mixing rows but the first.
        present: median norm of the base texts' activations there, position 0 left out.
    """

    site: str
    layer: int
    place: int
    scales: tuple[float, ...]
    values: Values
    words: list[list[str]]
    added: float
    present: float


def base_of(
    adapter: Adapter,
    prompts: Sequence[Encoded],
    inputs: Sequence[Encoded],
    sampling: Sampling,
    progress: bool | None,
) -> Base:
    """Continue the base texts with the plain model and measure that.

    Raises:
        Interrupted: Ctrl-C.
    """
    completions, words = sampling.complete(adapter, prompts, ())
    rows = list(zip(prompts, completions, strict=True))
    readings = [Reading(prompt, ids, text) for text, (prompt, ids) in enumerate(rows)]
    pairs = [(a, b) for a in range(len(inputs)) for b in range(len(prompts))]
    shape = (len(inputs), len(prompts))
    found = Base(prompts, inputs, completions, words, {}, sampling)

    def reduce(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> np.ndarray:
        own = [mass(logits[PLAIN], found.own(a, index)).mean() for a in range(len(inputs))]
        loss = losses(logits[PLAIN], targets).cpu().double().mean()
        return np.array([-float(loss), *map(float, own)])

    read = np.array(read_again(adapter, readings, {}, reduce, progress=progress))
    repeated = np.array([repetition(ids) for ids in completions])
    carried = [carry(completions[b], inputs[a].ids, prompts[b].ids) for a, b in pairs]
    values = {
        "kl": np.zeros(shape),
        "logprob": np.broadcast_to(read[:, 0], shape),
        "repetition": np.broadcast_to(repeated, shape),
        "carry": np.reshape(carried, shape),
        "probability": read[:, 1:].T,
    }
    return Base(prompts, inputs, completions, words, values, sampling)


def run_cell(
    adapter: Adapter,
    base: Base,
    vector: SteeringVector,
    place: int,
    scales: tuple[float, ...],
    progress: bool | None,
) -> Cell:
    """Every base text at every scale, in rows of one batch; one scale at a time under user hooks.

    Raises:
        ArgumentError: the vector does not fit the base texts.
        Interrupted: Ctrl-C.
    """
    if len(scales) == 1 or not adapter.user_hooks():
        return _run(adapter, base, vector, place, scales, progress)
    cells = [_run(adapter, base, vector, place, (scale,), progress) for scale in scales]
    values = {
        name: np.concatenate([cell.values[name] for cell in cells], axis=1) for name in MEASURES
    }
    words = [[one[0] for one in row] for row in zip(*(cell.words for cell in cells), strict=True)]
    return replace(cells[0], scales=scales, values=values, words=words)


def _run(
    adapter: Adapter,
    base: Base,
    vector: SteeringVector,
    place: int,
    scales: tuple[float, ...],
    progress: bool | None,
) -> Cell:
    edit = vector.add(1.0)
    check(adapter, base.prompts, [edit])
    many = Strengths.of(base.prompts, edit, scales)
    completions, words = base.sampling.complete(adapter, many.prompts, [many.generating])
    owners = many.owners.tolist()
    again = [
        Reading(prompt, base.completions[text], text)
        for prompt, text in zip(many.prompts, owners, strict=True)
    ]
    written = [
        Reading(prompt, ids, text)
        for prompt, ids, text in zip(many.prompts, completions, owners, strict=True)
    ]

    def divergence(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> list[float]:
        own = base.own(place, owners[index])
        pair = kl(logits["mixed"], logits[PLAIN]), mass(logits["mixed"], own)
        return [float(found.cpu().double().mean()) for found in pair]

    def fluency(index: int, logits: Mapping[str, Tensor], targets: Tensor) -> float:
        return -float(losses(logits[PLAIN], targets).cpu().double().mean())

    steered = read_again(adapter, again, {"mixed": [many.edit]}, divergence, progress=progress)
    kls, masses = np.array(steered).T
    mixing = base.inputs[place].ids
    rows = zip(completions, owners, strict=True)
    values = {
        "kl": kls,
        "logprob": np.array(read_again(adapter, written, {}, fluency, progress=progress)),
        "repetition": np.array([repetition(ids) for ids in completions]),
        "carry": np.array([carry(ids, mixing, base.prompts[text].ids) for ids, text in rows]),
        "probability": masses,
    }
    shape = (len(base.prompts), len(scales))
    added, present = _sizes(adapter, base, vector)
    return Cell(
        vector.site,
        vector.layer,
        place,
        scales,
        {name: found.reshape(shape) for name, found in values.items()},
        [words[row : row + len(scales)] for row in range(0, len(words), len(scales))],
        added,
        present,
    )


def _sizes(adapter: Adapter, base: Base, vector: SteeringVector) -> tuple[float, float]:
    """How long the mixing rows are, and what they are added to; position 0 left out."""
    rows = np.linalg.norm(vector.values.astype(np.float64), axis=-1)
    texts = list(base.prompts)
    read = forward(adapter.model, texts, layers=vector.layer, site=vector.site, logits=None)
    norms = np.linalg.norm(read.activations[0].astype(np.float64), axis=-1)
    later = (read.tokens["position"] > 0).to_numpy()
    return _middle(rows[1:], np.mean), _middle(norms[later], np.median)


def _middle(values: np.ndarray, statistic: Callable[[np.ndarray], np.floating]) -> float:
    return float(statistic(values)) if len(values) else np.nan


# ---- tables ----------------------------------------------------------------------------------------


def sweep_table(base: Base, cells: Sequence[Cell]) -> pd.DataFrame:
    """See `SitesComparison.sweep`."""
    parts = []
    for site, layer in dict.fromkeys((cell.site, cell.layer) for cell in cells):
        mine = [cell for cell in cells if (cell.site, cell.layer) == (site, layer)]
        for measure in MEASURES:
            plain = base.values[measure][:, :, None]
            steered = np.stack([cell.values[measure] for cell in mine])
            # [inputs texts scales] -> scale by scale, the mean over inputs of each text.
            found = _known_mean(np.concatenate([plain, steered], axis=2)).T
            value, low, high = interval(found)
            cells_of = {"measure": measure, "value": value, "low": low, "high": high}
            scales = {"scale": [0.0, *mine[0].scales]}
            parts.append(pd.DataFrame({"site": site, "layer": layer, **scales, **cells_of}))
    return pd.concat(parts, ignore_index=True)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """The mean over mixing inputs of what is defined; NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(0) / known.sum(0)


def texts_table(adapter: Adapter, base: Base, cells: Sequence[Cell]) -> pd.DataFrame:
    """See `SitesComparison.texts`."""
    tokenizer = getattr(adapter.model, "tokenizer", None)
    prompts = [text_of(tokenizer, prompt.ids) for prompt in base.prompts]
    mixing = [text_of(tokenizer, one.ids) for one in base.inputs]
    parts = []
    for cell in cells:
        for text, prompt in enumerate(prompts):
            facts = {
                "site": cell.site,
                "layer": cell.layer,
                "scale": [0.0, *cell.scales],
                "mixing": mixing[cell.place],
                "text": text,
                "prompt": prompt,
                "completion": [base.words[text], *cell.words[text]],
            }
            values = {
                name: [base.values[name][cell.place, text], *cell.values[name][text]]
                for name in MEASURES
            }
            parts.append(pd.DataFrame({**facts, **values}))
    return pd.concat(parts, ignore_index=True)


def sizes_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """See `SitesComparison.sizes`."""
    rows = []
    for site, layer in dict.fromkeys((cell.site, cell.layer) for cell in cells):
        mine = [cell for cell in cells if (cell.site, cell.layer) == (site, layer)]
        added = float(np.mean([cell.added for cell in mine]))
        present = mine[0].present
        sizes = {"value": added, "median": present, "ratio": added / present}
        rows.append({"site": site, "layer": layer, **sizes})
    return pd.DataFrame(rows)
