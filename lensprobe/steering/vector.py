"""A steering vector: numbers, the place they belong to, and how they were made."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from .. import positions as where
from ..edits import EDITABLE, Add, Clamp, ProjectOut
from ..errors import ArgumentError, nearest
from ..models.sites import DEFAULT_SITE
from ..models.stacks import StackName
from ..positions import Positions
from ..results import Shown
from .citations import ACTADD, CAA

__all__ = ["SteeringVector"]

Scale = float | Tensor


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector(Shown):
    """A direction in one layer's stream, or one such vector for each of the first tokens.

    Vectors of the same place and shape add and subtract; a number multiplies and divides. Nothing
    is changed in place.

    Attributes:
        values: float32 `[width]`, or `[tokens width]` for a vector that has a row for each token.
            A tensor or a list is taken too.
        layer: the block it belongs to, counted from 0.
        site: where in that block.
        stack: "encoder" or "decoder" in an encoder-decoder model, None in any other.
        provenance: JSON: model, method, what it was made of, versions.

    Raises:
        ArgumentError: values that are not finite numbers of one or two axes, a layer that is no
            whole number from 0 on, a site that cannot be edited.

    Examples:
        >>> vector = lp.steering.SteeringVector([3.0, 4.0], layer=2)
        >>> (2 * vector).norm, round(vector.unit().norm, 6)
        (10.0, 1.0)
    """

    kind: ClassVar[str] = "steering.vector"
    citations: ClassVar[tuple[str, ...]] = (ACTADD, CAA)
    # numpy and torch scalars on the left leave the product to this class.
    __array_ufunc__ = None

    values: np.ndarray
    layer: int
    site: str = DEFAULT_SITE
    stack: StackName = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layer = self.layer
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or layer.__index__() < 0:
            raise ArgumentError(f"layer={layer!r}: a block's index, a whole number from 0 on.")
        if self.site not in EDITABLE:
            raise ArgumentError(
                f"site={self.site!r}: vectors are added at {', '.join(EDITABLE)}."
                f"{nearest(str(self.site), EDITABLE)}"
            )
        if self.stack not in (None, "encoder", "decoder"):
            raise ArgumentError(f'stack={self.stack!r}: "encoder", "decoder" or None.')
        object.__setattr__(self, "layer", layer.__index__())
        object.__setattr__(self, "values", _values(self.values))

    # ---- facts -------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self.values.shape[-1]

    @property
    def tokens(self) -> int | None:
        """How many tokens it has a row for; None for one vector that fits any token."""
        return None if self.values.ndim == 1 else len(self.values)

    @property
    def norm(self) -> float:
        """Euclidean norm, over all rows together."""
        return float(np.linalg.norm(self.values.astype(np.float64)))

    @property
    @override
    def tables(self) -> tuple[str, ...]:
        """The one table that `to_frame` gives."""
        return ("values",)

    @override
    def summary(self) -> dict[str, float | int | str | bool]:
        """Where it belongs, its size and norm, how it was made, the model."""
        facts: dict[str, Any] = {"layer": self.layer, "site": self.site}
        facts |= {} if self.stack is None else {"stack": self.stack}
        facts |= {} if self.tokens is None else {"tokens": self.tokens}
        facts |= {"width": self.width, "norm": self.norm}
        if "method" in self.provenance:
            facts["method"] = str(self.provenance["method"])
        return {**facts, **super().summary()}

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """One row a number: layer, site, position (with a row for each token), dim, value.

        Raises:
            ArgumentError: another table than `"values"`.
        """
        if table not in (None, *self.tables):
            raise ArgumentError(f"table={table!r}: a steering vector has the table values.")
        place = {"layer": self.layer, "site": self.site}
        rows = np.indices(self.values.shape).reshape(self.values.ndim, -1)
        columns = dict(zip(("position", "dim")[-len(rows) :], rows, strict=True))
        return pd.DataFrame({**place, **columns, "value": self.values.reshape(-1)})

    # ---- edits -------------------------------------------------------------------------------

    def add(
        self,
        scale: Scale = 1.0,
        positions: Positions | None = None,
        *,
        layers: Any = None,
        preserve_norm: bool = False,
    ) -> Add:
        """The edit that adds it, for `forward`, `generate`, `score` and `editing`.

        Args:
            scale: a number, or a `[batch]` tensor, one for each text.
            positions: None is `front()` for a vector with a row for each token, and
                `after_prompt()` for one vector.
            layers: None is its own layer; one or several, or `"all"`.
            preserve_norm: turn each token's stream instead of lengthening it; see `lp.Add`.
        """
        positions = self.default_positions() if positions is None else positions
        if not isinstance(positions, Positions):
            raise ArgumentError(f"positions={positions!r}: a selector such as lp.positions.all().")
        return Add(
            torch.tensor(self.values),
            scale=scale,
            preserve_norm=preserve_norm,
            **self._place(positions, layers),
        )

    def project_out(self, positions: Positions | None = None, *, layers: Any = None) -> ProjectOut:
        """The edit that removes its direction from the stream, by default at every token.

        Raises:
            ArgumentError: a vector with a row for each token.
        """
        vector = self._direction("project_out")
        return ProjectOut(vector, **self._place(positions or where.all(), layers))

    def clamp(
        self, value: Scale, positions: Positions | None = None, *, layers: Any = None
    ) -> Clamp:
        """The edit that sets the stream's component along it to `value`, by default everywhere.

        Raises:
            ArgumentError: a vector with a row for each token.
        """
        vector = self._direction("clamp")
        return Clamp(vector, value=value, **self._place(positions or where.all(), layers))

    def default_positions(self) -> Positions:
        """Where `add` adds it: `front()` with a row for each token, else `after_prompt()`."""
        return where.after_prompt() if self.tokens is None else where.front()

    def _place(self, positions: Positions, layers: Any) -> dict[str, Any]:
        """What every edit made of this vector is told about where it writes."""
        return {
            "layers": self.layer if layers is None else layers,
            "site": self.site,
            "stack": self.stack,
            "positions": positions,
            "origin": self.provenance.get("model"),
        }

    def _direction(self, call: str) -> Tensor:
        if self.tokens is not None:
            raise ArgumentError(f"{call}: a vector with a row for each token is no one direction.")
        return torch.tensor(self.values)

    # ---- arithmetic --------------------------------------------------------------------------

    def __add__(self, other: Any) -> SteeringVector:
        return self._joined(other, "+", np.add)

    def __sub__(self, other: Any) -> SteeringVector:
        return self._joined(other, "-", np.subtract)

    def __neg__(self) -> SteeringVector:
        return self._scaled(-1.0, "* -1")

    def __mul__(self, factor: Any) -> SteeringVector:
        if not isinstance(factor, Real) and not _is_scalar(factor):
            return NotImplemented
        return self._scaled(float(factor), f"* {float(factor):g}")

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> SteeringVector:
        if not isinstance(factor, Real) and not _is_scalar(factor):
            return NotImplemented
        if not float(factor):
            raise ArgumentError("a steering vector cannot be divided by zero.")
        return self._scaled(1.0 / float(factor), f"/ {float(factor):g}")

    def unit(self) -> SteeringVector:
        """This vector with norm 1, over all its rows together.

        Raises:
            ArgumentError: it is zero.
        """
        return self._scaled(1.0 / self._length(), "unit")

    def match_norm(self, other: float | SteeringVector) -> SteeringVector:
        """This vector with the norm of another one, or with a given norm.

        Raises:
            ArgumentError: it is zero, or the number is not positive.
        """
        norm = other.norm if isinstance(other, SteeringVector) else other
        if isinstance(norm, bool) or not isinstance(norm, Real) or not 0 < float(norm) < math.inf:
            raise ArgumentError(f"match_norm({norm!r}): a positive number, or a steering vector.")
        return self._scaled(float(norm) / self._length(), f"norm {float(norm):g}")

    def cosine(self, other: SteeringVector) -> float:
        """Cosine of the angle to another vector of the same shape, from any layer.

        Raises:
            ArgumentError: no steering vector, another shape, or one of the two is zero.
        """
        if not isinstance(other, SteeringVector) or other.values.shape != self.values.shape:
            raise ArgumentError(f"cosine: {other!r} is no vector of shape {self.values.shape}.")
        one, two = (v.values.astype(np.float64).reshape(-1) for v in (self, other))
        return float(one @ two / (self._length() * other._length()))

    def _length(self) -> float:
        if not self.norm:
            raise ArgumentError("this steering vector is zero and has no direction.")
        return self.norm

    def _joined(self, other: Any, sign: str, function: Any) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        for name in ("site", "stack", "layer"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ArgumentError(f"a vector at {name} {mine} {sign} one at {name} {theirs}.")
        if self.values.shape != other.values.shape:
            raise ArgumentError(
                f"vectors of shapes {self.values.shape} and {other.values.shape} have no "
                f"{'sum' if sign == '+' else 'difference'}."
            )
        warn_of_two_models(self.provenance, other.provenance)
        made: dict[str, Any] = {"method": f"a {sign} b", "of": [self.provenance, other.provenance]}
        if "model" in self.provenance:
            made["model"] = self.provenance["model"]
        return self._with(function(self.values, other.values), made)

    def _scaled(self, factor: float, what: str) -> SteeringVector:
        if not math.isfinite(factor):
            raise ArgumentError(f"a steering vector is multiplied by finite numbers, not {factor}.")
        steps = [*self.provenance.get("steps", ()), what]
        scaled = self.values.astype(np.float64) * factor
        return self._with(scaled, {**self.provenance, "steps": steps})

    def _with(self, values: np.ndarray, provenance: Mapping[str, Any]) -> SteeringVector:
        return SteeringVector(values, self.layer, self.site, self.stack, dict(provenance))

    # ---- files -------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a `.safetensors` file, or a control vector of llama.cpp and repeng as `.gguf`.

        `lp.open` reads both back.

        Raises:
            OutputError: another suffix, a file that is there already, or that cannot be written.
            ArgumentError: `.gguf` cannot hold this vector (see `steering.files`).
        """
        from .files import write

        return write([self], path, single=True, overwrite=overwrite)


def warn_of_two_models(one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    """Vectors of two models rarely mean anything together, but two names may be one model."""
    names = [made.get("model") for made in (one, two)]
    if None not in names and names[0] != names[1]:
        warnings.warn(f"vectors of two models meet: {names[0]!r} and {names[1]!r}.", stacklevel=4)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim == 0


def _values(given: Any) -> np.ndarray:
    """A read-only float32 copy."""
    try:
        if isinstance(given, Tensor):
            given = given.detach().to("cpu", torch.float64).numpy()
        with np.errstate(over="ignore"):
            values = np.array(given, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"values: numbers, an array or a tensor ({error}).") from error
    if values.ndim not in (1, 2) or not values.size:
        raise ArgumentError(
            f"values of shape {values.shape}: a vector is [width] or [tokens width]."
        )
    if not np.isfinite(values).all():
        raise ArgumentError("values hold NaN, infinity, or numbers too large for float32.")
    values.flags.writeable = False
    return values
