"""Activation patching between two sequences: what moves the sink and the massive value, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus import positive_whole
from ..edits import Scale
from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter, adapter_for
from ..positions import between
from ..running.batching import progress_bar
from ..running.fanning import WHOLE, Fan, times_that_fit
from ..running.session import Hook, hooked
from ..tokens import Bos, Encoded, TokenBatch, as_texts, encoded, token_strings
from .comparing import threshold
from .onset import Onset, onset_of
from .patch_result import Patch

__all__ = ["patch"]

SITES = ("resid_pre", "attn_out", "mlp_out")
GROUP = 8
"""Positions that ride on one batch. Columns before the first of them are the unpatched run's."""
MEASURES = ("value", "attention", "sink_rate")


@torch.no_grad()
def patch(
    model: Any,
    clean: Any,
    corrupt: Any,
    *,
    sites: Sequence[str] = ("resid_pre",),
    layers: int | Sequence[int] | Literal["all"] = "all",
    n: int = 1,
    at: int | None = None,
    position: int = -1,
    layer: int | None = None,
    epsilon: float = 0.3,
    bos: Bos = "auto",
    progress: bool | None = None,
) -> Patch:
    """Put activations of one run into another, one site, layer and position at a time.

    Each cell of the map is the corrupt run with the activation of the clean run at one site, layer and
    position. Blocks below the patch and tokens before it are run once, and positions ride on the
    batch; every cell equals a whole pass of its own.

    Args:
        model: a TransformerLens model.
        clean: the sequence whose activations are taken; text or token ids.
        corrupt: the sequence that they are put into, of as many tokens.
        sites: some of "resid_pre", "attn_out", "mlp_out".
        layers: which layers.
        n: how many positions in a row are patched at once; as many as there are tokens patches
            everything at position 0.
        at: the one position of the clean run that every patch is taken from; None takes each from its
            own. With `clean` and `corrupt` the same, this patches between positions of one sequence.
        position: the token whose massive value is measured; negative ones count from the end.
        layer: the sink layer, after which that value is read; None finds it.
        epsilon: least attention of a sink, exclusive.
        bos: whether texts begin with BOS.
        progress: as in `lp.sinks.scan`.

    Raises:
        ArgumentError: sequences of different lengths or of one token; an unknown site, a layer or
            position out of range.
        ModelError: an encoder-decoder.
        HookPointError: the model lacks a site or keeps no attention patterns.
        Interrupted: Ctrl-C; `.partial` is the `Patch` of the finished cells.

    Examples:
        >>> found = lp.sinks.patch(model, "cat sat", "cat cat", layers=[1, 2], position=0)
        >>> found.grid("value", "resid_pre").shape, round(found.end("clean", "value"))
        ((2, 8), 3000)
    """
    adapter = adapter_for(model)
    adapter.require_decoder("lp.sinks.patch")
    chosen = adapter.layers(layers)
    wide = positive_whole("n", n)
    named = _sites(sites)
    rows = _pair(adapter, clean, corrupt, bos)
    length = len(rows[0])
    where = _place("position", position, length)
    source = None if at is None else _place("at", at, length)
    epsilon = threshold(epsilon)
    for site in named:
        adapter.hook_name(site, chosen[0])
    onset = onset_of(adapter, layer)
    run = _Map(adapter, rows, onset, where, source, wide, epsilon)
    complete = True
    cells = [(site, depth) for site in named for depth in chosen]
    try:
        run.read(cells, progress)
    except KeyboardInterrupt:
        complete = False
        if not run.found:
            raise Interrupted("interrupted before the first cell was read.") from None
    result = run.result(cells, bool(adapter.bos(bos)), complete)
    if not complete:
        raise Interrupted(f"interrupted after {len(run.found)} cells.", partial=result)
    return result


def _sites(sites: Any) -> tuple[str, ...]:
    listed = (sites,) if isinstance(sites, str) else tuple(sites)
    if not listed or any(site not in SITES for site in listed) or len(set(listed)) < len(listed):
        raise ArgumentError(f"sites={sites!r}: different ones of {', '.join(SITES)}.")
    return listed


def _pair(adapter: Adapter, clean: Any, corrupt: Any, bos: Bos) -> tuple[Encoded, Encoded]:
    found = []
    for name, given in (("clean", clean), ("corrupt", corrupt)):
        texts = as_texts(given)
        if len(texts) != 1:
            raise ArgumentError(f"{name}: one sequence; got {len(texts)}.")
        found.append(encoded(adapter, texts[0], bos))
    first, second = found
    if len(first) != len(second):
        raise ArgumentError(
            f"clean has {len(first)} tokens and corrupt {len(second)}; patching needs as many in both."
        )
    if len(first) < 2:
        raise ArgumentError("clean and corrupt have one token; at least 2 are needed.")
    return first, second


def _place(name: str, given: Any, length: int) -> int:
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise ArgumentError(f"{name}={given!r}: a whole number.")
    if not -length <= given < length:
        raise ArgumentError(f"{name}={given!r}: the sequences have {length} tokens.")
    return int(given) % length


@dataclass
class _Seen:
    """What one pass leaves.

    Attributes:
        attention: by layer, `[run head query]`: attention to key 0.
        value: `[run]`, the massive value at the position; None where the pass did not reach it.
    """

    attention: dict[int, Tensor]
    value: Tensor | None = None


class _Map:
    """The corrupt run, and what is put into it."""

    def __init__(
        self,
        adapter: Adapter,
        rows: tuple[Encoded, Encoded],
        onset: Onset,
        where: int,
        source: int | None,
        wide: int,
        epsilon: float,
    ) -> None:
        self.adapter, self.onset, self.where, self.epsilon = adapter, onset, where, epsilon
        self.source, self.wide, self.rows = source, wide, rows
        self.length = len(rows[0])
        self.batch = TokenBatch.pad(adapter, [rows[1]])
        self.found: dict[tuple[str, int, int], dict[str, float]] = {}
        self.notes: list[str] = []
        self.taken: dict[tuple[str, int], Tensor] = {}
        self.own: dict[tuple[str, int], Tensor] = {}

    def read(self, cells: Sequence[tuple[str, int]], progress: bool | None) -> None:
        """Every position of every site and layer."""
        clean = self._whole(self.rows[0], cells, self.taken)
        self.plain = self._whole(self.rows[1], cells, self.own)
        self.ends = {
            name: self._measures(self._stacked(seen), seen.value)[0]
            for name, seen in (("clean", clean), ("corrupt", self.plain))
        }
        with progress_bar("cell", progress, total=len(cells) * self.length) as bar:
            for begin in range(0, self.length, GROUP):
                places = range(begin, min(begin + GROUP, self.length))
                self._group(cells, places)
                bar.update(len(cells) * len(places))

    def _whole(
        self, row: Encoded, cells: Sequence[tuple[str, int]], kept: dict[tuple[str, int], Tensor]
    ) -> _Seen:
        """One run as it is, and its activations at the sites."""
        seen, hooks = self._watch(0)
        for site, layer in cells:
            point = self.adapter.hook_name(site, layer)
            hooks[point] = lambda x, key=(site, layer): kept.__setitem__(key, x[0].detach())
        ids = torch.tensor([row.ids], device=self.adapter.device)
        with hooked(self.adapter, hooks):
            self.adapter.run(ids, logits=None)
        return seen

    def _watch(self, first: int) -> tuple[_Seen, dict[str, Hook]]:
        """Hooks of a pass whose columns begin at `first`."""
        seen = _Seen({})
        column = self.where - first

        def value(residual: Tensor) -> None:
            # A patch behind the position cannot change it.
            if column >= 0:
                seen.value = residual[:, column].float().abs().amax(-1).double().cpu()

        hooks: dict[str, Hook] = {self.adapter.hook_name("resid_post", self.onset.layer): value}
        for layer in range(self.adapter.n_layers):

            def pattern(x: Tensor, layer: int = layer) -> None:
                seen.attention[layer] = x[..., 0].detach().double().cpu()

            hooks[self.adapter.hook_name("attn.pattern", layer)] = pattern
        return seen, hooks

    def _stacked(self, seen: _Seen) -> Float[Tensor, "run layer head query"]:
        return torch.stack([seen.attention[n] for n in range(self.adapter.n_layers)], 1)

    def _filled(self, seen: _Seen, first: int) -> Float[Tensor, "run layer head query"]:
        """Attention to key 0 of each run; what a branch did not run is the corrupt run's."""
        runs = len(next(iter(seen.attention.values())))
        whole = self._stacked(self.plain).repeat(runs, 1, 1, 1)
        for layer, paid in seen.attention.items():
            whole[:, layer, :, first:] = paid
        return whole

    def _measures(self, attention: Tensor, value: Tensor | None) -> list[dict[str, float]]:
        mean = attention.mean(-1)
        values = self.plain.value if value is None else value
        assert values is not None
        rates = (mean > self.epsilon).double().mean((1, 2))
        columns = values.expand(len(mean)), mean.mean((1, 2)), rates
        return [
            dict(zip(MEASURES, map(float, numbers), strict=True))
            for numbers in zip(*columns, strict=True)
        ]

    def _group(self, cells: Sequence[tuple[str, int]], places: Sequence[int]) -> None:
        """Some neighbouring positions: one fan, whose columns begin at the first of them."""
        window = between(places[0], self.length)
        anchors = {
            key: Scale(factor=1.0, site=key[0], layers=key[1], positions=window) for key in cells
        }
        fan = Fan(self.adapter, self.batch, list(anchors.values()), logits=None)
        if not fan.shared and WHOLE not in self.notes:
            self.notes.append(WHOLE)
        for key in cells:
            todo = [place for place in places if self._differs(key, place)]
            self.found |= {
                (*key, place): dict(self.ends["corrupt"]) for place in places if place not in todo
            }
            size = times_that_fit(fan, len(todo) or 1)
            for begin in range(0, len(todo), size):
                self._branch(fan, key, anchors[key], todo[begin : begin + size])

    def _span(self, place: int) -> range:
        return range(place, min(place + self.wide, self.length))

    def _patched(self, key: tuple[str, int], place: int) -> Float[Tensor, "span d_model"]:
        """The clean run's activations that go to the positions from `place` on."""
        span = self._span(place)
        held = self.taken[key]
        return held[list(span)] if self.source is None else held[[self.source] * len(span)]

    def _differs(self, key: tuple[str, int], place: int) -> bool:
        """Whether a patch there would change anything at all."""
        return not torch.equal(self._patched(key, place), self.own[key][list(self._span(place))])

    def _branch(self, fan: Fan, key: tuple[str, int], anchor: Scale, places: Sequence[int]) -> None:
        """One pass in which each row has its patch at one of the places."""

        def write(activation: Tensor) -> Tensor:
            out = activation.clone()
            for run, place in enumerate(places):
                span = [column - fan.first for column in self._span(place)]
                out[run, span] = self._patched(key, place).to(out)
            return out

        seen, hooks = self._watch(fan.first)
        # A layer below the branch does not run: what it would show is the corrupt run's.
        probes = {**hooks, self.adapter.hook_name(*key): write}
        fan.run([anchor], times=len(places), probes=probes)
        measured = self._measures(self._filled(seen, fan.first), seen.value)
        for place, one in zip(places, measured, strict=True):
            self.found[(*key, place)] = one

    def result(self, cells: Sequence[tuple[str, int]], bos: bool, complete: bool) -> Patch:
        """The map, and its two ends."""
        tokenizer = getattr(self.adapter.model, "tokenizer", None)
        tokens = [token_strings(tokenizer, row.ids) for row in self.rows]
        before, after = self.ends["corrupt"], self.ends["clean"]
        effects = []
        for (site, layer, place), found in sorted(self.found.items()):
            for name in MEASURES:
                change, whole = found[name] - before[name], after[name] - before[name]
                effects.append(
                    {
                        "measure": name,
                        "site": site,
                        "layer": layer,
                        "position": place,
                        "token": tokens[1][place],
                        "value": found[name],
                        "change": change,
                        "share": change / whole if whole else np.nan,
                    }
                )
        ends = [
            {"condition": side, "measure": name, "value": self.ends[side][name]}
            for side in ("clean", "corrupt")
            for name in MEASURES
        ]
        return Patch(
            provenance={
                **self.adapter.provenance(),
                **self.onset.facts(),
                "sites": list(dict.fromkeys(site for site, _ in cells)),
                "position": self.where,
                "at": self.source,
                "n": self.wide,
                "length": self.length,
                "bos": bos,
                "epsilon": self.epsilon,
                "complete": complete,
                "notes": [self.onset.note, *self.notes],
            },
            effects=pd.DataFrame(effects),
            ends=pd.DataFrame(ends),
            clean_tokens=tokens[0],
            corrupt_tokens=tokens[1],
        )
