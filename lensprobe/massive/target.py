"""Which coordinate an analysis is about: one dimension of the residual stream at one position.

Every analysis of this room takes `at=` (what a scan returns), or `dim=` and `position=`, or nothing,
and `resolve` turns that into `Target`s before any forward pass of the analysis is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, Interrupted
from ..models.adapter import Adapter
from ..models.sites import DEFAULT_SITE
from ..tokens import Encoded
from .result import Finding, MassiveScan
from .scan import scan

__all__ = ["RESIDUAL", "Group", "Target", "Targets", "named", "resolve"]

RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites whose dimensions are those of the residual stream."""


@dataclass(frozen=True)
class Target:
    """One coordinate of the residual stream, checked against the model and the texts.

    Attributes:
        dim: dimension of the residual stream.
        position: token position, from 0.
        layers: layers at which a scan found it massive, in order; empty where it was named by hand.
        site: where the scan read it.
    """

    dim: int
    position: int
    layers: tuple[int, ...] = ()
    site: str = DEFAULT_SITE

    def __str__(self) -> str:
        return f"dim {self.dim} at position {self.position}"


@dataclass(frozen=True)
class Group:
    """Coordinates of one vector, which are changed together.

    Attributes:
        dims: dimensions of the residual stream, in the order given.
        position: token position, from 0.
    """

    dims: tuple[int, ...]
    position: int

    def provenance(self) -> dict[str, Any]:
        """`dims` and `position`, for a result's provenance."""
        return {"dims": list(self.dims), "position": self.position}


def named(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """`dim` and `position` of a result about a group, as a summary shows them."""
    dims = provenance["dims"]
    dim = int(dims[0]) if len(dims) == 1 else ", ".join(map(str, dims))
    return {"dim": dim, "position": int(provenance["position"])}


@dataclass(frozen=True)
class Targets:
    """What `at=`, `dim=` and `position=` came to.

    Attributes:
        each: the coordinates, in the order given, without repeats; at least one.
        notes: what a reader of the result should know about how they were chosen.
    """

    each: tuple[Target, ...]
    notes: tuple[str, ...] = ()

    @property
    def one(self) -> Target:
        """The only target, for an analysis that takes one.

        Raises:
            ArgumentError: several were given.
        """
        first, *others = self.each
        if others:
            raise ArgumentError(
                f"at: this analysis takes one coordinate; got {len(self.each)} "
                f"({', '.join(map(str, self.each[:4]))})."
            )
        return first

    @property
    def group(self) -> Group:
        """All of them, for an analysis that changes them together.

        Raises:
            ArgumentError: they are at several positions.
        """
        places = sorted({target.position for target in self.each})
        if len(places) > 1:
            raise ArgumentError(f"at: coordinates at one position; got positions {places}.")
        return Group(tuple(target.dim for target in self.each), places[0])

    def provenance(self) -> dict[str, Any]:
        """`targets`: one entry a coordinate, for a result's provenance."""
        return {
            "targets": [
                {"dim": t.dim, "position": t.position, "layers": list(t.layers), "site": t.site}
                for t in self.each
            ]
        }


def resolve(
    adapter: Adapter,
    rows: Sequence[Encoded],
    *,
    at: Any = None,
    dim: int | None = None,
    position: int | None = None,
    batch_tokens: int | None = None,
) -> Targets:
    """The coordinates that `at=`, or `dim=` and `position=`, name on this model and these texts.

    Args:
        adapter: the model's.
        rows: the texts; each must have the position.
        at: a `Finding`, a list of them, or a `MassiveScan`, which stands for its strongest.
        dim: a dimension of the residual stream, instead of `at`.
        position: with `dim`, None is 0. With `at`, it takes the place of the finding's own, as a
            finding without one position needs. Alone, the strongest activation at that position.
        batch_tokens: of the scan that is made where neither `at` nor `dim` is given.

    Raises:
        ArgumentError: both `at` and `dim`; a dimension, layer or position out of range; a position
            that a text lacks; a finding of another site or without a position; nothing found.
        Interrupted: Ctrl-C while these texts were being scanned.
    """
    place = None if position is None else _whole("position", position)
    if at is not None and dim is not None:
        raise ArgumentError(f"at= and dim={dim!r}: give one of them.")
    if dim is not None:
        found, notes = [Target(_whole("dim", dim), place or 0)], ()
    elif at is not None:
        found, notes = [_of_finding(adapter, one, place) for one in _listed(at)], ()
    else:
        target, note = _strongest(adapter, rows, place, batch_tokens)
        found, notes = [target], (note,)
    each = tuple(dict.fromkeys(found))
    for target in each:
        _check(adapter, rows, target)
    return Targets(each, notes)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name}={value!r}: a whole number.")
    return value.__index__()


def _listed(at: Any) -> list[Finding | Target]:
    if isinstance(at, MassiveScan):
        return [at.strongest]
    found: list[Any] = list(at) if isinstance(at, Sequence) and not isinstance(at, str) else [at]
    if not found:
        raise ArgumentError("at=[]: name at least one finding.")
    for one in found:
        if not isinstance(one, Finding | Target):
            raise ArgumentError(
                f"at={one!r}: a finding of lp.massive.scan (scan.strongest, scan.at(1)), a list of "
                "them, or the scan itself."
            )
    return found


def _of_finding(adapter: Adapter, finding: Finding | Target, position: int | None) -> Target:
    if finding.site not in RESIDUAL:
        raise ArgumentError(
            f"at: it was found at site {finding.site!r}, whose dimensions are not those of the "
            f"residual stream; scan one of {', '.join(RESIDUAL)}."
        )
    above = [layer for layer in finding.layers if layer >= adapter.n_layers]
    if above:
        raise ArgumentError(
            f"at: it was found at layer {above[0]}; this model has {adapter.n_layers} layers, "
            f"0 to {adapter.n_layers - 1}. Was it found on another model?"
        )
    place = finding.position if position is None else position
    if position is None and place < 0:
        raise ArgumentError(
            f"at: dimension {finding.dim} is not always at the same position; add position=."
        )
    return Target(finding.dim, place, tuple(finding.layers), finding.site)


def _strongest(
    adapter: Adapter, rows: Sequence[Encoded], position: int | None, batch_tokens: int | None
) -> tuple[Target, str]:
    """The strongest massive activation of these texts that all of them have a position for."""
    longest, shortest = max(map(len, rows)), min(map(len, rows))
    try:
        found = scan(
            adapter.model,
            list(rows),
            bos=False,  # the texts are token ids by now
            length=longest,
            batch_tokens=batch_tokens,
            progress=False,
            dry_run=False,
        )
    except Interrupted as interrupt:
        raise Interrupted("interrupted while looking for the strongest activation.") from interrupt
    places = found.findings["position"].to_numpy()
    fits = (places >= 0) & (places < shortest) if position is None else places == position
    if not fits.any():
        where = "" if position is None else f" at position {position}"
        raise ArgumentError(
            f"no massive activation was found in these texts{where}; name dim= and position=."
        )
    finding = found.at(int(np.flatnonzero(fits)[0]))
    target = Target(finding.dim, finding.position, finding.layers, finding.site)
    return target, f"{target} is the strongest massive activation of these texts, by a scan of them"


def _check(adapter: Adapter, rows: Sequence[Encoded], target: Target) -> None:
    if not 0 <= target.dim < adapter.d_model:
        raise ArgumentError(
            f"dim={target.dim}: this model's residual stream has dimensions 0 to "
            f"{adapter.d_model - 1}."
        )
    if target.position < 0:
        raise ArgumentError(f"position={target.position}: positions count from 0, the first token.")
    short = [index for index, row in enumerate(rows) if len(row) <= target.position]
    if short:
        length = len(rows[short[0]])
        which = f"text {short[0]} has {length} token{'s' * (length != 1)}, 0 to {length - 1}"
        raise ArgumentError(
            f"position={target.position}: {which}."
            if len(rows) == 1
            else f"position={target.position}: {len(short)} of {len(rows)} texts are too short for "
            f"it; {which}."
        )
