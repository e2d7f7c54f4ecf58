"""One steering vector for each of several layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from typing_extensions import override

from .. import positions as where
from ..edits import Add, Clamp, ProjectOut
from ..errors import ArgumentError
from ..positions import Positions
from ..results import Shown
from .citations import ACTADD, CAA
from .vector import Scale, SteeringVector

__all__ = ["SteeringVectors"]


class SteeringVectors(Shown, Mapping[int, SteeringVector]):
    """An immutable mapping layer → vector, layers ascending; all at one site and of one shape.

    Arithmetic goes layer by layer, and two mappings that meet have the same layers.

    Args:
        vectors: the vectors, each of another layer; a mapping's keys are the layers.

    Raises:
        ArgumentError: no vectors, two of one layer, or different sites, stacks or shapes.

    Examples:
        >>> one, two = (lp.steering.SteeringVector([3.0, 4.0], layer=layer) for layer in (0, 1))
        >>> both = lp.steering.SteeringVectors([one, two])
        >>> list(both), (2 * both)[1].norm
        ([0, 1], 10.0)
    """

    kind: ClassVar[str] = "steering.vectors"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)
    __array_ufunc__ = None

    def __init__(self, vectors: Iterable[SteeringVector] | Mapping[int, SteeringVector]) -> None:
        given = list(vectors.values() if isinstance(vectors, Mapping) else vectors)
        if not given or not all(isinstance(v, SteeringVector) for v in given):
            raise ArgumentError("vectors: one or more steering vectors.")
        layers = [v.layer for v in given]
        if isinstance(vectors, Mapping) and list(vectors) != layers:
            raise ArgumentError(f"vectors of layers {layers} stand under the keys {list(vectors)}.")
        if len(set(layers)) < len(layers):
            raise ArgumentError(f"vectors: two are of one layer ({sorted(layers)}).")
        for name, found in (
            ("site", {v.site for v in given}),
            ("stack", {v.stack for v in given}),
            ("shape", {v.values.shape for v in given}),
        ):
            if len(found) > 1:
                raise ArgumentError(f"vectors: all have one {name}, not {found}.")
        self._vectors = {v.layer: v for v in sorted(given, key=lambda v: v.layer)}
        self.provenance = self._first.provenance

    def __getitem__(self, layer: int) -> SteeringVector:
        if layer not in self._vectors:
            raise KeyError(f"layer {layer}: there are vectors of the layers {list(self)}.")
        return self._vectors[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    # ---- facts -------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, ascending."""
        return tuple(self._vectors)

    @property
    def _first(self) -> SteeringVector:
        return next(iter(self._vectors.values()))

    @property
    def site(self) -> str:
        """Where in its block each vector belongs."""
        return self._first.site

    @property
    def stack(self) -> str | None:
        """ "encoder" or "decoder" in an encoder-decoder model, None in any other."""
        return self._first.stack

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self._first.width

    @property
    @override
    def tables(self) -> tuple[str, ...]:
        """Names that `to_frame(table)` takes."""
        return ("layers", "values")

    @override
    def summary(self) -> dict[str, float | int | str | bool]:
        """Layers, site, width, norms, how they were made, the model."""
        norms = [v.norm for v in self.values()]
        facts: dict[str, Any] = {"layers": len(self), "first": self.layers[0]}
        facts |= {"last": self.layers[-1], "site": self.site, "width": self.width}
        facts |= {"smallest_norm": min(norms), "largest_norm": max(norms)}
        if "method" in self.provenance:
            facts["method"] = str(self.provenance["method"])
        return {**facts, **super().summary()}

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """A tidy table.

        `layers`, the default: one row a layer with site, norm and cosine (to the vector of the layer
        before it in this mapping, NaN for the first or where one of the two is zero). `values`: one
        row a number, as `SteeringVector.to_frame`.

        Raises:
            ArgumentError: another table.
        """
        if table not in (None, *self.tables):
            raise ArgumentError(f"table={table!r}: these vectors have the tables layers, values.")
        if table == "values":
            return pd.concat([v.to_frame() for v in self.values()], ignore_index=True)
        norms = [v.norm for v in self.values()]
        cosines = [
            two.cosine(one) if one.norm and two.norm else float("nan")
            for one, two in pairwise(self.values())
        ]
        columns = {"layer": self.layers, "site": self.site, "norm": norms}
        return pd.DataFrame({**columns, "cosine": [float("nan"), *cosines]})

    def select(self, layers: Iterable[int]) -> SteeringVectors:
        """The vectors of some of the layers.

        Raises:
            ArgumentError: a layer that has none, or no layer.
        """
        wanted = list(layers)
        missing = [layer for layer in wanted if layer not in self._vectors]
        if missing:
            raise ArgumentError(f"layers={missing}: there are vectors of {list(self)}.")
        return SteeringVectors([self._vectors[layer] for layer in wanted])

    # ---- edits -------------------------------------------------------------------------------

    def add(
        self,
        scale: Scale = 1.0,
        positions: Positions | None = None,
        *,
        preserve_norm: bool = False,
    ) -> list[Add]:
        """The edits that add each vector at its own layer; see `SteeringVector.add`."""
        # One selector for all: it is asked once a step, whatever the number of layers.
        positions = self._first.default_positions() if positions is None else positions
        return [v.add(scale, positions, preserve_norm=preserve_norm) for v in self.values()]

    def project_out(self, positions: Positions | None = None) -> list[ProjectOut]:
        """The edits that remove each direction at its own layer."""
        positions = where.all() if positions is None else positions
        return [v.project_out(positions) for v in self.values()]

    def clamp(self, value: Scale, positions: Positions | None = None) -> list[Clamp]:
        """The edits that set the component along each vector at its own layer."""
        positions = where.all() if positions is None else positions
        return [v.clamp(value, positions) for v in self.values()]

    # ---- arithmetic --------------------------------------------------------------------------

    def __add__(self, other: Any) -> SteeringVectors:
        return self._paired(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> SteeringVectors:
        return self._paired(other, lambda a, b: a - b)

    def __neg__(self) -> SteeringVectors:
        return SteeringVectors([-v for v in self.values()])

    def __mul__(self, factor: Any) -> SteeringVectors:
        return SteeringVectors([v * factor for v in self.values()])

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> SteeringVectors:
        return SteeringVectors([v / factor for v in self.values()])

    def unit(self) -> SteeringVectors:
        """Each vector with norm 1; see `SteeringVector.unit`."""
        return SteeringVectors([v.unit() for v in self.values()])

    def match_norm(self, other: float | SteeringVectors) -> SteeringVectors:
        """Each vector with a given norm, or with that of the other mapping's vector of its layer."""
        if isinstance(other, SteeringVectors):
            return self._paired(other, lambda a, b: a.match_norm(b))
        return SteeringVectors([v.match_norm(other) for v in self.values()])

    def cosine(self, other: SteeringVectors) -> dict[int, float]:
        """Layer → cosine of the angle between the two vectors of that layer."""
        self._check_layers(other)
        return {layer: vector.cosine(other[layer]) for layer, vector in self.items()}

    def _paired(
        self, other: Any, join: Callable[[SteeringVector, SteeringVector], SteeringVector]
    ) -> SteeringVectors:
        self._check_layers(other)
        return SteeringVectors([join(vector, other[layer]) for layer, vector in self.items()])

    def _check_layers(self, other: Any) -> None:
        if not isinstance(other, SteeringVectors) or other.layers != self.layers:
            given = other.layers if isinstance(other, SteeringVectors) else type(other).__name__
            raise ArgumentError(f"vectors of the layers {self.layers} meet {given}.")

    # ---- files -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write all vectors to one `.safetensors` or `.gguf` file; see `SteeringVector.save`.

        Raises:
            OutputError: another suffix, a file that is there already, or that cannot be written.
            ArgumentError: `.gguf` cannot hold these vectors.
        """
        from .files import write

        return write(list(self.values()), path, single=False, overwrite=overwrite)
