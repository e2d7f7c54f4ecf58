"""All that another process needs to read pieces of a corpus as this one would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..corpus import Corpus, Window
from ..errors import ArgumentError, ModelError
from ..models.adapter import Adapter, adapter_for
from ..models.loading import load
from ..models.origin import loading
from .identity import weights_fingerprint

if TYPE_CHECKING:
    from ..scanning import Ranges, Reading
    from .run import Run

__all__ = ["Read", "Recipe", "recipe"]

Read = Callable[[Sequence[Window]], tuple[dict[str, np.ndarray], list[str]]]
"""Windows → the state of their statistics, and what was noted."""


@dataclass(frozen=True)
class Recipe:
    """A scan without its texts. Small, and the same wherever it is unpacked.

    Attributes:
        model: the name it is loaded by.
        options: those of `load` beside the device.
        device: where the model is here.
        weights: their fingerprint, so that a reader with other weights is seen.
        reading: makes the reading for a model.
        ranges: makes the column ranges for a model; None is whole batches.
        bos: whether windows begin with BOS.
        length: longest window.
        batch_tokens: most tokens of a batch.
    """

    model: str
    options: Mapping[str, Any]
    device: str
    weights: str
    reading: Callable[[Adapter], Reading]
    ranges: Callable[[Adapter], Ranges] | None
    bos: bool
    length: int
    batch_tokens: int

    def open(self, threads: int | None, device: str) -> Read:
        """Load the model in this process, and read with it.

        Args:
            threads: of a forward pass; None leaves torch's own.
            device: where it goes, unless it is spread over several.

        Raises:
            ModelError: it cannot be loaded here, or what is loaded has other weights.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        options = dict(self.options)
        if not options.get("device_map"):
            options["device"] = device
        model = load(self.model, **options)
        if weights_fingerprint(model) != self.weights:
            raise ModelError(
                f"{self.model!r} has other weights where a worker loads it than in the call: they were "
                "changed after loading, or the file is another one there."
            )
        return self._reader(model)

    def _reader(self, model: Any) -> Read:
        from ..scanning import Scan

        adapter = adapter_for(model)
        corpus = Corpus(
            adapter, iter(()), bos=self.bos, length=self.length, batch_tokens=self.batch_tokens
        )
        ranges = None if self.ranges is None else self.ranges(adapter)
        scan = Scan(adapter, corpus, self.reading(adapter), ranges)

        def read(windows: Sequence[Window]) -> tuple[dict[str, np.ndarray], list[str]]:
            # The model is held here; adapters know it weakly.
            assert model is not None
            return scan.alone(windows)

        return read


def recipe(
    scan: Run,
    reading: Callable[[Adapter], Reading],
    ranges: Callable[[Adapter], Ranges] | None,
) -> Recipe:
    """How other processes do what this scan does.

    Raises:
        ArgumentError: they could not: hooks of the user's own, dropout, or a model that was not loaded
            by its name.
    """
    adapter, corpus = scan.adapter, scan.corpus
    hooks = adapter.user_hooks()
    known = loading(adapter.model)
    why = None
    if hooks:
        why = f"hooks of your own are attached here ({', '.join(hooks)})"
    elif adapter.model.training:
        why = "the model is in training mode, where dropout would differ"
    elif known is None:
        why = "the model was not loaded by lp.load(name) alone, so that they could not load it too"
    if known is None or why:
        raise ArgumentError(f"workers and engine need other processes, but {why}.")
    options = {**known, "dtype": str(adapter.dtype).removeprefix("torch.")}
    return Recipe(
        model=options.pop("name"),
        options=options,
        device=str(adapter.device),
        weights=weights_fingerprint(adapter.model),
        reading=reading,
        ranges=ranges,
        bos=corpus.bos,
        length=corpus.length,
        batch_tokens=corpus.batch_tokens,
    )
