"""Go on training a model, and watch what becomes of its massive activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from ...errors import ArgumentError
from ...models.adapter import adapter_for
from ...models.copying import copied, named_weights
from ...tokens import Bos
from ..result import Finding, MassiveScan
from .asking import LARGEST, Asked
from .material import Material, gather
from .moments import Intervention
from .place import Place, Prefix
from .recipes import Recipe, listed, named_recipes
from .result import TrainingWatch
from .run import Setup
from .work import Work
from .writer import Writer, find_writer

__all__ = ["train_and_watch"]

Settings = str | Recipe | Mapping[str, Any] | Callable[[list[nn.Parameter]], Optimizer]


def train_and_watch(
    model: Any,
    texts: Any,
    *,
    optimizer: Settings | None = None,
    runs: Mapping[str, Settings] | None = None,
    steps: int = 100,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    warmup: int | None = None,
    interventions: Intervention | Sequence[Intervention] = (),
    watch: Sequence[int] | Literal["largest"] | None = None,
    at: Finding | MassiveScan | None = None,
    dim: int | None = None,
    position: int | None = None,
    layer: int | None = None,
    every: int | None = 10,
    account: bool = True,
    held_out: int | None = None,
    epsilon: float = 0.3,
    seeds: int | Sequence[int] = 0,
    batch_size: int = 8,
    length: int | None = None,
    bos: Bos = "auto",
    limit: int | None = None,
    column: str | None = None,
    batch_tokens: int | None = None,
    out: str | Path | None = None,
    checkpoints: int | Sequence[int] = (),
    save_every: int | None = None,
    progress: bool | None = None,
) -> TrainingWatch:
    """Go on training a copy of the model on next-token loss, and watch one value on the way.

    Each run trains a copy of its own, in eval mode (no dropout) and without hooks of the user's; the
    model itself is not touched. Runs of one seed meet the same sequences in the same order, so that
    they differ in their recipe alone. Every `every` steps a few sequences that are never trained on
    are read, and the step that follows is taken apart: its predicted effect ⟨∇v, Δθ⟩ on the value v, by
    component and tensor, beside the measured one; see `TrainingWatch`. Watching changes nothing about
    training: losses are the same, bit for bit, without it.

    Args:
        model: a TransformerLens model.
        texts: whatever `lp.massive.scan` takes; see `corpus`.
        optimizer: a name ("adamw", "adam", "sgd", "momentum", "nesterov", "muon"), a `Recipe`, a
            mapping of a recipe's settings, or a callable from parameters to an optimizer. None is
            "adamw", with fresh state.
        runs: several of those by name, instead of `optimizer`; the first is what others are compared
            with.
        steps: optimizer steps of each run.
        learning_rate: for every run whose recipe sets none; likewise `weight_decay` and `warmup`.
        interventions: on the optimizer's moments, in every run: `ScaleMoment`, `ZeroMoment`,
            `FreezeMoment`, `WarmStart`.
        watch: `[dim, position]`, short for the two options; or "largest": the largest magnitude in the
            stream wherever it is at the time, for models that have no massive activation yet.
        at: a finding of a scan, or the scan.
        dim: dimension of the residual stream, instead of `at`; without any, the watched sequences are
            scanned and the strongest massive activation is taken.
        position: of the token; with `dim` alone it is 0.
        layer: after which layer the value is read; None is where it is largest in the given model.
        every: steps from one look to the next, None for none.
        account: whether the steps that follow a look are taken apart.
        held_out: how many sequences are watched instead of trained on; None is half a batch.
        epsilon: least mean attention to the first token of a sink head, exclusive.
        seeds: of the order of the sequences; one or several.
        batch_size: sequences in one optimizer step.
        length: tokens of a sequence; None is 128.
        bos: whether sequences begin with BOS.
        limit: most documents that are read.
        column: which field of a record is the text.
        batch_tokens: most tokens in one forward pass; a larger batch adds up its gradient over
            several.
        out: a folder for states and checkpoints. Calling again with the same arguments goes on where
            the last call ended, however it ended, and gives the same numbers, bit for bit.
        checkpoints: after which steps the model is kept in `out` as a transformers folder, for
            `over_checkpoints`; one number is every so many steps, the first and the last included.
        save_every: steps from one state in `out` to the next; None is every five minutes.
        progress: True, False, or None for a bar when it takes long.

    Raises:
        ArgumentError: an argument out of range or unknown, too little text, nothing massive where no
            coordinate was named, an intervention that does not fit.
        ModelError: a model that cannot be trained (packed weights, an encoder-decoder).
        OutputError: `out` cannot be written.
        Interrupted: Ctrl-C; `.partial` holds what was recorded.

    Examples:
        >>> fresh, texts = lp.massive.untrained(), ["The cat sat.", "The dog lay."]
        >>> few = {"steps": 2, "every": 1, "batch_size": 1, "length": 8}
        >>> found = lp.massive.train_and_watch(fresh, texts, watch="largest", **few)
        >>> found.steps["step"].tolist(), found.steps["loss"].is_monotonic_decreasing
        ([0, 1, 2], True)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.massive.train_and_watch")
    chosen = _seeds(seeds)
    counts = {"steps": steps, "batch_size": batch_size, "every": every, "held_out": held_out}
    _check_counts(**counts, save_every=save_every)
    _check_epsilon(epsilon)
    kept = _checkpoints(checkpoints, steps, out)
    recipes = {
        name: recipe.filled(learning_rate, weight_decay, warmup, listed(interventions))
        for name, recipe in named_recipes(optimizer, runs).items()
    }
    nothing = every is None and all(value is None for value in (watch, at, dim, position))
    asked = Asked.of(LARGEST if nothing else watch, at, dim, position, layer)
    material = gather(
        adapter,
        texts,
        batch_size=batch_size,
        held_out=held_out,
        position=asked.position or 0,
        bos=bos,
        length=length,
        limit=limit,
        column=column,
        batch_tokens=batch_tokens,
    )
    first = copied(model).eval()
    if not any(weight.requires_grad for weight in first.parameters()):
        raise ArgumentError("model: all of its weights are frozen; there is nothing to train.")
    place, notes = asked.settle(adapter_for(first), material, batch_tokens)
    setup = Setup(
        material=material,
        steps=steps,
        every=every,
        account=account,
        place=place,
        writer=_writer(first, place, material, notes),
        epsilon=float(epsilon),
        batch_tokens=batch_tokens,
        checkpoints=kept,
        save_every=save_every,
    )
    work = Work(model, setup, recipes, chosen, None if out is None else Path(out), notes)
    return work.run(first, progress)


def _writer(model: Any, place: Place | None, material: Material, notes: list[str]) -> Writer | None:
    if place is None:
        return None
    adapter = adapter_for(model)
    prefix = Prefix(adapter, material.rows, place.position)
    writer = find_writer(adapter, place, prefix, named_weights(model))
    if writer is None:
        notes.append(f"no single layer's weights write {place}: nothing is listed as the writer's")
    return writer


def _seeds(seeds: Any) -> tuple[int, ...]:
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str)
    found: tuple[Any, ...] = tuple(seeds) if several else (seeds,)
    for seed in found:
        if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed.__index__() < 0:
            raise ArgumentError(f"seeds={seeds!r}: whole numbers, at least 0.")
    if not found:
        raise ArgumentError("seeds is empty; give at least one.")
    return tuple(dict.fromkeys(seed.__index__() for seed in found))


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        optional = name in ("every", "held_out", "save_every")
        if optional and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name}={value!r}: a positive whole number.")


def _check_epsilon(epsilon: Any) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, Real) or not 0 <= float(epsilon) < 1:
        raise ArgumentError(f"epsilon={epsilon!r}: an attention, at least 0 and below 1.")


def _checkpoints(given: Any, steps: int, out: Any) -> frozenset[int]:
    single = not isinstance(given, Sequence)
    if single:
        _check_counts(checkpoints=given)
    found = {*range(0, steps, given), steps} if single else set(given)
    for step in found:
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= steps:
            raise ArgumentError(f"checkpoints={given!r}: steps from 0 to {steps}.")
    if found and out is None:
        raise ArgumentError("checkpoints= needs out=, the folder in which they are kept.")
    return frozenset(found)
